"""When an hour of a dataset is closed, decided from facts alone."""

from dataclasses import replace
from datetime import timedelta

from builders import HOUR, NEXT_HOUR, partition

from spike_pipelines.domain.backfill import MOST_HOURS, check_hours
from spike_pipelines.domain.closed import (
    Behind,
    Closing,
    behind,
    due_at,
    due_hours,
    hour_ranges,
    last_due,
    reopened,
)
from spike_pipelines.domain.offsets import Position
from spike_pipelines.domain.operations import Move

ONE = timedelta(hours=1)
SECOND = timedelta(seconds=1)
A, B = partition(0), partition(1)


def position(p, committed, *, staged=None, closed=False):
    return Position(p, 0, committed if staged is None else staged, committed, closed=closed)


def at(**committed):
    return {p: position(p, committed[name]) for name, p in (("a", A), ("b", B)) if name in committed}


def closing(hour=HOUR, ends=None, *, closed=True):
    return Closing(
        1, "payouts", hour, hour + 2 * ONE, hour + 2 * ONE, {A: 10} if ends is None else ends,
        closed_at=hour + 3 * ONE if closed else None, sequence=5 if closed else None,
    )  # fmt: skip


# when an hour is due


def test_an_hour_is_due_when_its_end_and_the_lateness_have_passed():
    assert due_at(HOUR, ONE) == HOUR + 2 * ONE
    assert last_due(ONE, HOUR + 2 * ONE) == HOUR
    assert last_due(ONE, HOUR + 2 * ONE - SECOND) == HOUR - ONE


def test_the_lateness_may_be_minutes_or_days():
    assert last_due(timedelta(minutes=5), NEXT_HOUR + timedelta(minutes=5)) == HOUR
    assert last_due(timedelta(minutes=5), NEXT_HOUR + timedelta(minutes=4)) == HOUR - ONE
    assert last_due(timedelta(days=2), HOUR + timedelta(days=2, hours=1)) == HOUR


def test_every_hour_since_the_first_is_due_also_those_without_a_record():
    found = due_hours(HOUR + timedelta(minutes=59), HOUR + 3 * ONE, (), ())
    assert found == tuple(HOUR + n * ONE for n in range(4))


def test_an_older_hour_is_due_where_it_has_files_and_a_future_one_is_not():
    filed = (HOUR - 48 * ONE, HOUR + 9 * ONE)
    assert due_hours(HOUR, HOUR, filed, ()) == (HOUR - 48 * ONE, HOUR)


def test_an_hour_that_is_known_is_not_due_again():
    assert due_hours(HOUR, NEXT_HOUR, (HOUR,), (HOUR,)) == (NEXT_HOUR,)
    assert due_hours(NEXT_HOUR, HOUR, (), ()) == ()


# what it waits for


def test_an_hour_waits_for_every_partition():
    assert behind({A: 10, B: 20}, at(a=10, b=19)) == (Behind(B, 19, 20),)
    assert behind({A: 10, B: 20}, at(a=10, b=20)) == ()
    assert behind({A: 10, B: 20}, at(a=11, b=99)) == ()


def test_an_idle_partition_is_there_already():
    assert behind({A: 10, B: 0}, at(a=10, b=0)) == ()


def test_a_partition_added_before_the_look_blocks_until_its_records_are_committed():
    assert behind({A: 10, B: 3}, at(a=10)) == (Behind(B, None, 3),)
    assert behind({A: 10, B: 0}, at(a=10)) == ()


def test_a_partition_added_after_the_look_does_not_block():
    assert behind({A: 10}, at(a=10, b=0)) == ()


def test_without_any_offset_nothing_is_reached():
    """A spike that never began: that its topic is empty is not known to be so for the spike."""
    assert behind({A: 0}, {}) == (Behind(A, None, 0),)


def test_of_a_deleted_topic_only_what_is_staged_is_waited_for():
    gone = {A: position(A, 5, staged=7, closed=True)}
    assert behind({A: 10}, gone) == (Behind(A, 5, 7),)
    assert behind({A: 10}, {A: replace(gone[A], committed_end=7)}) == ()


def test_a_topic_made_again_closes_nothing_before_somebody_decided():
    """Its log is empty, but nobody knows what became of the rest of the old one."""
    again = partition(0, topic_id="id-2")
    assert behind({again: 0}, at(a=10)) == (Behind(again, None, 0),)
    decided = {A: position(A, 10, staged=12, closed=True), again: position(again, 0)}
    assert behind({again: 0}, decided) == (Behind(A, 10, 12),)
    assert behind({again: 0}, {**decided, A: position(A, 12, closed=True)}) == ()


def test_what_is_staged_is_not_committed():
    assert behind({A: 10}, {A: position(A, 5, staged=10)}) == (Behind(A, 5, 10),)


# what a rewind takes back


def test_a_rewind_below_what_an_hour_needed_reopens_it():
    assert reopened([closing()], [Move(A, 20, 20, 9)]) == (closing(),)
    assert reopened([closing()], [Move(A, 20, 20, 10)]) == ()
    assert reopened([closing()], [Move(B, 20, 20, 0)]) == ()


def test_an_hour_that_is_not_closed_is_not_reopened():
    assert reopened([closing(closed=False)], [Move(A, 20, 20, 0)]) == ()


# hours as ranges


def test_hours_are_as_few_ranges_as_there_are_gaps_and_one():
    hours = [HOUR + 5 * ONE, HOUR, NEXT_HOUR, HOUR]
    assert hour_ranges(hours) == ((HOUR, NEXT_HOUR), (HOUR + 5 * ONE, HOUR + 5 * ONE))
    assert hour_ranges([]) == ()


def test_no_range_is_longer_than_a_backfill_takes_at_once():
    hours = [HOUR + n * ONE for n in range(2 * MOST_HOURS + 1)]
    ranges = hour_ranges(hours)
    now = HOUR + timedelta(days=99)
    assert [hour for since, until in ranges for hour in check_hours(since, until, HOUR, now)] == hours
    assert len(ranges) == 3
