"""Held batches, rewinds and accepted losses over a real ledger: alone, against each other, and killed."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from threading import Barrier

import pytest
from builders import BUCKET, HOUR
from waiting import until_it_waits_for_a_lock

from spike_pipelines.domain.batch import LIVE_LANE, BatchState, FileState
from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.errors import (
    Conflict,
    Fenced,
    InvariantBroken,
    LeaseLost,
    Lost,
    Refused,
    SpecChanged,
    Transient,
)
from spike_pipelines.domain.operations import Author, OperationKind
from spike_pipelines.domain.rewind import Earliest, ToOffsets
from spike_pipelines.domain.spike import Start
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.promote import lease_name

pytestmark = pytest.mark.real

_names = count()


def ask(name=None, who="ann@desk", why="a test"):
    return Request(name or f"request-{next(_names)}", Author(who, why))


def operator(world, ledger=None) -> Operator:
    return Operator(ledger or world.ledger, world.broker, world.store)


def to(spike, offset, index=0):
    return ToOffsets(spike.topic, {index: offset})


def positions(world, spike):
    return [
        (p.baseline, p.committed_end, p.staged_end)
        for _, p in sorted(world.ledger.all_positions()[spike.name].items())
    ]


def states(world, spike):
    return [b.state.value for b in reversed(world.ledger.last_batches(spike.name, 99))]


def numbers(world, spike):
    return [b.number for b in reversed(world.ledger.last_batches(spike.name, 99))]


def rows(world, spike):
    """What readers see: rows of the final table and of the dead letters."""
    return tuple(
        sum(world.catalog.files(t).values()) for t in (spike.dataset.name, spike.dataset.dead_letters)
    )


def clean(world):
    broken = {k: f.breaches for k, f in world.audit().items() if not f.ok}
    assert not broken


def hold(world, driver, *, short=1):
    """A batch that read `short` records fewer than its range has."""
    batch = driver.write(4, 1, 1)
    (r,) = batch.ranges
    longer = replace(batch, ranges=(replace(r, end=r.end + short),))
    number = driver.register(longer).batch.number
    driver.ends = {r.partition: r.end + short}
    world.settle(driver.spike)
    assert states(world, driver.spike)[-1] == "held"
    return number


@pytest.fixture
def driver(world):
    return world.driver(world.spike())


# release


def test_a_released_batch_is_promoted_with_its_difference_written_down(world, driver):
    driver.stage()
    number = hold(world, driver, short=2)
    driver.stage()
    done = operator(world).release(driver.spike, number, ask(why="the broker lost them"))
    assert "2 records unaccounted for; held: read 6 records, the ranges have 8" in done.summary
    world.settle(driver.spike)
    assert states(world, driver.spike) == ["committed"] * 3
    assert positions(world, driver.spike) == [(0, 20, 20)]
    clean(world)
    assert world.audit()["I8"].figure == "20 = 12 + 3 + 3 + 2 unaccounted for"
    (found,) = world.ledger.operations(driver.spike.name, 9)
    assert (found.kind, found.author, found.batch) == (
        OperationKind.RELEASE, Author("ann@desk", "the broker lost them"), number,
    )  # fmt: skip


def test_rows_are_what_the_files_have_once_released(world, driver):
    batch = driver.write(4, 0, 0)
    liar = replace(batch.files[0], rows=1)
    hours = (replace(batch.hours[0], final=1), batch.hours[1])
    number = driver.register(replace(batch, files=(liar, *batch.files[1:]), hours=hours, read=3)).batch.number
    world.settle(driver.spike)
    operator(world).release(driver.spike, number, ask())
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (4, 0)
    assert world.ledger.record(number).batch.counts.unaccounted == 0
    with world.ledger.begin() as tx:
        (feed,) = tx.hour_facts(driver.spike.name, driver.spike.dataset.name, HOUR).feeds
    assert (feed.records, feed.unaccounted) == (2, 0), "or no backfill of the hour could ever find as many"
    clean(world)


def test_a_release_of_what_was_decided_and_held_again_meanwhile_is_refused(world, driver):
    """Its counts are of before, and nobody has seen the new difference."""
    number = hold(world, driver)

    class Meanwhile:
        decided = False

        def footer(self, *arguments, **named):
            if not self.decided:
                self.decided = True
                operator(world).release(driver.spike, number, ask())
                world.execute("UPDATE batches SET records_filtered = records_filtered + 1")
                world.settle(driver.spike)
                assert states(world, driver.spike) == ["held"]
            return world.store.footer(*arguments, **named)

    with pytest.raises(Conflict, match=f"batch {number} was changed meanwhile"):
        Operator(world.ledger, world.broker, Meanwhile()).release(driver.spike, number, ask())
    assert len(world.ledger.operations(None, 9)) == 1


def test_a_discard_takes_nothing_along_that_waits_before_the_held_batch(world, driver):
    first = driver.stage().batch.number
    second = driver.stage().batch.number
    world.execute(f"UPDATE batches SET state = 'held', held_reason = 'counts' WHERE number = {second}")
    with pytest.raises(Conflict, match=f"batch {first} waits before {second}"):
        operator(world).discard(driver.spike, second, ask())
    assert states(world, driver.spike) == ["staged", "held"]


def test_a_released_batch_is_held_again_for_another_difference(world, driver):
    number = hold(world, driver)
    operator(world).release(driver.spike, number, ask())
    world.execute("UPDATE batches SET records_filtered = records_filtered + 1")
    world.settle(driver.spike)
    assert states(world, driver.spike) == ["held"]


def test_a_batch_whose_file_is_gone_cannot_be_released_and_the_way_out_is_said(world, driver):
    driver.stage()
    world.store.delete(BUCKET, [world.keys("staging/")[0]])
    world.settle(driver.spike)
    (number,) = numbers(world, driver.spike)
    with pytest.raises(Refused, match=f"spike batch discard payouts {number} --why"):
        operator(world).release(driver.spike, number, ask())
    assert world.ledger.operations(None, 9) == ()


@pytest.mark.parametrize("act", ["release", "discard"])
def test_only_a_held_batch_of_this_spike_is_decided_on(world, driver, act):
    number = driver.stage().batch.number
    decide = getattr(operator(world), act)
    with pytest.raises(Refused, match="is staged, not held"):
        decide(driver.spike, number, ask())
    world.settle(driver.spike)
    with pytest.raises(Refused, match="is committed, not held"):
        decide(driver.spike, number, ask())
    with pytest.raises(Refused, match=f"payouts has no batch {number + 1}"):
        decide(driver.spike, number + 1, ask())
    other = world.driver(world.spike("session"))
    with pytest.raises(Refused, match=f"session has no batch {number}"):
        decide(other.spike, number, ask())


# discard


def test_a_discarded_batch_and_all_behind_it_are_read_again_and_nothing_is_skipped(world, driver):
    driver.stage()
    number = hold(world, driver)
    driver.stage(), driver.stage()
    assert positions(world, driver.spike) == [(0, 6, 25)]
    done = operator(world).discard(driver.spike, number, ask())
    assert states(world, driver.spike) == ["committed", "aborted", "aborted", "aborted"]
    assert positions(world, driver.spike) == [(0, 6, 6)]
    assert [str(m) for m in done.moves] == ["payouts-topic:0: committed 6, staged 25 -> 6"]
    with pytest.raises(Fenced):
        driver.stage()
    clean(world)
    again = world.driver(driver.spike, "b")
    assert list(again.opened.offsets.values()) == [6]
    for _ in range(3):
        again.stage()
    world.settle(driver.spike)
    assert positions(world, driver.spike) == [(0, 24, 24)]
    clean(world)


def test_a_discard_is_refused_where_kafka_no_longer_has_the_records(world, driver):
    driver.stage()
    number = hold(world, driver)
    world.broker.delete_records(driver.spike.topic, 0, before=7)
    with pytest.raises(Refused, match="would begin at 6, and Kafka's log starts at 7"):
        operator(world).discard(driver.spike, number, ask())
    world.broker.delete(driver.spike.topic)
    with pytest.raises(Refused, match="does not exist any more"):
        operator(world).discard(driver.spike, number, ask())
    world.broker.create(driver.spike.topic)
    with pytest.raises(Refused, match="was deleted and made again"):
        operator(world).discard(driver.spike, number, ask())
    assert states(world, driver.spike) == ["committed", "held"]
    assert driver.opened.epoch.number == world.ledger.epochs()["payouts"].number == 1


# rewind


def committed(world, batches=3):
    driver = world.driver(world.spike())
    for _ in range(batches):
        driver.stage()
    world.settle(driver.spike)
    return driver


def test_a_rewind_takes_readers_and_offsets_back_to_a_batch_boundary_and_it_is_all_read_again(world):
    driver = committed(world)
    driver.stage()
    assert rows(world, driver.spike) == (12, 3)
    done = operator(world).rewind(driver.spike, to(driver.spike, 11), ask())
    assert states(world, driver.spike) == ["committed"] * 3 + ["aborted"]
    assert positions(world, driver.spike) == [(0, 6, 6)]
    assert done.sequence == world.dataset(driver.spike).sequence == 4
    assert rows(world, driver.spike) == (12, 3), "readers see what was published until the next snapshot"
    clean(world)
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (4, 1)
    clean(world)
    again = world.driver(driver.spike, "b")
    for _ in range(4):
        again.stage()
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (20, 5)
    assert positions(world, driver.spike) == [(0, 30, 30)]
    clean(world)


def test_a_rewind_asks_for_an_appender_run_and_is_one_snapshot_of_each_table(world):
    driver = committed(world)
    operator(world).rewind(driver.spike, Earliest(), ask())
    published = []
    original = world.catalog.publish
    world.catalog.publish = lambda *a, **k: published.append((a[0], len(k["remove"]))) or original(*a, **k)
    world.settle(driver.spike)
    assert published == [("payouts", 6), ("payouts_dead_letters", 3)]


def test_superseded_files_stay_known_and_are_no_longer_live(world):
    driver = committed(world, 1)
    operator(world).rewind(driver.spike, Earliest(), ask())
    (number,) = numbers(world, driver.spike)
    record = world.ledger.record(number)
    assert {f.state for f in record.files} == {FileState.SUPERSEDED}
    assert {f.removed for f in record.files} == {record.batch.removed} == {2}
    assert world.audit()["I4"].ok


def test_a_look_at_a_rewind_tells_a_slip_in_the_topic_of_the_file_as_one(world):
    """Not that the topic is gone, which may be found at once by the name that was read."""
    slip = replace(committed(world).spike, topic="payouts-tpoic")
    with pytest.raises(SpecChanged, match="put payouts-topic back"):
        operator(world).plan(slip, Earliest())


def test_the_same_rewind_twice_is_a_rewind_once(world):
    driver = committed(world)
    assert operator(world).rewind(driver.spike, to(driver.spike, 6), ask())
    assert operator(world).rewind(driver.spike, to(driver.spike, 6), ask()) is None
    assert world.dataset(driver.spike).sequence == 4
    assert world.ledger.epochs()["payouts"].number == 2


def test_a_dry_run_says_what_the_rewind_then_does_and_changes_nothing(world):
    driver = committed(world)
    driver.stage()
    before = world.ledger.books()
    plan = operator(world).plan(driver.spike, to(driver.spike, 11))
    assert world.ledger.books() == before
    driver.stage()  # not fenced
    plan = operator(world).plan(driver.spike, to(driver.spike, 11))
    assert (len(plan.superseded), len(plan.aborted), plan.rows) == (2, 2, 8)
    assert operator(world).rewind(driver.spike, to(driver.spike, 11), ask()).summary == str(plan)


def test_a_rewind_to_a_time_reads_again_from_the_first_record_of_that_time(world):
    driver = committed(world)
    assert operator(world).plan(driver.spike, HOUR).moves[0].to == 0
    later = operator(world).plan(driver.spike, HOUR + timedelta(hours=1))
    assert (later.moves, later.superseded) == ((), ())


def test_earliest_is_the_first_whole_batch_that_kafka_still_has(world):
    driver = committed(world)
    world.broker.delete_records(driver.spike.topic, 0, before=7)
    with pytest.raises(Refused, match="Kafka's log starts at 7"):
        operator(world).rewind(driver.spike, to(driver.spike, 7), ask())
    done = operator(world).rewind(driver.spike, Earliest(), ask())
    assert [m.to for m in done.moves] == [12]
    world.settle(driver.spike)
    clean(world)


@pytest.mark.parametrize("act", ["rewind", "discard"])
def test_what_kafka_deletes_while_it_is_decided_is_seen_before_the_commit(world, driver, act):
    """It would be lost: readers would see it no more, and Kafka has it no more."""
    driver.stage()
    world.settle(driver.spike)
    number = hold(world, driver) if act == "discard" else None
    before = world.ledger.books()

    class Deleting:
        """Kafka, which deletes all it has after the first look."""

        def topics(self, names):
            seen = world.broker.topics(names)
            world.broker.delete_records(driver.spike.topic, 0, before=seen[driver.spike.topic].log_end[0])
            return seen

    slow = Operator(world.ledger, Deleting(), world.store)
    with pytest.raises(Refused, match="Kafka's log starts at"):
        slow.rewind(driver.spike, to(driver.spike, 0), ask()) if number is None else slow.discard(
            driver.spike, number, ask()
        )
    assert world.ledger.books() == before


def test_a_spike_that_began_late_can_be_taken_back_to_before_its_beginning(world):
    spike = world.spike(start=Start.LATEST)
    driver = world.driver(spike)
    world.broker.append(spike.topic, 0, *[HOUR] * 6)
    driver.stage()
    world.settle(spike)
    assert positions(world, spike) == [(100, 106, 106)]
    operator(world).rewind(spike, to(spike, 90), ask())
    assert positions(world, spike) == [(90, 90, 90)]
    again = world.driver(spike, "b")
    again.stage()
    world.settle(spike)
    clean(world)


def test_partitions_that_are_not_named_stay_unless_a_batch_has_both(world):
    spike = world.spike(partitions=2)
    driver = world.driver(spike)
    driver.stage(index=0), driver.stage(index=1)
    world.settle(spike)
    operator(world).rewind(spike, to(spike, 0, index=1), ask())
    assert positions(world, spike) == [(0, 6, 6), (0, 0, 0)]
    world.settle(spike)
    assert rows(world, spike) == (4, 1)
    clean(world)


def test_a_live_driver_is_fenced_and_the_next_one_goes_on_from_the_point(world):
    driver = committed(world)
    late = driver.write()
    operator(world).rewind(driver.spike, to(driver.spike, 6), ask())
    with pytest.raises(Fenced):
        driver.register(late)
    with pytest.raises(Fenced):
        world.driver(driver.spike, "a", after=1)
    assert list(world.driver(driver.spike, "b").opened.offsets.values()) == [6]


# against an appender run


def test_a_run_that_is_promoting_while_the_spike_is_rewound_commits_nothing(world):
    driver = committed(world, 1)
    driver.stage()

    class Rewound:
        """The rewind comes between the intent and the first copy."""

        def __getattr__(self, name):
            return getattr(world.store, name)

        def copy(self, *arguments, **named):
            if not world.ledger.operations(None, 1):
                operator(world).rewind(driver.spike, Earliest(), ask())
            return world.store.copy(*arguments, **named)

    with pytest.raises(LeaseLost):
        world.promoter(store=Rewound()).promote(driver.spike, limit=9)
    assert states(world, driver.spike) == ["committed", "aborted"]
    assert positions(world, driver.spike) == [(0, 0, 0)]
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (0, 0)
    clean(world)  # the copies are explained by the aborted intent


def test_rewinds_among_promotions_of_the_same_batches_leave_a_sound_ledger(world):
    driver = world.driver(world.spike(records=1000, max_staged_batches=1000))
    for _ in range(12):
        driver.stage()
    together = Barrier(3)

    def promote(i):
        together.wait()
        for _ in range(12):
            try:
                world.promoter(str(i)).promote(driver.spike, limit=1)
            except LeaseLost:
                continue

    def rewind(_):
        together.wait()
        operator(world).rewind(driver.spike, to(driver.spike, 0), ask())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda job: job[0](job[1]), [(promote, 1), (promote, 2), (rewind, 3)]))
    assert positions(world, driver.spike) == [(0, 0, 0)]
    world.settle(driver.spike)
    clean(world)
    again = world.driver(driver.spike, "b")
    for _ in range(12):
        again.stage()
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (48, 12)
    clean(world)


# two operators


@pytest.mark.parametrize("acts", [("release", "release"), ("discard", "discard"), ("release", "discard")])
def test_of_two_who_decide_on_a_held_batch_at_once_one_does(world, driver, acts):
    number = hold(world, driver)
    together = Barrier(2)

    def decide(act):
        together.wait()
        try:
            return getattr(operator(world), act)(driver.spike, number, ask())
        except (Refused, Conflict):
            return None

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(decide, acts))
    assert sum(d is not None for d in done) == 1
    assert len(world.ledger.operations(None, 9)) == 1
    world.settle(driver.spike)
    clean(world)


def test_of_two_who_rewind_at_once_one_does_and_the_other_finds_it_done(world):
    driver = committed(world)
    together = Barrier(2)

    def rewind(_):
        together.wait()
        return operator(world).rewind(driver.spike, Earliest(), ask())

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(rewind, range(2)))
    assert sum(d is not None for d in done) == 1
    assert world.dataset(driver.spike).sequence == 4


# dying


class Cut:
    """A ledger whose `at`-th transaction commits or not, and whose answer is lost."""

    def __init__(self, ledger, at, *, commits):
        self._ledger, self._at, self._commits, self.seen = ledger, at, commits, 0

    def begin(self):
        self.seen += 1
        return self._cut() if self.seen == self._at else self._ledger.begin()

    def _cut(self):
        @contextmanager
        def cut():
            with self._ledger.begin() as tx:
                yield tx
                if not self._commits:
                    raise Transient("cut before the commit")
            raise Transient("the answer was lost")

        return cut()


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("act", ["release", "discard", "rewind", "accept_loss"])
def test_an_operation_of_unknown_outcome_is_looked_up_and_is_all_or_nothing(world, driver, act, commits):
    driver.stage()
    number = hold(world, driver)
    if act == "accept_loss":
        world.broker.delete_records(driver.spike.topic, 0, before=50)
    arguments = {
        "release": (driver.spike, number),
        "discard": (driver.spike, number),
        "rewind": (driver.spike, Earliest()),
        "accept_loss": (driver.spike,),
    }[act]
    before = world.ledger.books(), states(world, driver.spike), world.ledger.epochs()
    cut = Cut(world.ledger, 2 if act == "release" else 1, commits=commits)
    if commits:
        assert getattr(operator(world, cut), act)(*arguments, ask()).kind == act
    else:
        with pytest.raises(Transient, match="cut before the commit"):
            getattr(operator(world, cut), act)(*arguments, ask())
        assert (world.ledger.books(), states(world, driver.spike), world.ledger.epochs()) == before
        assert getattr(operator(world), act)(*arguments, ask()).kind == act
    assert cut.seen > 1
    assert len(world.ledger.operations(None, 9)) == 1
    world.settle(driver.spike)
    clean(world)


# what Kafka no longer has


def test_an_accepted_loss_is_committed_in_its_turn_and_the_spike_goes_on_behind_it(world, driver):
    driver.stage()
    world.settle(driver.spike)
    driver.stage()
    world.broker.delete_records(driver.spike.topic, 0, before=50)
    with pytest.raises(Lost):
        world.driver(driver.spike, "a", after=1)
    done = operator(world).accept_loss(driver.spike, ask())
    assert done.summary == "38 offsets declared lost: payouts-topic:0[12,50)"
    assert positions(world, driver.spike) == [(0, 6, 50)]
    again = world.driver(driver.spike, "b")
    assert list(again.opened.offsets.values()) == [50]
    again.stage()
    world.settle(driver.spike)
    assert positions(world, driver.spike) == [(0, 56, 56)]
    clean(world)
    assert "38 of them declared lost" in world.audit()["I1"].figure
    assert rows(world, driver.spike) == (12, 3)


def test_a_blocked_spike_is_free_again_once_the_loss_is_accepted(world, driver):
    driver.stage()
    world.broker.delete_records(driver.spike.topic, 0, before=50)
    with pytest.raises(Lost) as lost:
        world.driver(driver.spike, "a", after=1)
    world.registrar.note_refusal(driver.spike, "lost", str(lost.value), "a")
    operator(world).accept_loss(driver.spike, ask())
    assert world.ledger.refusals() == {}


def test_what_a_living_driver_has_in_hand_is_not_declared_lost(world, driver):
    """It read the records before Kafka deleted them: what it waits with is all there is of them."""
    driver.stage()
    batch = driver.write(4, 1, 1)
    world.broker.delete_records(driver.spike.topic, 0, before=12)
    driver.beat(Phase.WAITING)
    with pytest.raises(Refused, match="is waiting and may have read what Kafka has no more"):
        operator(world).accept_loss(driver.spike, ask())
    driver.register(batch)
    world.settle(driver.spike)
    assert positions(world, driver.spike) == [(0, 12, 12)]
    driver.beat(Phase.READING)
    world.broker.delete_records(driver.spike.topic, 0, before=20)
    operator(world).accept_loss(driver.spike, ask())
    assert positions(world, driver.spike) == [(0, 12, 20)]


def test_nothing_lost_is_refused(world, driver):
    with pytest.raises(Refused, match="nothing of payouts is lost"):
        operator(world).accept_loss(driver.spike, ask())


def test_a_rewind_below_a_lost_range_is_refused(world, driver):
    driver.stage()
    world.broker.delete_records(driver.spike.topic, 0, before=50)
    operator(world).accept_loss(driver.spike, ask())
    world.settle(driver.spike)
    with pytest.raises(Refused, match="Kafka's log starts at 50"):
        operator(world).rewind(driver.spike, to(driver.spike, 49), ask())
    assert operator(world).rewind(driver.spike, Earliest(), ask()) is None


def test_a_topic_made_again_begins_anew_and_what_came_from_the_old_one_stays(world, driver):
    driver.stage()
    world.settle(driver.spike)
    driver.stage()
    world.broker.delete(driver.spike.topic)
    world.broker.create(driver.spike.topic, 2)
    for index in (0, 1):
        world.broker.append(driver.spike.topic, index, *[HOUR] * 30)
    world.broker.delete_records(driver.spike.topic, 1, before=5)
    with pytest.raises(Refused, match="spike resume NAME --accept-loss"):
        operator(world).rewind(driver.spike, Earliest(), ask())
    done = operator(world).accept_loss(driver.spike, ask())
    assert "lost without a count: payouts-topic:0 from 12" in done.summary
    assert positions(world, driver.spike) == [(0, 0, 0), (5, 5, 5)]
    again = world.driver(driver.spike, "b")
    again.stage(), again.stage(index=1)
    world.settle(driver.spike)
    assert positions(world, driver.spike) == [(0, 6, 6), (5, 11, 11)]
    assert rows(world, driver.spike) == (16, 4), "what was staged of the old topic is committed too"
    clean(world)
    operator(world).rewind(driver.spike, Earliest(), ask())
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (8, 2)
    clean(world)


def test_a_rewind_gives_up_nothing_that_waits_of_a_topic_that_is_gone(world, driver):
    """It could not be read again."""
    driver.stage()
    world.broker.delete(driver.spike.topic)
    world.broker.create(driver.spike.topic)
    world.broker.append(driver.spike.topic, 0, *[HOUR] * 30)
    operator(world).accept_loss(driver.spike, ask())
    world.driver(driver.spike, "b").stage()
    operator(world).rewind(driver.spike, Earliest(), ask())
    assert states(world, driver.spike) == ["staged", "aborted"]
    world.driver(driver.spike, "c").stage()
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (8, 2)
    clean(world)


def test_a_topic_that_is_made_again_while_a_loss_is_accepted_is_seen_before_the_commit(world, driver):
    """Positions would be those of a topic that is gone, and the ones in the newest could not be had again."""
    driver.stage()
    world.settle(driver.spike)

    def make_again():
        world.broker.delete(driver.spike.topic)
        world.broker.create(driver.spike.topic, 1)
        world.broker.append(driver.spike.topic, 0, *[HOUR] * 30)

    class MadeAgain:
        """Kafka, whose topic is made again after the first look, and somebody else is faster."""

        looked = False

        def topics(self, names):
            seen = world.broker.topics(names)
            if not self.looked:
                self.looked = True
                make_again()
                operator(world).accept_loss(driver.spike, ask())
            return seen

    make_again()
    with pytest.raises(Conflict, match="made again meanwhile"):
        Operator(world.ledger, MadeAgain(), world.store).accept_loss(driver.spike, ask())
    world.driver(driver.spike, "b").stage()
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (8, 2)
    clean(world)


def test_a_held_batch_of_a_deleted_topic_cannot_be_discarded(world, driver):
    number = hold(world, driver)
    world.broker.delete(driver.spike.topic)
    world.broker.create(driver.spike.topic)
    operator(world).accept_loss(driver.spike, ask())
    with pytest.raises(Refused, match="belongs to a topic that was deleted"):
        operator(world).discard(driver.spike, number, ask())
    operator(world).release(driver.spike, number, ask())
    world.settle(driver.spike)
    clean(world)


# what the ledger itself refuses, and what the audit sees


INSERT = (
    "INSERT INTO operations (request, spike, kind, who, why, summary)"
    " VALUES ('r', 'payouts', '{}', '{}', 'w', 's')"
)


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE batches SET state = 'aborted'",
        "UPDATE batches SET lost = true",
        "UPDATE batches SET records_unaccounted = 1",
        "UPDATE batches SET removed = 1",
        INSERT.format("rewind", ""),
        INSERT.format("oops", "ann"),
    ],
)
def test_the_database_refuses_what_nobody_accounts_for(world, driver, wrong):
    driver.stage()
    with pytest.raises(InvariantBroken), world.ledger.begin() as tx:
        tx._db.exec_driver_sql(wrong)


REVIVE = """UPDATE files SET state = 'live', removed = NULL
    WHERE id = (SELECT min(id) FROM files WHERE state = 'superseded')"""
BREACHES = {
    "a rewind that is only a release": ("UPDATE operations SET kind = 'release'", "I5"),
    "a superseded file lives": (REVIVE, "I2"),
    "a superseded range lives": (
        "UPDATE batch_ranges SET live = true WHERE batch = (SELECT max(number) FROM batches)",
        "I2",
    ),
    "a staged end ran ahead": ("UPDATE positions SET staged_end = staged_end + 1", "I5"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_the_audit_sees_what_no_operation_explains(world, name):
    driver = committed(world)
    operator(world).rewind(driver.spike, to(driver.spike, 6), ask())
    world.settle(driver.spike)
    clean(world)
    statement, invariant = BREACHES[name]
    world.execute(statement)
    assert invariant in {k for k, f in world.audit().items() if f.breaches}


def test_an_abort_keeps_its_final_keys_known(world, driver):
    driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    driver.stage()
    world.execute("UPDATE batches SET state = 'held', held_reason = 'x' WHERE state = 'staged'")
    (_, number) = numbers(world, driver.spike)
    world.execute("UPDATE files SET final_key = 'final/payouts/tomb' WHERE batch = %(n)s AND id = "
                  "(SELECT min(id) FROM files WHERE batch = %(n)s)", n=number)  # fmt: skip
    operator(world).discard(driver.spike, number, ask())
    assert world.ledger.known_final_keys(["final/payouts/tomb"]) == {"final/payouts/tomb"}
    with world.ledger.begin() as tx:
        assert tx.batch(number).state is BatchState.ABORTED
        assert tx.unfinished(driver.spike.name, LIVE_LANE) == 0


def test_a_revoked_lease_is_over_and_the_next_one_is_newer(world, driver):
    lease = world.ledger.acquire(lease_name(driver.spike.name), "run", 15)
    with world.ledger.begin() as tx:
        tx.revoke_lease(lease_name(driver.spike.name))
    with pytest.raises(LeaseLost):
        world.ledger.renew(lease, 15)
    assert world.ledger.acquire(lease_name(driver.spike.name), "next", 15).token > lease.token


def test_a_lease_is_revoked_once_what_was_begun_under_it_has_ended(world, driver):
    """From then on nothing happens under it, whatever the operation does next."""
    name = lease_name(driver.spike.name)
    lease = world.ledger.acquire(name, "run", 15)

    def revoke():
        with world.ledger.begin() as tx:
            tx.revoke_lease(name)

    with ThreadPoolExecutor(1) as pool:
        with world.ledger.begin() as tx:
            tx.require_lease(lease)
            done = pool.submit(revoke)
            until_it_waits_for_a_lock(world.ledger, done)
        done.result()
    assert world.ledger.lease_holder(name) is None


def test_a_revoked_lease_does_not_come_back_with_a_clock_that_is_set_back(world, driver):
    """The database may be another one by now, which is some seconds behind."""
    lease = world.ledger.acquire(lease_name(driver.spike.name), "run", 15)
    with world.ledger.begin() as tx:
        tx.revoke_lease(lease_name(driver.spike.name))
    world.execute("UPDATE leases SET expires_at = expires_at + interval '1 hour'")
    with pytest.raises(LeaseLost), world.ledger.begin() as tx:
        tx.require_lease(lease)
