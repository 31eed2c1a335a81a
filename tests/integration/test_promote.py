"""Promotion and publication over a real ledger, killed before and after every single effect."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Event

import pytest
from builders import BUCKET, empty, parquet
from dying import Dead, Trap, Trapped, Trapping, expire_leases

from spike_pipelines.domain.batch import BatchState, FileState
from spike_pipelines.domain.errors import Conflict, LeaseLost, Transient
from spike_pipelines.domain.leases import lease_name
from spike_pipelines.services.promote import BATCH_METADATA, ETAG_METADATA, threads

pytestmark = pytest.mark.real


def positions(world, spike):
    return [(p.staged_end, p.committed_end) for p in world.ledger.all_positions()[spike.name].values()]


def states(world, spike):
    return [b.state for b in reversed(world.ledger.last_batches(spike.name, 99))]


def held_reason(world, spike):
    return world.ledger.last_batches(spike.name, 99)[-1].held_reason


@pytest.fixture
def driver(world):
    return world.driver(world.spike())


# the way of one batch


def test_batches_are_committed_oldest_first_up_to_the_limit(world, driver):
    numbers = [driver.stage().batch.number for _ in range(3)]
    done = world.promoter().promote(driver.spike, limit=2)
    assert [b.number for b in done] == numbers[:2]
    assert positions(world, driver.spike) == [(18, 12)]
    assert [b.number for b in world.promoter().promote(driver.spike, limit=9)] == numbers[2:]
    assert world.promoter().promote(driver.spike, limit=9) == ()


def test_committed_files_are_live_at_their_final_keys_and_say_where_they_came_from(world, driver):
    number = driver.stage().batch.number
    world.promoter().promote(driver.spike, limit=1)
    with world.ledger.begin() as tx:
        files = tx.files(number)
    assert {f.state for f in files} == {FileState.LIVE}
    assert sorted(f.final_key for f in files) == world.keys("final/")
    for f in files:
        info = world.store.head(BUCKET, f.final_key)
        assert info.metadata == {BATCH_METADATA: str(number), ETAG_METADATA: f.staging_etag}
        assert info.etag == f.final_etag


def test_a_batch_without_files_is_committed_too(world, driver):
    driver.stage(final=0, dead=0, filtered=5)
    assert len(world.promoter().promote(driver.spike, limit=1)) == 1
    assert positions(world, driver.spike) == [(5, 5)]


# what is not believed


def test_rows_are_counted_from_footers_and_a_mismatch_holds_the_batch(world, driver):
    batch = driver.write(final=4, dead=0, filtered=0)
    liar = replace(batch.files[0], rows=3)
    hours = (replace(batch.hours[0], final=3), batch.hours[1])
    driver.register(replace(batch, files=(liar, *batch.files[1:]), hours=hours, read=3))
    assert world.promoter().promote(driver.spike, limit=9) == ()
    assert states(world, driver.spike) == [BatchState.HELD]
    assert "has 2 rows, the driver said 3" in held_reason(world, driver.spike)
    assert world.keys("final/") == []
    assert positions(world, driver.spike) == [(4, 0)]


def test_fewer_records_than_offsets_hold_the_batch_unless_the_topic_has_gaps(world):
    for name, has_gaps in (("exact", False), ("gappy", True)):
        driver = world.driver(world.spike(name, topic_has_gaps=has_gaps))
        batch = driver.write(4, 0, 0)
        (r,) = batch.ranges
        driver.register(replace(batch, ranges=(replace(r, end=r.end + 1),)))
        assert bool(world.promoter().promote(driver.spike, limit=1)) is has_gaps


def spoil(world, driver, how):
    (first, *_) = world.keys("staging/")
    if how == "gone":
        world.store.delete(BUCKET, [first])
    else:
        body = world.store._bucket(BUCKET)[first].body
        world.store.put(
            BUCKET, first, {"other": bytes(len(body)), "bytes": bytes([*body[:4], 1, *body[5:]])}[how]
        )


@pytest.mark.parametrize("how", ["gone", "other", "bytes"])
def test_a_staged_file_that_is_gone_or_another_holds_the_batch(world, driver, how):
    driver.stage()
    spoil(world, driver, how)
    assert world.promoter().promote(driver.spike, limit=9) == ()
    assert states(world, driver.spike) == [BatchState.HELD]
    assert held_reason(world, driver.spike)


def test_a_held_batch_blocks_its_own_spike_only(world, driver):
    driver.stage()
    spoil(world, driver, "gone")
    driver.stage()
    other = world.driver(world.spike("session"))
    other.stage()
    for _ in range(2):
        assert world.promoter().promote(driver.spike, limit=9) == ()
    assert len(world.promoter().promote(other.spike, limit=9)) == 1
    assert states(world, driver.spike) == [BatchState.HELD, BatchState.STAGED]
    assert driver.stage().new


def intended(world, driver):
    """Stop between the intent and the first copy; answers the first final key."""
    with pytest.raises(Transient):
        Trapped(world, Trap("store.copy", 1, after=False)).promoter().promote(driver.spike, limit=1)
    expire_leases(world)
    with world.ledger.begin() as tx:
        return tx.files(tx.next_batch(driver.spike.name, "live").number)[0]


def test_a_final_object_of_our_own_earlier_copy_counts_as_copied(world, driver):
    driver.stage()
    file = intended(world, driver)
    metadata = {BATCH_METADATA: str(file.batch), ETAG_METADATA: file.staging_etag}
    world.store.copy(
        BUCKET,
        file.staging_key,
        file.final_key,
        source_etag=file.staging_etag,
        size=file.size,
        metadata=metadata,
    )
    assert len(world.promoter().promote(driver.spike, limit=1)) == 1


@pytest.mark.parametrize("whose", ["stranger", "other batch", "other source", "other bytes"])
def test_a_final_object_that_is_not_ours_is_never_overwritten_and_holds_the_batch(world, driver, whose):
    driver.stage()
    file = intended(world, driver)
    if whose == "stranger":
        world.store.put(BUCKET, file.final_key, parquet(2))
    elif whose == "other bytes":
        ours = {BATCH_METADATA: str(file.batch), ETAG_METADATA: file.staging_etag}
        world.store.put(BUCKET, file.final_key, bytes(file.size))
        objects = world.store._bucket(BUCKET)
        objects[file.final_key] = replace(objects[file.final_key], metadata=ours)
    else:
        wrong = {
            "other batch": {BATCH_METADATA: "0", ETAG_METADATA: file.staging_etag},
            "other source": {BATCH_METADATA: str(file.batch), ETAG_METADATA: "0"},
        }[whose]
        world.store.copy(
            BUCKET,
            file.staging_key,
            file.final_key,
            source_etag=file.staging_etag,
            size=file.size,
            metadata=wrong,
        )
    before = world.store.head(BUCKET, file.final_key)
    assert world.promoter().promote(driver.spike, limit=1) == ()
    assert "was not made by this batch" in held_reason(world, driver.spike)
    assert world.store.head(BUCKET, file.final_key) == before


def test_an_object_of_another_size_is_not_ours_where_its_etag_tells_nothing(world, driver):
    """As that of a copy in parts, or of one encrypted with a key of KMS."""
    driver.stage()
    file = intended(world, driver)
    ours = {BATCH_METADATA: str(file.batch), ETAG_METADATA: file.staging_etag}
    world.store.put(BUCKET, file.final_key, bytes(file.size - 1))
    objects = world.store._bucket(BUCKET)
    objects[file.final_key] = replace(objects[file.final_key], metadata=ours)

    class Opaque:
        def __getattr__(self, name):
            return getattr(world.store, name)

        def head(self, bucket, key):
            found = world.store.head(bucket, key)
            return found and replace(found, etag_is_md5=False)

    assert world.promoter(store=Opaque()).promote(driver.spike, limit=1) == ()
    assert "was not made by this batch" in held_reason(world, driver.spike)


# dying


def everything(world, spike):
    """All that must be the same however often somebody died on the way."""
    uris = {
        t: sorted(world.catalog.files(t).values()) for t in (spike.dataset.name, spike.dataset.dead_letters)
    }
    return {
        "positions": positions(world, spike),
        "states": states(world, spike),
        "sequence": world.dataset(spike).sequence,
        "published": world.dataset(spike).published,
        "final objects": len(world.keys("final/")),
        "staged objects": world.keys("staging/"),
        "tables": uris,
    }


EXPECTED = {
    "positions": [(10, 10)],
    "states": [BatchState.COMMITTED] * 2,
    "sequence": 2,
    "published": 2,
    "final objects": 3,
    "staged objects": [],
    "tables": {"payouts": [2, 2], "payouts_dead_letters": [1]},
}


def two_batches(world):
    driver = world.driver(world.spike())
    driver.stage(4, 1, 1)
    driver.stage(0, 0, 4)
    return driver.spike


def test_nobody_dies(world):
    spike = two_batches(world)
    world.settle(spike)
    assert everything(world, spike) == EXPECTED
    assert all(finding.ok for finding in world.audit().values())


@pytest.mark.parametrize(
    ("after", "error"), [(False, Dead), (True, Transient)], ids=["killed before it", "no answer to it"]
)
def test_whatever_effect_a_run_dies_at_the_next_one_ends_in_the_same_state(world, after, error):
    """Each effect in turn, until a run has fewer of them than `at`. (To be killed after one is to be
    killed before the next.)"""
    for at in range(1, 200):
        empty(world.ledger)
        fresh = type(world)(world.ledger)
        spike = two_batches(fresh)
        trap = Trap(None, at, after, error)
        with contextlib.suppress(error, LeaseLost):
            Trapped(fresh, trap).settle(spike)
        if not trap.sprung:
            assert at > 20
            return
        expire_leases(fresh)
        fresh.settle(spike)
        assert everything(fresh, spike) == EXPECTED, f"died {'after' if after else 'before'} effect {at}"
        breached = {k: f.breaches for k, f in fresh.audit().items() if not f.ok}
        assert not breached, f"died {'after' if after else 'before'} effect {at}"
    pytest.fail("a run has no bound")


def test_a_commit_of_unknown_outcome_is_read_back_and_not_done_twice(world, driver):
    driver.stage()
    trap = Trap("ledger.commit", 4, after=True)  # looks: next, files; writes: intent, commit
    with pytest.raises(Transient):
        Trapped(world, trap).promoter().promote(driver.spike, limit=1)
    assert states(world, driver.spike) == [BatchState.COMMITTED]
    assert world.promoter().promote(driver.spike, limit=1) == ()
    assert world.dataset(driver.spike).sequence == 1


# two at once


def test_while_one_promotes_another_gets_nothing(world, driver):
    driver.stage()
    lease = world.ledger.acquire(lease_name(driver.spike.name), "other", 10)
    assert world.promoter().promote(driver.spike, limit=1) == ()
    world.ledger.release(lease)
    assert len(world.promoter().promote(driver.spike, limit=1)) == 1


def test_of_many_promoters_at_once_each_batch_is_committed_by_one(world, driver):
    numbers = [driver.stage().batch.number for _ in range(4)]
    together = Barrier(4)

    def promote(i):
        together.wait()
        return [b.number for b in world.promoter(str(i)).promote(driver.spike, limit=9)]

    with ThreadPoolExecutor(4) as pool:
        done = [n for found in pool.map(promote, range(4)) for n in found]
    assert sorted(done) == numbers
    assert world.dataset(driver.spike).sequence == 4


class TakenOver:
    """An object store that is so slow that another run takes over before the first copy."""

    def __init__(self, world, meanwhile):
        self._world, self._meanwhile = world, meanwhile

    def __getattr__(self, name):
        return getattr(self._world.store, name)

    def copy(self, *arguments, **named):
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()
        return self._world.store.copy(*arguments, **named)


@pytest.mark.parametrize("other", ["none", "acquires", "commits", "cleans"])
def test_a_holder_whose_lease_is_over_commits_and_holds_nothing(world, driver, other):
    driver.stage()

    def meanwhile():
        expire_leases(world)
        if other == "acquires":
            world.ledger.acquire(lease_name(driver.spike.name), "other", 10)
        if other == "commits":
            world.promoter("other").promote(driver.spike, limit=1)
        if other == "cleans":
            world.settle(driver.spike)

    slow = world.promoter("slow", store=TakenOver(world, meanwhile))
    with pytest.raises(LeaseLost):
        slow.promote(driver.spike, limit=1)
    done = other in {"commits", "cleans"}
    assert states(world, driver.spike) == [BatchState.COMMITTED if done else BatchState.INTENDED]
    assert world.dataset(driver.spike).sequence == int(done)
    expire_leases(world)
    world.settle(driver.spike)
    assert all(finding.ok for finding in world.audit().values())


def test_a_batch_of_very_many_files_renews_its_lease_while_it_counts_and_copies(world, driver):
    renewed = []

    class Counting(Trapping):
        def renew(self, lease, seconds):
            renewed.append(lease.token)
            return self._inner.renew(lease, seconds)

    batch = driver.write(2, 0, 0)
    files = [
        driver._put(f"many/{i}-{n}.parquet", f.kind, f.hour, 1)
        for i in range(40)
        for n, f in enumerate(batch.files)
    ]
    hours = tuple(replace(h, final=40) for h in batch.hours)
    (r,) = batch.ranges
    driver.register(replace(batch, files=tuple(files), hours=hours, read=80, ranges=(replace(r, end=80),)))
    world.promoter(ledger=Counting(world.ledger, Trap(None, 0, after=False), "", set())).promote(
        driver.spike, limit=1
    )
    assert states(world, driver.spike) == [BatchState.COMMITTED]
    assert len(renewed) == 1 + 3 + 1 + 3  # for the batch, its footers, the look at its tables, its copies


class Patient:
    """A ledger that counts renewals, and parts whose named call takes until so many came."""

    def __init__(self, world, slow, renewals=6):
        self._world, self._slow = world, slow
        self.left = renewals
        self.enough = Event()

    def renew(self, lease, seconds):
        self.left -= 1
        if self.left == 0:
            self.enough.set()
        return self._world.ledger.renew(lease, seconds)

    def __getattr__(self, name):
        return getattr(self._world.ledger, name)

    def slowed(self, part):
        patient = self

        class Slow:
            def __getattr__(self, name):
                call = getattr(part, name)

                def wait(*arguments, **named):
                    assert patient.enough.wait(60), "the lease was not renewed meanwhile"
                    return call(*arguments, **named)

                return wait if name == patient._slow else call

        return Slow()


@pytest.mark.parametrize("slow", ["footer", "misfit", "copy"])
def test_a_step_that_takes_longer_than_a_lease_keeps_it(world, driver, slow):
    """An object of many gigabytes, a store that crawls, ten thousand files to look into."""
    driver.stage()
    ledger = Patient(world, slow)
    promoter = world.promoter(ledger=ledger, store=ledger.slowed(world.store), pool=threads, seconds=5)
    promoter = replace(promoter, catalog=ledger.slowed(world.catalog))
    assert len(promoter.promote(driver.spike, limit=1)) == 1
    assert ledger.left <= 0


def test_a_lease_that_is_lost_while_files_are_copied_ends_the_promotion_without_a_commit(world, driver):
    driver.stage()
    taken = Event()

    class Ledger(Patient):
        def renew(self, lease, seconds):
            if self.left < 4 and not taken.is_set():
                world.execute("UPDATE leases SET token = token + 1, holder = 'another'")
                taken.set()
            return super().renew(lease, seconds)

    ledger = Ledger(world, "copy")
    ledger.enough = taken
    promoter = world.promoter(ledger=ledger, store=ledger.slowed(world.store), pool=threads, seconds=5)
    with pytest.raises(LeaseLost):
        promoter.promote(driver.spike, limit=1)
    assert states(world, driver.spike) == [BatchState.INTENDED]


def test_what_has_not_begun_when_a_copy_fails_never_begins(world, driver):
    """The pool has one thread: the copies behind the one that fails wait for it."""
    driver.stage()
    store = Trapping(world.store, trap := Trap("store.copy", 1, after=False), "store", {"copy"})
    with pytest.raises(Transient):
        world.promoter(store=store, pool=lambda: ThreadPoolExecutor(1)).promote(driver.spike, limit=1)
    assert trap.seen <= 2


def test_copies_may_run_side_by_side(world, driver):
    driver.stage()
    assert len(world.promoter(pool=threads).promote(driver.spike, limit=1)) == 1
    assert len(world.keys("final/")) == 3


# publication and cleaning


def test_publishing_again_changes_nothing(world, driver):
    driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    state = world.dataset(driver.spike)
    for _ in range(2):
        world.publisher.publish(driver.spike, state)
    assert world.catalog.sequence("payouts") == 1
    assert len(world.catalog.files("payouts")) == 2


def test_publication_catches_up_over_many_commits_in_one_snapshot(world, driver):
    for _ in range(4):
        driver.stage()
    world.promoter().promote(driver.spike, limit=9)
    published = []
    original = world.catalog.publish
    world.catalog.publish = lambda *a, **k: published.append(a) or original(*a, **k)
    world.publisher.publish(driver.spike, world.dataset(driver.spike))
    assert published == [("payouts",), ("payouts_dead_letters",)]
    assert world.catalog.sequence("payouts") == 4
    assert len(world.catalog.files("payouts")) == 8


def test_a_late_publisher_with_an_old_state_does_not_take_a_table_back(world, driver):
    driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    old = world.dataset(driver.spike)
    driver.stage()
    world.settle(driver.spike)
    world.publisher.publish(driver.spike, old)
    assert world.catalog.sequence("payouts") == world.dataset(driver.spike).published == 2


def test_of_publishers_at_once_none_adds_a_file_twice(world, driver):
    for _ in range(4):
        driver.stage()
    world.promoter().promote(driver.spike, limit=9)
    together = Barrier(4)

    def publish(_):
        together.wait()
        try:
            world.publisher.publish(driver.spike, world.dataset(driver.spike))
        except Conflict:
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    world.publisher.publish(driver.spike, world.dataset(driver.spike))
    assert all(finding.ok for finding in world.audit().values())


def test_staging_is_removed_only_once_published(world, driver):
    driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    assert world.publisher.clean(driver.spike) == 0
    assert len(world.keys("staging/")) == 3
    world.publisher.publish(driver.spike, world.dataset(driver.spike))
    driver.stage()
    assert world.publisher.clean(driver.spike) == 1
    assert len(world.keys("staging/")) == 3
    assert world.publisher.clean(driver.spike) == 0
