"""What it means for ranges of offsets to continue one another."""

from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from builders import partition
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.batch import TRANSITIONS, BatchState, check_transition, hour_of, identity
from spike_pipelines.domain.errors import Gap, InvalidSpec, InvariantBroken, Overlap
from spike_pipelines.domain.offsets import OffsetRange, check_continues, merged, total


def r(start: int, end: int, index: int = 0) -> OffsetRange:
    return OffsetRange(partition(index), start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (5, 4), (-2, -1)])
def test_a_range_is_never_negative(start, end):
    with pytest.raises(InvalidSpec):
        r(start, end)


def test_the_length_of_a_half_open_range_needs_no_correction():
    assert len(r(5, 9)) == 4
    assert total([r(0, 5), r(5, 5), r(5, 9, 1)]) == 9


def test_ranges_that_touch_or_overlap_are_one():
    assert merged([r(5, 9), r(0, 5), r(0, 3, 1), r(8, 12), r(20, 20)]) == (r(0, 12), r(0, 3, 1))


def test_a_range_that_starts_at_the_staged_end_continues_it():
    check_continues({partition(0): 5, partition(1): 0}, [r(5, 9), r(0, 3, 1)])


def test_gap_in_offsets_is_refused():
    with pytest.raises(Gap, match="1 offset would be skipped"):
        check_continues({partition(): 5}, [r(6, 9)])


def test_overlap_in_offsets_is_refused():
    with pytest.raises(Overlap, match="1 offset is already staged"):
        check_continues({partition(): 5}, [r(4, 9)])


def test_a_partition_never_seen_begins_at_zero():
    check_continues({}, [r(0, 9)])
    with pytest.raises(Gap):
        check_continues({}, [r(1, 9)])


def test_another_incarnation_of_a_topic_is_another_partition():
    with pytest.raises(Gap):
        check_continues({partition(topic_id="old"): 5}, [OffsetRange(partition(topic_id="new"), 5, 9)])


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
def test_ranges_cut_from_one_log_continue_one_another_and_nothing_else_does(cuts):
    edges = sorted({0, *cuts})
    ends = {partition(): 0}
    for start, end in pairwise(edges):
        check_continues(ends, [r(start, end)])
        ends = {partition(): end}
        with pytest.raises(Overlap):
            check_continues(ends, [r(start, end)])


def test_identity_does_not_depend_on_the_order_of_ranges():
    assert identity("s", "live", 1, [r(0, 5), r(0, 3, 1)]) == identity("s", "live", 1, [r(0, 3, 1), r(0, 5)])


def test_identity_tells_spike_lane_epoch_incarnation_and_ranges_apart():
    plain = ("s", "live", 1, [r(0, 5)])
    others = [
        ("t", "live", 1, [r(0, 5)]),
        ("s", "backfill", 1, [r(0, 5)]),
        ("s", "live", 2, [r(0, 5)]),
        ("s", "live", 1, [r(0, 6)]),
        ("s", "live", 1, [r(0, 5, 1)]),
        ("s", "live", 1, [OffsetRange(partition(topic_id="other"), 0, 5)]),
    ]
    assert len({identity(*it) for it in [plain, *others]}) == 7


def test_a_committed_or_aborted_batch_stays_what_it_is():
    for old in (BatchState.COMMITTED, BatchState.ABORTED):
        for new in BatchState:
            with pytest.raises(InvariantBroken):
                check_transition(old, new)


def test_only_intended_batches_are_committed():
    sources = {old for old, following in TRANSITIONS.items() if BatchState.COMMITTED in following}
    assert sources == {BatchState.INTENDED}


def test_the_hour_of_a_timestamp_is_utc():
    india = timezone(timedelta(hours=5, minutes=30))
    assert hour_of(datetime(2026, 1, 1, 5, 45, tzinfo=india)).isoformat() == "2026-01-01T00:00:00+00:00"
