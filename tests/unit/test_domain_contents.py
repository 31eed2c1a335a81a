"""What a file's footer must say before its batch is committed."""

import pytest
from builders import HOUR, partition

from spike_pipelines.domain.contents import RowGroup, Span, hour_problem, origin_problem
from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.offsets import OffsetRange

NUMBER = int(HOUR.timestamp()) // 3600


def group(partitions=(0, 0), offsets=(0, 9), hours=(NUMBER, NUMBER)):
    return RowGroup(Span(*partitions), Span(*offsets), Span(*hours))


def ranges(*ends):
    return [OffsetRange(partition(index), start, end) for index, start, end in ends]


def test_rows_of_the_registered_hour_are_fine():
    assert hour_problem("f", HOUR, [group()]) is None


@pytest.mark.parametrize("hours", [(NUMBER - 1, NUMBER), (NUMBER, NUMBER + 1)])
def test_a_row_of_another_hour_is_a_problem(hours):
    assert "has rows of 2026-11-22T2" in (hour_problem("f", HOUR, [group(), group(hours=hours)]) or "")


def test_an_hour_that_no_calendar_has_is_a_problem_and_no_crash():
    assert "hour 900000000000" in (hour_problem("f", HOUR, [group(hours=(NUMBER, 9 * 10**11))]) or "")


def test_a_file_that_does_not_say_where_its_rows_come_from_is_a_problem():
    assert "kafka_offset" in (hour_problem("f", HOUR, None) or "")


@pytest.mark.parametrize(
    "found",
    [group(offsets=(4, 9)), group(offsets=(5, 10)), group((1, 1)), group((3, 3), (9, 10))],
)
def test_records_from_outside_the_ranges_are_a_problem(found):
    assert origin_problem("f", [found], ranges((0, 5, 10), (3, 5, 10))) is not None


def test_records_of_each_partition_lie_in_its_own_range():
    both = ranges((0, 5, 10), (1, 100, 200))
    assert origin_problem("f", [group((0, 0), (5, 9)), group((1, 1), (100, 199))], both) is None
    assert "partition 0, its batch read" in (origin_problem("f", [group((0, 0), (5, 100))], both) or "")
    assert origin_problem("f", [group((1, 1), (99, 199))], both) is not None


def test_a_row_group_of_several_partitions_is_never_judged_by_its_one_span():
    assert not group((1, 1)).shared
    shared = group((0, 1), (5, 6))
    assert shared.shared
    with pytest.raises(InvariantBroken, match="split first"):
        origin_problem("f", [shared], ranges((0, 5, 10), (1, 5, 10)))


def test_a_file_without_rows_has_no_problem():
    assert (hour_problem("f", HOUR, []), origin_problem("f", [], ranges((0, 5, 10)))) == (None, None)
