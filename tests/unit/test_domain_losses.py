"""What is missing, and how two looks at it add up."""

from dataclasses import replace

import pytest
from builders import HOUR, partition

from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.losses import Missing, joined, latched, records, without
from spike_pipelines.domain.offsets import OffsetRange

NOTHING = LagReport(LagVerdict.OK, "fine", 0, 0.0, (), at=HOUR)


def gone(start, end, index=0, *, cut_off=False):
    return Missing(OffsetRange(partition(index), start, end), cut_off)


def test_what_is_missing_is_what_was_deleted_unread_and_what_is_staged_beyond_the_end():
    parts = (
        PartitionLag(partition(0), 4, 0, 0.0, staged_end=5, log_start=9),
        PartitionLag(partition(1), 0, 0, 0.0, staged_end=20, log_end=17, cut_off=3),
        PartitionLag(partition(2), 0, 7, 1.0, staged_end=3, log_end=10),
    )
    seen = replace(NOTHING, partitions=parts).missing
    assert list(map(str, seen)) == ["events:0[5,9)", "events:1[17,20) cut off"]
    assert NOTHING.missing == ()


@pytest.mark.parametrize(
    ("known", "seen", "both"),
    [
        ([gone(5, 9)], [gone(5, 9)], ["events:0[5,9)"]),
        ([gone(5, 9)], [gone(5, 12)], ["events:0[5,12)"]),
        ([gone(5, 9)], [gone(9, 12)], ["events:0[5,12)"]),
        ([gone(5, 20)], [gone(7, 9)], ["events:0[5,20)"]),
        ([gone(5, 9)], [gone(20, 23)], ["events:0[5,9)", "events:0[20,23)"]),
        ([gone(20, 23)], [gone(5, 9), gone(5, 9, 1)], ["events:0[5,9)", "events:0[20,23)", "events:1[5,9)"]),
        ([gone(5, 9)], [gone(9, 12, cut_off=True)], ["events:0[5,9)", "events:0[9,12) cut off"]),
        ([], [], []),
    ],
)
def test_each_offset_is_lost_once_however_often_it_is_seen(known, seen, both):
    assert list(map(str, joined(known, seen))) == both
    assert joined(seen, known) == joined(known, seen)


def test_records_are_the_offsets_of_all_ranges():
    assert records([gone(5, 9), gone(20, 23), gone(0, 1, 1, cut_off=True)]) == 8


def test_a_log_is_cut_off_by_two_looks_and_deleted_by_one():
    cut, more = gone(17, 20, cut_off=True), gone(18, 20, cut_off=True)
    assert latched([cut, gone(5, 9)], ()) == (gone(5, 9),)
    assert latched([more], [cut]) == (cut,)
    assert latched([cut], [gone(17, 20, 1, cut_off=True), gone(17, 20)]) == ()


@pytest.mark.parametrize(
    ("lost", "known", "left"),
    [
        ([gone(5, 9)], [gone(5, 9)], []),
        ([gone(5, 9)], [gone(0, 20)], []),
        ([gone(5, 12)], [gone(5, 9)], ["events:0[9,12)"]),
        ([gone(5, 12)], [gone(7, 9)], ["events:0[5,7)", "events:0[9,12)"]),
        ([gone(5, 9)], [gone(9, 12), gone(5, 9, 1), gone(5, 9, cut_off=True)], ["events:0[5,9)"]),
    ],
)
def test_what_is_known_of_a_loss_is_taken_out_of_it(lost, known, left):
    assert list(map(str, without(lost, known))) == left
