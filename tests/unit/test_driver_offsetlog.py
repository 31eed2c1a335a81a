from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.errors import InvalidSpec, InvariantBroken
from spike_pipelines.driver.offsetlog import parse_planned, planned_ranges, read_planned

LOG = 'v1\n{"batchWatermarkMs":0,"batchTimestampMs":1767225600123,"conf":{}}\n{"events":{"1":7,"0":5}}'


def ranges(starts, ends):
    return {(r.partition.index, r.start, r.end) for r in planned_ranges("events", "id", starts, ends)}


def test_offset_log_gives_ends_and_the_planned_time():
    planned = parse_planned(LOG, "events")
    assert planned.ends == {0: 5, 1: 7}
    assert planned.planned_at == datetime(2026, 1, 1, 0, 0, 0, 123000, UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        LOG.replace("v1", "v2"),
        LOG.replace("events", "other"),
        LOG + '\n{"events":{"0":1}}',
        LOG.replace("batchTimestampMs", "x"),
        LOG[:-5],
    ],
)
def test_any_other_offset_log_is_refused(tmp_path, text):
    (tmp_path / "offsets").mkdir()
    (tmp_path / "offsets" / "3").write_text(text)
    with pytest.raises(InvariantBroken, match="batch 3"):
        read_planned(tmp_path, 3, "events")


def test_missing_offset_log_is_refused(tmp_path):
    with pytest.raises(InvariantBroken, match="offset log of batch 0"):
        read_planned(tmp_path, 0, "events")


def test_partition_that_did_not_move_has_no_range():
    assert ranges({0: 5, 1: 7}, {0: 5, 1: 9}) == {(1, 7, 9)}


def test_batch_in_which_nothing_moved_has_no_ranges():
    assert ranges({0: 5}, {0: 5}) == set()


def test_new_partition_starts_at_zero():
    assert ranges({0: 5}, {0: 6, 1: 3}) == {(0, 5, 6), (1, 0, 3)}


def test_new_empty_partition_has_no_range():
    assert ranges({0: 5}, {0: 6, 1: 0}) == {(0, 5, 6)}


def test_partition_that_is_gone_is_refused():
    with pytest.raises(InvariantBroken, match=r"\[1\]"):
        ranges({0: 5, 1: 7}, {0: 6})


def test_offsets_going_back_are_refused():
    with pytest.raises(InvalidSpec):
        ranges({0: 5}, {0: 4})


@given(st.dictionaries(st.integers(0, 20), st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1))
def test_ranges_of_consecutive_batches_meet(steps):
    start = dict.fromkeys(steps, 3)
    middle = {i: 3 + a for i, (a, _) in steps.items()}
    end = {i: middle[i] + b for i, (_, b) in steps.items()}
    covered = sum(e - s for _, s, e in ranges(start, middle) | ranges(middle, end))
    assert covered == sum(a + b for a, b in steps.values())
