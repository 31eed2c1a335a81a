"""Where a driver goes on from."""

import pytest
from builders import HOUR, partition, topic

from spike_pipelines.domain.errors import Lost, TopicChanged, Truncated
from spike_pipelines.domain.offsets import Position
from spike_pipelines.domain.spike import Start
from spike_pipelines.domain.starting import starting_point


def position(index: int, staged: int, *, topic_id: str = "id-1") -> Position:
    return Position(partition(index, topic_id=topic_id), 0, staged, 0)


def positions(*staged: int):
    return {partition(i): position(i, end) for i, end in enumerate(staged)}


def test_a_new_spike_that_starts_earliest_begins_at_the_log_start():
    point = starting_point({}, topic(90, 80, starts=[10, 0]), Start.EARLIEST, {})
    assert point.offsets == point.baselines == {partition(0): 10, partition(1): 0}


def test_a_new_spike_that_starts_latest_begins_at_the_log_end():
    point = starting_point({}, topic(90, 80), Start.LATEST, {})
    assert point.offsets == point.baselines == {partition(0): 90, partition(1): 80}


def test_a_new_spike_that_starts_at_a_time_begins_at_the_first_record_of_it():
    at_time = {partition(0): 33, partition(1): 80}
    point = starting_point({}, topic(90, 80), HOUR, at_time)
    assert point.offsets == point.baselines == at_time


@pytest.mark.parametrize("start", [Start.EARLIEST, Start.LATEST, HOUR])
def test_a_known_spike_goes_on_from_its_staged_end_whatever_its_start(start):
    point = starting_point(positions(40), topic(90), start, {partition(0): 1})
    assert point.offsets == {partition(0): 40}
    assert point.baselines == {}


@pytest.mark.parametrize("start", [Start.LATEST, HOUR])
def test_a_partition_that_appeared_later_begins_at_zero(start):
    point = starting_point(positions(40), topic(90, 70), start, {partition(0): 9, partition(1): 9})
    assert point.offsets == {partition(0): 40, partition(1): 0}
    assert point.baselines == {partition(1): 0}


def test_a_partition_that_appeared_later_and_lost_its_start_is_lost():
    with pytest.raises(Lost, match="7 offsets are gone"):
        starting_point(positions(40), topic(90, 70, starts=[0, 7]), Start.EARLIEST, {})


def test_a_log_start_beyond_the_staged_end_is_lost():
    with pytest.raises(Lost, match="the next record to read is 40, and Kafka's log starts at 41"):
        starting_point(positions(40), topic(90, starts=[41]), Start.EARLIEST, {})
    assert starting_point(positions(40), topic(90, starts=[40]), Start.EARLIEST, {}).offsets


def test_a_topic_deleted_and_made_again_is_refused():
    with pytest.raises(TopicChanged, match="deleted and made again"):
        starting_point({partition(0, topic_id="old"): position(0, 4, topic_id="old")}, topic(90), HOUR, {})


def test_a_log_that_ends_below_the_staged_end_is_refused_with_the_way_out():
    with pytest.raises(Truncated, match=r"ends at 39: 1 offset was cut off.*--to events:0:39"):
        starting_point(positions(40), topic(39), Start.EARLIEST, {})
    assert starting_point(positions(40), topic(40), Start.EARLIEST, {}).offsets


def test_a_partition_that_the_broker_does_not_list_was_not_cut_off():
    assert starting_point(positions(40, 7), topic(40), Start.EARLIEST, {}).offsets
