"""How far behind, and what to call it."""

from datetime import timedelta

import pytest
from builders import HOUR, partition, topic

from spike_pipelines.domain.lag import LagFacts, LagVerdict, human, judge, uncommitted
from spike_pipelines.domain.offsets import Position, RecordTime
from spike_pipelines.domain.spike import Objectives

OBJECTIVES = Objectives(timedelta(seconds=30), timedelta(seconds=20), timedelta(seconds=60))


def position(index, staged, committed):
    return Position(partition(index), 0, staged, committed)


def facts(committed=100, staged=100, end=100, start=0, age=None, **changes):
    plain = {
        "positions": {partition(): position(0, staged, committed)},
        "topic": topic(end, starts=[start]),
        "first_uncommitted": {}
        if age is None
        else {partition(): RecordTime(committed, HOUR - timedelta(seconds=age))},
        "objectives": OBJECTIVES,
        "running": True,
        "held": False,
        "waiting_batches": 0,
        "max_staged_batches": 4,
    }
    return LagFacts(**{**plain, **changes})


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (facts(), LagVerdict.IDLE),
        (facts(90, age=20), LagVerdict.OK),
        (facts(90, age=21), LagVerdict.CATCHING_UP),
        (facts(90, age=31), LagVerdict.BEHIND),
        (facts(90, age=5, running=False), LagVerdict.STOPPED),
        (facts(90, age=5, running=None), LagVerdict.UNKNOWN),
        (facts(running=None), LagVerdict.UNKNOWN),
        (facts(90, age=None), LagVerdict.UNKNOWN),
        (facts(topic=None), LagVerdict.UNKNOWN),
        (facts(90, age=99, waiting_batches=4), LagVerdict.BACKPRESSURED),
        (facts(90, age=99, waiting_batches=4, held=True), LagVerdict.HELD),
        (facts(90, age=99, held=True, topic=topic(5, topic_id="other")), LagVerdict.TOPIC_CHANGED),
        (facts(90, 95, start=96, held=True), LagVerdict.LOST),
    ],
)
def test_the_first_verdict_that_matches_is_the_spikes(seen, verdict):
    assert judge(seen, HOUR).verdict is verdict


def test_what_is_staged_and_deleted_by_kafka_is_not_lost():
    report = judge(facts(committed=90, staged=96, start=96, age=1), HOUR)
    assert report.partitions[0].lost == 0
    assert report.lag == 4


def test_a_log_start_beyond_the_staged_end_is_counted_as_lost():
    assert judge(facts(committed=10, staged=20, start=25), HOUR).partitions[0].lost == 5


def test_records_add_up_and_seconds_never_do():
    seen = facts(
        positions={partition(i): position(i, 90, 90) for i in (0, 1)},
        topic=topic(100, 95),
        first_uncommitted={
            partition(0): RecordTime(90, HOUR - timedelta(seconds=3)),
            partition(1): RecordTime(90, HOUR - timedelta(seconds=8)),
        },
    )
    report = judge(seen, HOUR)
    assert (report.lag, report.lag_seconds) == (15, 8.0)


def test_one_partition_of_unknown_age_makes_the_whole_unknown():
    seen = facts(
        positions={partition(i): position(i, 90, 90) for i in (0, 1)},
        topic=topic(100, 95),
        first_uncommitted={partition(0): RecordTime(90, HOUR)},
    )
    report = judge(seen, HOUR)
    assert (report.verdict, report.lag_seconds) == (LagVerdict.UNKNOWN, None)


def test_a_clock_behind_the_brokers_gives_no_negative_lag():
    assert judge(facts(90, age=-5), HOUR).lag_seconds == 0


def test_the_first_uncommitted_record_is_looked_for_where_kafka_still_has_it():
    positions = {partition(0): position(0, 10, 10), partition(1): position(1, 80, 80)}
    assert uncommitted(positions, topic(90, 80, 70, starts=[15])) == {partition(0): 15, partition(2): 0}


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_read_as_people_say_them(seconds, text):
    assert human(seconds) == text
