"""Backfills over a real ledger: what is read and replaced, beside whatever else happens, and killed anywhere.

What the driver puts into which hour, and what becomes of it, `rereading` says.
"""

import contextlib
from dataclasses import dataclass, replace

import pytest
from builders import BUCKET, HOUR, NEXT_HOUR, empty, parquet, stage_file
from dying import Dead, Trap, Trapped, expire_leases
from rereading import (
    ALL_GOOD,
    AS_BEFORE,
    FILTERED,
    FINAL,
    MENDED,
    Dying,
    Reading,
    backfilled,
    backfiller,
    breaches,
    replay,
    rows,
)
from test_operate import ask, operator, to
from test_swap import new_swap, producing

from spike_pipelines.domain.backfill import Expired
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch
from spike_pipelines.domain.errors import Conflict, LeaseLost, Refused, SpecChanged, Transient
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.domain.observed import DriverState, ObservedDriver
from spike_pipelines.domain.operations import OperationKind
from spike_pipelines.domain.spike import Location
from spike_pipelines.domain.swap import NewSwap, Scope, SwapBusy, SwapKind, SwapState
from spike_pipelines.services.backfill import Ask, Backfiller
from spike_pipelines.services.observe import Observer
from spike_pipelines.services.swap import Swapper, SwapRefused, swap_prefix

pytestmark = pytest.mark.real


@pytest.fixture
def ran(world):
    """Two published batches of seven records each."""
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    return driver


# the way of one backfill


def test_the_same_transform_gives_the_same_hour_from_other_files(world, ran):
    before = rows(world, ran.spike)
    done = backfilled(world, ran.spike)
    assert (done.final, done.dead_letter, done.filtered, done.scanned) == (4, 4, 2, 14)
    assert done.swap.state is SwapState.SWAPPED
    assert rows(world, ran.spike) == before, "readers see nothing before the publication"
    world.settle(ran.spike)
    assert rows(world, ran.spike) == before
    files = world.ledger.live_files("payouts", world.dataset(ran.spike).sequence)
    assert {f.batch for f in files if f.hour == HOUR} == {done.swap.batch}
    assert done.swap.batch not in {f.batch for f in files if f.hour == NEXT_HOUR}
    assert breaches(world) == {}


def test_a_mended_schema_makes_rows_of_dead_letters(world, ran):
    backfilled(world, ran.spike, MENDED)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (12, 0)
    assert breaches(world) == {}


def test_a_new_filter_gets_back_what_was_filtered(world, ran):
    backfilled(world, ran.spike, ALL_GOOD)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (14, 0)
    assert breaches(world) == {}


def test_an_hour_whose_records_are_all_filtered_now_has_no_file_left_and_can_be_had_again(world, ran):
    backfilled(world, ran.spike, (FILTERED,) * 7)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (4, 0)
    assert breaches(world) == {}
    backfilled(world, ran.spike, ALL_GOOD)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (14, 0)
    assert breaches(world) == {}


def test_every_hour_can_be_backfilled_any_number_of_times(world, ran):
    for fates in (MENDED, AS_BEFORE, ALL_GOOD):
        for hour in (HOUR, NEXT_HOUR):
            backfilled(world, ran.spike, fates, hour)
        world.settle(ran.spike)
        assert breaches(world) == {}
    assert rows(world, ran.spike) == (14, 0)


def test_only_batches_that_fed_the_hour_are_read(world):
    driver = world.driver(world.spike())
    for counts in ((4, 2, 1), (0, 0, 7), (4, 2, 1)):
        driver.stage(*counts)
    world.settle(driver.spike)
    world.execute("DELETE FROM batch_hours WHERE records_filtered = 7")
    reading = Reading(world)
    backfiller(world, reading).backfill(driver.spike, HOUR, Ask(ask()))
    assert [(r.start, r.end) for r in reading.orders[0].pieces] == [(0, 7), (14, 21)]
    assert len(reading.orders[0].dead) == 2


def test_an_hour_that_nothing_was_read_for_is_empty_and_said_to_be(world, ran):
    empty_hour = HOUR.replace(hour=3)
    done = backfiller(world).backfill(ran.spike, empty_hour, Ask(ask()))
    assert (done.swap, done.records) == (None, 0)
    assert str(done) == "2026-11-22T03: empty, nothing was ever read for it"
    assert world.ledger.swaps("payouts", 9) == ()


def test_a_rehearsal_changes_nothing(world, ran):
    plan = backfiller(world).rehearse(ran.spike, HOUR, accept_loss=False).plan
    assert (plan.expected, sum(map(len, plan.pieces)), len(plan.replaces)) == (10, 14, 4)
    assert world.ledger.swaps("payouts", 9) == ()


# beside other things


def test_what_a_live_batch_adds_to_the_hour_meanwhile_is_kept(world, ran):
    def live():
        ran.stage(4, 2, 1)
        world.settle(ran.spike)

    backfilled(world, ran.spike, ALL_GOOD, meanwhile=live)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (14 + 4, 2)
    assert breaches(world) == {}
    backfilled(world, ran.spike, ALL_GOOD)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (21, 0)
    assert breaches(world) == {}


def test_of_two_backfills_of_one_hour_the_second_is_refused(world, ran):
    def second():
        with pytest.raises(SwapBusy, match="at work: backfill has it"):
            backfiller(world).backfill(ran.spike, HOUR, Ask(ask()))
        assert backfiller(world).backfill(ran.spike, NEXT_HOUR, Ask(ask())).swap

    assert backfilled(world, ran.spike, MENDED, meanwhile=second).swap.state is SwapState.SWAPPED
    world.settle(ran.spike)
    assert breaches(world) == {}


class Paused(Swapper):
    """Something else happens between the plan and the work on it."""

    def finish(self, *arguments):
        between.pop()()
        return Swapper.finish(self, *arguments)


between = []


def test_a_second_backfill_leaves_alone_one_that_has_only_just_planned(world, ran):
    def second():
        with pytest.raises(SwapBusy, match="at work: first has it"):
            backfilled(world, ran.spike)

    between.append(second)
    reading = Reading(world, MENDED)
    first = Backfiller(world.ledger, Paused(world.ledger, world.promoter("first")), world.broker, reading)
    assert first.backfill(ran.spike, HOUR, Ask(ask())).swap.state is SwapState.SWAPPED


@pytest.mark.parametrize("files", ["some", "none"])
def test_the_ledger_itself_takes_no_second_backfill_of_an_hour(world, ran, files):
    if files == "none":
        backfilled(world, ran.spike, (FILTERED,) * 7)

    def second():
        new = NewSwap(
            "payouts", "payouts", SwapKind.BACKFILL, "bob", "why", "2", Scope(HOUR, NEXT_HOUR), (), (), 0
        )
        with (
            pytest.raises(SwapBusy, match="ann@desk is a backfill of 2026-11-22T21"),
            world.ledger.begin() as tx,
        ):
            tx.add_swap(new)

    backfilled(world, ran.spike, meanwhile=second)


def test_a_replay_and_a_backfill_exclude_each_other(world, ran):
    def replay():
        with pytest.raises(SwapBusy), world.ledger.begin() as tx:
            tx.add_swap(new_swap(world, ran.spike))

    backfilled(world, ran.spike, meanwhile=replay)


def test_an_hour_that_was_replayed_can_be_backfilled(world, ran):
    replay(world, ran.spike, producing(world, ran.spike, final=2, filtered=1))
    backfilled(world, ran.spike, MENDED)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (12, 0)
    assert breaches(world) == {}


@dataclass
class Crossed(Reading):
    """The first dead letter of `HOUR` is of the next one by now, and one of there is of `HOUR`."""

    fates: tuple = ALL_GOOD

    def _hour(self, offset):
        return {4: NEXT_HOUR, 8: HOUR}.get(offset, NEXT_HOUR if offset >= 7 else HOUR)


def test_a_replay_that_moved_as_many_records_out_of_an_hour_as_into_it_can_be_backfilled_behind(world):
    driver = world.driver(world.spike())
    driver.stage(0, 5, 2)
    there = driver.write(0, 5, 2)
    (dead,) = there.files
    there = replace(
        there,
        files=(driver._put("later.parquet", FileKind.DEAD_LETTER, NEXT_HOUR, dead.rows, 0, 7),),
        hours=(HourCounts(NEXT_HOUR, 0, 5, 2),),
    )
    driver.register(there)
    world.settle(driver.spike)

    def crossing(swap, replaced, keep_alive):
        keep_alive()
        prefix = swap_prefix(driver.spike, swap)
        files = tuple(
            stage_file(world.store, prefix, key, FINAL, hour, 5, parquet(5, hour))
            for key, hour in (("a", HOUR), ("b", NEXT_HOUR))
        )
        counts = (HourCounts(HOUR, 5, 0, 0), HourCounts(NEXT_HOUR, 5, 0, 0))
        return NewBatch((), files, 10, counts, "2.0")

    replay(world, driver.spike, crossing)
    for hour in (HOUR, NEXT_HOUR):
        reading = Crossed(world)
        done = backfiller(world, reading).backfill(driver.spike, hour, Ask(ask()))
        assert (done.final, [(r.start, r.end) for r in reading.orders[0].pieces]) == (7, [(0, 14)])
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (14, 0)
    assert breaches(world) == {}


def test_dead_letters_of_a_backfill_can_be_replayed(world, ran):
    backfilled(world, ran.spike)
    swap = replay(world, ran.spike, producing(world, ran.spike, final=0, filtered=4))
    drivers = {b.number for b in world.ledger.last_batches("payouts", 9)}
    assert world.ledger.sources("payouts")[swap.batch] == drivers
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (8, 0)
    assert breaches(world) == {}


def test_a_rewind_while_an_hour_is_read_again_wins_and_the_backfill_is_refused(world, ran):
    def rewind():
        operator(world).rewind(ran.spike, to(ran.spike, 7), ask())

    with pytest.raises(SwapRefused, match="superseded"):
        backfilled(world, ran.spike, MENDED, meanwhile=rewind)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (4, 2)
    assert breaches(world) == {}


def test_a_rewind_ends_the_read_at_its_next_sign_of_life(world, ran):
    class Long(Reading):
        def reread(self, order, keep_alive):
            keep_alive()
            operator(world).rewind(ran.spike, to(ran.spike, 7), ask())
            keep_alive()
            pytest.fail("it reads on")

    with pytest.raises(SwapRefused, match="superseded by a rewind meanwhile"):
        backfiller(world, Long(world)).backfill(ran.spike, HOUR, Ask(ask()))
    assert world.ledger.open_swaps("payouts") == ()
    assert backfilled(world, ran.spike, ALL_GOOD).final == 5
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_a_rewind_of_what_it_does_not_read_leaves_a_backfill_alone(world, ran):
    ran.stage(0, 0, 7)
    world.settle(ran.spike)
    world.execute("DELETE FROM batch_hours WHERE records_filtered = 7")

    class Long(Reading):
        def reread(self, order, keep_alive):
            operator(world).rewind(ran.spike, to(ran.spike, 14), ask())
            keep_alive()
            return Reading.reread(self, order, keep_alive)

    assert backfiller(world, Long(world)).backfill(ran.spike, HOUR, Ask(ask())).final == 4


def test_a_rewind_of_a_batch_that_had_filtered_records_only_refuses_the_backfill(world):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    driver.stage(0, 0, 7)
    world.settle(driver.spike)

    def rewind():
        operator(world).rewind(driver.spike, to(driver.spike, 7), ask())

    with pytest.raises(SwapRefused, match="superseded by a rewind meanwhile"):
        backfilled(world, driver.spike, ALL_GOOD, meanwhile=rewind, plain=7)
    world.settle(driver.spike)
    assert rows(world, driver.spike) == (4, 2)
    assert breaches(world) == {}


def test_a_rewind_takes_along_the_backfills_of_what_it_takes_back(world, ran):
    ran.stage(0, 0, 7)
    world.settle(ran.spike)
    backfilled(world, ran.spike, ALL_GOOD, NEXT_HOUR)
    backfilled(world, ran.spike, MENDED, plain=14)
    done = operator(world).rewind(ran.spike, to(ran.spike, 7), ask())
    assert [m.to for m in done.moves] == [0], "its records share files with those before"
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (0, 0)
    assert breaches(world) == {}
    again = world.driver(ran.spike, "b")
    again.stage(4, 2, 1)
    world.settle(ran.spike)
    backfilled(world, ran.spike, ALL_GOOD)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (7, 0)
    assert breaches(world) == {}


def test_a_batch_that_was_read_again_is_not_superseded_without_its_backfill(world, ran):
    backfilled(world, ran.spike, MENDED)
    numbers = [b.number for b in world.ledger.last_batches("payouts", 9)]
    with pytest.raises(Refused, match="were replaced by a swap"), world.ledger.begin() as tx:
        tx.supersede(numbers, tx.next_sequence("payouts"), 1)


def test_nor_is_one_of_which_it_has_filtered_records_only(world):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    driver.stage(0, 0, 7)
    world.settle(driver.spike)
    backfilled(world, driver.spike, ALL_GOOD, plain=7)
    newest = world.ledger.last_batches("payouts", 1)[0].number
    with pytest.raises(Refused, match="were replaced by a swap"), world.ledger.begin() as tx:
        tx.supersede([newest], tx.next_sequence("payouts"), 1)


# what cannot be


@pytest.mark.parametrize("lose", [1, 2, 7])
def test_a_read_that_left_a_record_out_changes_nothing(world, ran, lose):
    with pytest.raises(SwapRefused, match=f"read {14 - lose} records from 14 offsets"):
        backfilled(world, ran.spike, lose=lose)
    assert breaches(world) == {}


@pytest.mark.parametrize("lose", [1, 2])
def test_on_a_topic_with_gaps_the_ledgers_count_of_the_hour_finds_it(world, lose):
    driver = world.driver(world.spike(topic_has_gaps=True))
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    with pytest.raises(SwapRefused, match=f"found {5 - lose} records of the hour, the ledger has 5"):
        backfilled(world, driver.spike, lose=lose)
    assert breaches(world) == {}


def test_retention_that_has_passed_is_an_error_that_names_the_ranges(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    with pytest.raises(Expired, match=r"payouts-topic:0\[0,3\).*--accept-loss"):
        backfilled(world, ran.spike)


def test_with_accepted_loss_what_cannot_be_read_stays_and_who_and_why_is_kept(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    backfilled(world, ran.spike, ALL_GOOD, accept_loss=True)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (4 + 7, 2)
    assert breaches(world) == {}
    (operation,) = world.ledger.operations("payouts", 9)
    assert (operation.kind, operation.author.why) == (OperationKind.ACCEPT_LOSS, "a test")
    assert "without payouts-topic:0[0,3)" in operation.summary


def test_a_file_of_what_is_gone_and_what_is_not_is_refused(world, ran):
    backfilled(world, ran.spike, ALL_GOOD)
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    with pytest.raises(Refused, match="can be neither replaced nor kept"):
        backfilled(world, ran.spike, accept_loss=True)


def test_a_topic_that_is_made_again_while_it_is_read_changes_nothing(world, ran):
    def again():
        world.broker.delete(ran.spike.topic)
        world.broker.create(ran.spike.topic)

    with pytest.raises(SwapRefused, match="made again meanwhile"):
        backfilled(world, ran.spike, meanwhile=again)


def test_an_application_file_that_names_another_place_is_refused_before_anything_is_read(world, ran):
    """Its new files would lie beside the old ones, in another dataset even twice."""
    elsewhere, reading = replace(ran.spike, final=Location(BUCKET, "other")), Reading(world)
    with pytest.raises(SpecChanged, match=r"final: .* --as NEW"):
        backfiller(world, reading).rehearse(elsewhere, HOUR, accept_loss=False)
    with pytest.raises(SpecChanged, match="final"):
        backfiller(world, reading).backfill(elsewhere, HOUR, Ask(ask()))
    assert reading.orders == []
    assert world.ledger.swaps("payouts", 9) == ()


def test_a_backfill_that_died_is_not_finished_in_another_place(world, ran):
    registered_and_dead(world, ran.spike, AS_BEFORE)
    with pytest.raises(Conflict, match=r"still open: payouts: .*final"):
        left(world, replace(ran.spike, final=Location(BUCKET, "other")))
    assert backfilled(world, ran.spike).swap.state is SwapState.SWAPPED
    assert world.keys("other/") == []
    assert breaches(world) == {}


def test_a_column_of_another_type_is_refused_before_anything_is_read(world, ran):
    reading = Reading(world)
    with pytest.raises(SpecChanged, match="column 'id' is BIGINT and cannot become STRING"):
        backfiller(world, reading).backfill(replace(ran.spike, schema="id STRING"), HOUR, Ask(ask()))
    assert reading.orders == []


def wider(spike, kind):
    return replace(spike, schema=f"{spike.schema}, x {kind}")


def test_a_driver_may_not_give_a_column_of_a_backfill_another_type(world, ran):
    backfiller(world).backfill(wider(ran.spike, "STRING"), HOUR, Ask(ask()))
    with pytest.raises(SpecChanged, match="column 'x' is STRING and cannot become BIGINT"):
        reopened(world, wider(ran.spike, "BIGINT"))


def test_nor_one_that_was_opened_before_the_backfill_registered(world, ran):
    driver = reopened(world, wider(ran.spike, "BIGINT"))
    backfiller(world).backfill(wider(ran.spike, "STRING"), HOUR, Ask(ask()))
    with pytest.raises(SpecChanged, match="column 'x' is STRING and cannot become BIGINT"):
        driver.stage(4, 2, 1)


def test_a_backfill_may_not_give_a_column_another_type_than_a_batch_that_came_while_it_read(world, ran):
    driver = reopened(world, wider(ran.spike, "BIGINT"))
    with pytest.raises(SpecChanged, match="column 'x' is BIGINT and cannot become STRING"):
        backfiller(world, Reading(world, meanwhile=lambda: driver.stage(4, 2, 1))).backfill(
            wider(ran.spike, "STRING"), HOUR, Ask(ask())
        )
    assert [s.state for s in left(world, ran.spike)] == [SwapState.ABORTED]


def test_a_column_of_a_backfill_that_was_given_up_is_free(world, ran):
    with pytest.raises(SwapRefused):
        backfiller(world, Reading(world, lose=1)).backfill(wider(ran.spike, "STRING"), HOUR, Ask(ask()))
    reopened(world, wider(ran.spike, "BIGINT")).stage(4, 2, 1)


def reopened(world, spike):
    with world.ledger.begin() as tx:
        tx.retire_epoch(spike.name, "a")
    return world.driver(spike, "b")


# dying


@pytest.mark.parametrize(
    ("after", "error"), [(False, Dead), (True, Transient)], ids=["killed before it", "no answer to it"]
)
def test_whatever_effect_a_backfill_dies_at_nothing_shows_and_the_next_one_ends_it(world, after, error):
    for at in range(1, 100):
        empty(world.ledger)
        fresh = type(world)(world.ledger)
        driver = fresh.driver(fresh.spike())
        driver.stage(4, 2, 1)
        fresh.settle(driver.spike)
        spike = driver.spike
        trap = Trap(None, at, after, error)
        trapped = Trapped(fresh, trap)
        dying = replace(
            backfiller(fresh, Dying(Reading(fresh, ALL_GOOD), trap)),
            ledger=trapped.ledger,
            swapper=Swapper(trapped.ledger, trapped.promoter()),
        )
        with contextlib.suppress(error, LeaseLost):
            dying.backfill(spike, HOUR, Ask(ask()))
        place = f"died {'after' if after else 'before'} effect {at}"
        if not trap.sprung:
            assert at > 10
            return
        live = fresh.ledger.live_files("payouts", fresh.dataset(spike).sequence)
        assert sum(f.rows for f in live) == (7 if fresh.dataset(spike).sequence == 2 else 6), place
        assert breaches(fresh) == {} or fresh.dataset(spike).sequence == 2, place
        expire_leases(fresh)
        end = backfilled(fresh, spike, ALL_GOOD)
        assert end.swap.state is SwapState.SWAPPED, place
        assert fresh.ledger.open_swaps("payouts") == (), place
        fresh.settle(spike)
        assert rows(fresh, spike) == (7, 0), place
        assert breaches(fresh) == {}, place
    pytest.fail("a backfill has no bound")


def registered_and_dead(world, spike, fates):
    """A backfill that dies at its first copy."""
    dying = replace(
        world.promoter("dies"), store=Trapped(world, Trap(None, 1, False, Transient)).promoter().store
    )
    with pytest.raises(Transient):
        backfiller(world, Reading(world, fates), promoter=dying).backfill(spike, HOUR, Ask(ask()))
    expire_leases(world)


def test_a_bounded_read_is_no_matter_of_the_spikes_lag(world, ran):
    """While it reads, waits to be committed, and has committed: the stream's offsets are its own."""
    seen, observer = [], Observer(world.ledger, world.broker, Running(world), world.spikes)

    def look():
        report = observer.lag()["payouts"]
        seen.append((report.verdict, report.lag, report.staged_lag, report.waiting_batches))

    look()
    registered_and_dead(world, ran.spike, MENDED)
    look()
    backfilled(world, ran.spike, meanwhile=look)
    look()
    assert seen == [(LagVerdict.FALLING_BEHIND, 86, 86, 0)] * 4


class Running:
    """A cluster in which every spike has a driver."""

    def __init__(self, world):
        self.world = world

    def drivers(self):
        return tuple(ObservedDriver(name, "a", DriverState.RUNNING, HOUR) for name in self.world.spikes)


def test_a_backfill_after_one_that_died_reads_the_hour_by_todays_file_all_the_same(world, ran):
    registered_and_dead(world, ran.spike, MENDED)
    today, reading = replace(ran.spike, version="3.0"), Reading(world, ALL_GOOD)
    done = backfiller(world, reading).backfill(today, HOUR, Ask(ask()))
    assert (len(reading.orders), done.final, done.filtered) == (1, 10, 0)
    old, new = reversed(world.ledger.swaps("payouts", 9))
    assert (old.state, new.state, new) == (SwapState.SWAPPED, SwapState.SWAPPED, done.swap)
    assert (old.application_version, new.application_version) == ("1.0", "3.0")
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (14, 0)
    assert breaches(world) == {}


def test_one_that_died_is_finished_though_kafka_has_no_longer_what_it_read(world, ran):
    registered_and_dead(world, ran.spike, AS_BEFORE)
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    with pytest.raises(Expired):
        backfilled(world, ran.spike)
    assert [s.state for s in world.ledger.swaps("payouts", 9)] == [SwapState.SWAPPED]


def left(world, spike):
    """What the hourly retention makes of swaps that nobody is at."""
    return list(backfiller(world).swapper.finish_left([spike]))


def test_retention_gives_up_a_backfill_that_died_before_it_had_read(world, ran):
    with pytest.raises(Transient):
        backfilled(world, ran.spike, meanwhile=lambda: (_ for _ in ()).throw(Transient("killed")))
    (swap,) = left(world, ran.spike)
    assert (swap.state, world.ledger.open_swaps("payouts")) == (SwapState.ABORTED, ())


def test_retention_ends_a_backfill_that_died_among_its_copies(world, ran):
    registered_and_dead(world, ran.spike, AS_BEFORE)
    (swap,) = left(world, ran.spike)
    assert (swap.state, world.ledger.open_swaps("payouts")) == (SwapState.SWAPPED, ())
    assert breaches(world) == {}


def test_retention_leaves_a_backfill_at_work_alone(world, ran):
    found = []
    end = backfilled(world, ran.spike, meanwhile=lambda: found.append(left(world, ran.spike)))
    assert (found, end.swap.state) == ([[]], SwapState.SWAPPED)
