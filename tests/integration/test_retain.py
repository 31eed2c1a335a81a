"""Retention over a real ledger: what goes, what must stay, and dying on the way."""

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import BUCKET, empty, parquet
from dying import Dead, Trap, Trapping, expire_leases
from test_drain import Failing
from test_operate import ask, operator
from test_swap import breaches, dying, planned, producing, rows, swapped, swapper

from spike_pipelines.domain.errors import Refused, Transient
from spike_pipelines.domain.retention import Kind, RetentionTerms
from spike_pipelines.domain.rewind import Earliest
from spike_pipelines.domain.swap import SwapState
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.services.retain import Retainer

pytestmark = pytest.mark.real

HOURS = timedelta(hours=1)
TERMS = RetentionTerms(grace=HOURS, snapshots=HOURS, keep_snapshots=1)
UUID = "0" * 32


def retainer(world, **parts):
    return Retainer(
        parts.get("ledger", world.ledger),
        parts.get("store", world.store),
        parts.get("catalog", world.catalog),
        world.spikes,
        TERMS,
    )


def retained(world, *, dry_run=False):
    return {r.kind: r for r in retainer(world).run(dry_run=dry_run) if r.spike == "payouts"}


def grow_old(world, by=2 * HOURS):
    """Time passes for objects, commits, clean-ups, snapshots and marks."""
    world.store.grow_old(by)
    seconds = by.total_seconds()
    world.execute(f"UPDATE commits SET committed_at = committed_at - interval '{seconds} s'")
    world.execute(f"UPDATE batches SET cleaned_at = cleaned_at - interval '{seconds} s'")
    world.execute(f"UPDATE files SET condemned_at = condemned_at - interval '{seconds} s'")
    for table in world.catalog._tables.values():
        table.history = [type(m)(m.sequence, m.at - by) for m in table.history]


@pytest.fixture
def driver(world):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 0)
    world.settle(driver.spike)
    return driver


def orphan(world, spike, epoch, name=f"000009-{UUID}/final/hour=1/part-0.parquet"):
    key = staging_prefix(spike, epoch) + name
    world.store.put(BUCKET, key, parquet(1))
    return key


# staging


def test_a_file_of_a_fenced_driver_that_was_never_registered_goes_after_grace(world, driver):
    key = orphan(world, driver.spike, 1)
    world.execute("UPDATE epochs SET state = 'retired'")
    assert retained(world)[Kind.STAGING].objects == 0
    grow_old(world)
    assert retained(world, dry_run=True)[Kind.STAGING].objects == 1
    assert world.keys("staging/") == [key]
    assert retained(world)[Kind.STAGING].objects == 1
    assert world.keys("staging/") == []


def test_a_file_of_the_open_epoch_stays_however_old(world, driver):
    key = orphan(world, driver.spike, 1)
    grow_old(world)
    assert retained(world)[Kind.STAGING].kept == 1
    assert world.keys("staging/") == [key]


def test_of_two_attempts_at_one_range_the_unregistered_one_goes(world, driver):
    name = f"000003-{UUID}/part.parquet"
    other = orphan(world, driver.spike, 1, f"000003-{'1' * 32}/part.parquet")
    mine = orphan(world, driver.spike, 1, name)
    world.execute(f"UPDATE files SET staging_key = '{mine}' WHERE kind = 'dead_letter'")
    grow_old(world)
    retained(world)
    assert other not in world.keys("staging/")


class Meanwhile:
    """A ledger; something happens right after its `nth` call."""

    def __init__(self, ledger, nth, act):
        self._ledger, self._left, self._act = ledger, nth, act

    def __getattr__(self, name):
        def call(*arguments, **named):
            found = getattr(self._ledger, name)(*arguments, **named)
            self._left -= 1
            if self._left == 0:
                self._act()
            return found

        return call


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("nth", range(1, 8))
def test_what_is_registered_while_retention_looks_stays(world, driver, nth, over):
    """A driver had to wait with its batch for longer than the grace time: one before it was held."""
    prefix, batch = staging_prefix(driver.spike, 1), driver.write()
    moved = {f: f"000001-{UUID}/{f.key}" for f in batch.files}
    for f, key in moved.items():
        world.store.put(BUCKET, prefix + key, world.store._buckets[BUCKET].pop(prefix + f.key).body)
    batch = replace(batch, files=tuple(replace(f, key=key) for f, key in moved.items()))
    world.store.grow_old(2 * HOURS)

    def act():
        driver.register(batch)
        if over:
            world.execute("UPDATE epochs SET state = 'retired'")

    tuple(retainer(world, ledger=Meanwhile(world.ledger, nth, act)).run())
    assert set(world.keys("staging/")) == {prefix + key for key in moved.values()}
    world.settle(driver.spike)
    assert breaches(world) == {}


def test_what_waits_to_be_promoted_or_published_stays_whatever_its_epoch(world, driver):
    driver.stage(4, 1, 1)
    driver.stage(4, 1, 1)
    world.promoter().promote(driver.spike, limit=1)
    world.execute("UPDATE epochs SET state = 'retired'")
    before = world.keys("staging/")
    grow_old(world)
    assert retained(world)[Kind.STAGING].objects == 0
    assert world.keys("staging/") == before
    assert breaches(world) == {}


def test_an_object_in_a_place_of_nobody_stays(world, driver):
    world.store.put(BUCKET, "staging/payouts/notes.txt", b"mine")
    grow_old(world, timedelta(days=999))
    retained(world)
    assert world.keys("staging/") == ["staging/payouts/notes.txt"]


def test_attempts_at_an_open_swap_stay_and_go_when_it_has_ended(world, driver):
    swap = planned(world, driver.spike)
    world.store.put(BUCKET, f"staging/payouts/{swap.lane}/000000-{UUID}/x.parquet", b"x")
    grow_old(world)
    assert retained(world)[Kind.STAGING].objects == 0
    swapper(world).abort(swap.number, "enough")
    assert retained(world)[Kind.STAGING].objects == 1


# uploads that nobody will complete


def test_what_a_spark_job_was_told_goes_after_grace(world, driver):
    key = f"{driver.spike.staging.key(driver.spike.name)}/orders/payouts-bf-1/order-1.json"
    world.store.put(BUCKET, key, b"{}")
    assert retained(world)[Kind.STAGING].objects == 0
    grow_old(world)
    assert retained(world)[Kind.STAGING].objects == 1
    assert key not in world.keys("staging/")


def test_uploads_that_a_killed_driver_or_copy_left_are_aborted_after_grace(world, driver):
    """As the magic committer's: parts of a file that no listing shows, and that are paid for."""
    places = ("staging/payouts/00000001/", "final/payouts/", "final/payouts_dead_letters/")
    for place in places:
        world.store.begin_upload(BUCKET, place + "part.parquet", 5_000)
    world.store.begin_upload(BUCKET, "staging/payouts-too/00000001/part.parquet", 7)
    found = retained(world)[Kind.UPLOAD]
    assert (found.objects, found.kept) == (0, 3)
    grow_old(world)
    assert retained(world, dry_run=True)[Kind.UPLOAD].size == 15_000
    assert len(list(world.store.uploads(BUCKET, ""))) == 4
    found = retained(world)[Kind.UPLOAD]
    assert (found.objects, found.size, found.kept) == (3, 15_000, 0)
    assert [u.key for u in world.store.uploads(BUCKET, "")] == ["staging/payouts-too/00000001/part.parquet"]


def test_a_store_that_lists_no_uploads_keeps_nothing_else_from_going(world, driver):
    """It asks for rights of its own, and a store may not know the call."""

    class Deaf:
        def __getattr__(self, name):
            return getattr(world.store, name)

        def uploads(self, *_):
            raise Refused("405 MethodNotAllowed")

    other = world.driver(world.spike("sessions"))
    grow_old(world)
    done = []
    with pytest.raises(Transient, match="payouts: 405 MethodNotAllowed; sessions: 405"):
        done.extend(retainer(world, store=Deaf()).run())
    kinds = {(r.spike, r.kind) for r in done}
    assert {(name, Kind.SNAPSHOT) for name in (driver.spike.name, other.spike.name)} <= kinds


def test_an_upload_of_unknown_age_stays(world, driver):
    upload = world.store.begin_upload(BUCKET, "staging/payouts/00000001/x.parquet", 1)
    world.store._uploads = {(BUCKET, replace(upload, begun_at=None)): 1}
    grow_old(world)
    assert retained(world)[Kind.UPLOAD].kept == 1


# superseded files


def test_superseded_files_go_once_published_past_grace_and_out_of_every_snapshot(world, driver):
    swapped(world, driver.spike, final=2)
    (dead,) = world.keys("final/payouts_dead_letters/")
    grow_old(world)
    assert retained(world)[Kind.SUPERSEDED].objects == 0, "not published yet"
    world.settle(driver.spike)
    grow_old(world)
    found = retained(world)
    assert (found[Kind.SNAPSHOT].objects, found[Kind.SUPERSEDED].objects) == (2, 0), "readers may be at it"
    assert retained(world)[Kind.SUPERSEDED].objects == 1
    assert dead not in world.keys("final/")
    assert rows(world, driver.spike) == {"payouts": 6, "payouts_dead_letters": 0}
    assert breaches(world) == {}


def test_a_superseded_file_stays_within_grace(world, driver):
    swapped(world, driver.spike, final=2)
    world.settle(driver.spike)
    for table in world.catalog._tables.values():
        table.history = table.history[-1:]  # no snapshot protects it
    assert retained(world)[Kind.SUPERSEDED].objects == 0
    assert len(world.keys("final/payouts_dead_letters/")) == 1
    grow_old(world)
    assert retained(world)[Kind.SUPERSEDED].objects == 1


def test_so_does_one_that_a_rewind_superseded(world, driver):
    operator(world).rewind(driver.spike, Earliest(), ask())
    world.settle(driver.spike)
    for table in world.catalog._tables.values():
        table.history = table.history[-1:]
    there = len(world.keys("final/"))
    assert retained(world)[Kind.SUPERSEDED].objects == 0
    assert len(world.keys("final/")) == there
    world.execute("UPDATE operations SET at = at - interval '2 hours'")
    assert retained(world)[Kind.SUPERSEDED].objects == 0, "it was published just now"
    grow_old(world)  # no commit follows: the tables' own snapshots tell
    assert retained(world)[Kind.SUPERSEDED].objects == there


def test_grace_counts_from_the_publication_however_long_ago_the_commit_was(world, driver):
    swapped(world, driver.spike, final=2)
    grow_old(world, timedelta(days=9))
    world.settle(driver.spike)
    for table in world.catalog._tables.values():
        table.history = table.history[-1:]  # no snapshot protects it
    assert retained(world)[Kind.SUPERSEDED].objects == 0
    assert len(world.keys("final/payouts_dead_letters/")) == 1


def test_on_a_busy_table_whose_old_snapshots_are_gone_clean_up_tells_when_it_was_published(world, driver):
    swapped(world, driver.spike, final=2)
    world.settle(driver.spike)
    grow_old(world)
    driver.stage(4, 1, 0)
    world.settle(driver.spike)
    for table in world.catalog._tables.values():
        table.history = table.history[-1:]  # made just now
    assert retained(world)[Kind.SUPERSEDED].objects == 1


def test_a_superseded_file_stays_while_a_snapshot_that_readers_can_reach_has_it(world, driver):
    swapped(world, driver.spike, final=2)
    world.settle(driver.spike)
    world.execute("UPDATE batches SET cleaned_at = cleaned_at - interval '9 days'")
    assert retained(world)[Kind.SUPERSEDED].objects == 0
    assert len(world.keys("final/payouts_dead_letters/")) == 1


def test_a_dry_run_deletes_nothing_and_counts_what_would_go(world, driver):
    swapped(world, driver.spike, final=2)
    world.settle(driver.spike)
    grow_old(world)
    before = world.keys("final/")
    assert retained(world, dry_run=True)[Kind.SNAPSHOT].objects == 2
    assert world.keys("final/") == before
    assert world.catalog.oldest_sequence("payouts") == 1


# tombstones


def aborted_with_copies(world, driver):
    swap = planned(world, driver.spike)
    with pytest.raises(Transient):
        dying(world, Trap("store.copy", 2, after=True)).finish(
            driver.spike, swap.number, producing(world, driver.spike)
        )
    expire_leases(world)
    return swapper(world).abort(swap.number, "enough")


def test_copies_of_aborted_intents_are_swept_and_swept_again(world, driver):
    end = aborted_with_copies(world, driver)
    assert end.state is SwapState.ABORTED
    copies = [k for k in world.keys("final/") if end.mark in k]
    assert copies
    assert breaches(world) == {}
    assert retained(world)[Kind.TOMBSTONE].objects == 2
    assert not [k for k in world.keys("final/") if end.mark in k]
    world.store.put(BUCKET, copies[0], parquet(1))  # a copy that was under way lands late
    assert retained(world)[Kind.AGAIN].objects == 0
    grow_old(world)
    assert retained(world)[Kind.AGAIN].objects == 2
    assert not [k for k in world.keys("final/") if end.mark in k]
    assert retained(world)[Kind.AGAIN].objects == 0


def test_live_files_are_never_condemned(world, driver):
    before = world.keys("final/")
    grow_old(world, timedelta(days=999))
    assert all(r.objects == 0 for r in retained(world).values() if r.kind is not Kind.SNAPSHOT)
    with world.ledger.begin() as tx:
        ids = [f.id for f in world.ledger.live_files("payouts", 1)]
        assert tx.now()
    world.ledger.mark_condemned(ids)
    assert world.keys("final/") == before
    assert breaches(world) == {}


def test_a_spike_whose_store_does_not_answer_delays_no_other_and_is_named(world, driver):
    other = world.driver(world.spike("session"))
    orphan(world, other.spike, 1)
    world.execute("UPDATE epochs SET state = 'retired'")
    grow_old(world)
    with pytest.raises(Transient, match="payouts: list of staging/payouts"):
        list(retainer(world, store=Failing(world.store, "staging/payouts")).run())
    assert world.keys("staging/session/") == []


# dying


@pytest.mark.parametrize(("after", "error"), [(False, Dead), (True, Transient)])
def test_whatever_deletion_a_run_dies_at_the_next_ones_end_the_same(world, after, error):
    for at in range(1, 60):
        empty(world.ledger)
        fresh = type(world)(world.ledger)
        driver = fresh.driver(fresh.spike())
        driver.stage(4, 2, 0)
        fresh.settle(driver.spike)
        aborted_with_copies(fresh, driver)
        swapped(fresh, driver.spike, final=1)
        fresh.settle(driver.spike)
        fresh.store.begin_upload(BUCKET, "staging/payouts/00000001/left.parquet", 1)
        grow_old(fresh)
        trap = Trap(None, at, after, error)
        dying_one = retainer(
            fresh,
            ledger=Trapping(fresh.ledger, trap, "ledger", {"mark_condemned", "mark_swept"}),
            store=Trapping(fresh.store, trap, "store", {"delete", "abort"}),
            catalog=Trapping(fresh.catalog, trap, "catalog", {"expire"}),
        )
        with contextlib.suppress(error):
            list(dying_one.run())
        assert breaches(fresh) == {}, f"died at {at}"
        for _ in range(3):
            list(retainer(fresh).run())
            grow_old(fresh)
        live = {f.final_key for f in fresh.ledger.live_files("payouts", fresh.dataset(driver.spike).sequence)}
        assert set(fresh.keys("final/")) == live, f"died at {at}"
        assert not list(fresh.store.uploads(BUCKET, "")), f"died at {at}"
        assert breaches(fresh) == {}, f"died at {at}"
        if not trap.sprung:
            assert at > 5
            return
    pytest.fail("a run has no bound")
