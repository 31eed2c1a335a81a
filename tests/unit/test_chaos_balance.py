"""Every record held against what readers see, on made-up logs; and the judgement on a record's bytes."""

import orjson
import pandas as pd
import pytest

from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.producer.events import MAKERS
from spike_pipelines.producer.records import Shares, make
from spike_pipelines.stack.chaos.balance import (
    LEFT_OUT,
    PLACE,
    Fate,
    acknowledged,
    balance,
    fate,
    seen_of,
)

REQUIRED = ("id", "event_time")
GOOD = {"id": 1, "event_time": "2026-01-01T00:00:00Z"}


def judged(value, left_out=LEFT_OUT[None]) -> Fate:
    return fate(value if isinstance(value, bytes | None) else orjson.dumps(value), REQUIRED, left_out)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b'{"\xff": 1}',
        b"[]",
        {"id": 1},
        {"id": None, "event_time": "t"},
        GOOD | {"event_time": {}},
    ],
)
def test_broken_record_is_a_dead_letter(value):
    assert judged(value) is Fate.DEAD_LETTER


def test_good_record_is_final_unless_the_filter_leaves_it_out():
    assert judged(GOOD) is Fate.FINAL
    tests = LEFT_OUT["NOT coalesce(is_test, false)"]
    assert judged(GOOD | {"is_test": True}, tests) is Fate.FILTERED
    assert judged(GOOD | {"is_test": False}, tests) is judged(GOOD, tests) is Fate.FINAL
    assert judged(GOOD | {"consent": False}, LEFT_OUT["consent"]) is Fate.FILTERED


@pytest.mark.parametrize("kind", MAKERS)
def test_flaws_of_the_producer_and_no_others_are_dead_letters(kind):
    from datetime import UTC, datetime  # noqa: PLC0415

    from spike_pipelines.producer.events import REQUIRED as NEEDED  # noqa: PLC0415

    for number in range(600):
        record = make(kind, 1, number, datetime(2026, 1, 1, tzinfo=UTC), Shares(malformed=0.3))
        found = fate(record.value, NEEDED[kind], LEFT_OUT[None])
        assert (found is Fate.DEAD_LETTER) == (record.flaw is not None), record


def log(*fates: Fate) -> pd.DataFrame:
    return pd.DataFrame([(0, n, f) for n, f in enumerate(fates)], columns=[*PLACE, "fate"])


def table(*offsets: int) -> pd.DataFrame:
    return pd.DataFrame([(0, n, "x") for n in offsets], columns=["kafka_partition", "kafka_offset", "other"])


def weighed(log, final, dead=(), acked=None, end=None):
    runs = {("t", 0): [(0, len(log))] if acked is None else acked, ("other", 0): [(50, 60)]}
    positions = [Position(Partition("t", "id", 0), 0, len(log), len(log) if end is None else end)]
    return balance("s", log, acknowledged("t", runs), seen_of(table(*final), table(*dead)), positions)


F, D, X = Fate.FINAL, Fate.DEAD_LETTER, Fate.FILTERED


def test_each_record_once_where_it_belongs_is_no_breach():
    found = weighed(log(F, D, X, F), final=[0, 3], dead=[1])
    assert (found.acknowledged, found.in_log, found.filtered) == (4, 4, 1)
    assert (found.lost, found.duplicated, found.misplaced, found.breaches) == (0, 0, 0, ())


def test_record_that_is_nowhere_is_lost_acknowledged_or_not():
    found = weighed(log(F, F, D), final=[0], dead=[2], acked=[(0, 1)])
    assert (found.lost, found.duplicated) == (1, 0)
    assert "0:1" in found.breaches[0]


def test_record_that_is_there_again_in_either_table_is_a_duplicate():
    assert weighed(log(F, F), final=[0, 1, 1]).duplicated == 1
    assert weighed(log(F, F), final=[0, 1], dead=[1]).duplicated == 1


def test_record_in_the_wrong_table_or_filtered_and_yet_there_or_from_nowhere_is_misplaced():
    assert weighed(log(F, D), final=[0, 1]).misplaced == 1
    assert weighed(log(F, X), final=[0, 1]).misplaced == 1
    assert weighed(log(F), final=[0, 7]).misplaced == 1


def test_acknowledged_record_that_kafka_lost_is_lost():
    found = weighed(log(F), final=[0], acked=[(0, 2)], end=2)
    assert found.lost == 1
    assert "Kafka itself" in found.breaches[0]


def test_acknowledged_record_beyond_the_committed_end_is_a_breach():
    found = weighed(log(F, F), final=[0, 1], end=1)
    assert found.lost == 1
    assert "committed range" in found.breaches[0]
