"""Every record at the end: what lies in Kafka, what the producer was told, what readers can see.

What must become of a record is judged here anew, in Python, from its bytes: not by Spark, not by the ledger.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import orjson
import pandas as pd
from kafka import KafkaConsumer, TopicPartition

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.offsets import Position
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.producer.acks import Run
from spike_pipelines.producer.events import REQUIRED

PLACE = ["partition", "offset"]
SHOWN = 5  # examples of each breach
POLL_MS = 1_000
EMPTY_POLLS = 60


class Fate(StrEnum):
    FINAL = "final"
    DEAD_LETTER = "dead_letter"
    FILTERED = "filtered"


Fields: TypeAlias = Mapping[str, Any]
# What the filters of the example applications leave out, said once more and independently.
LEFT_OUT: Mapping[str | None, Callable[[Fields], bool]] = {
    None: lambda _: False,
    "consent": lambda event: event["consent"] is False,
    "NOT coalesce(is_test, false)": lambda event: event.get("is_test") is True,
}


@dataclass(frozen=True, slots=True)
class Balance:
    """Records of one spike. `breaches` name what is wrong, with examples; each count but the first three
    must be 0."""

    spike: str
    acknowledged: int = 0
    in_log: int = 0
    filtered: int = 0
    lost: int = 0
    duplicated: int = 0
    misplaced: int = 0
    breaches: tuple[str, ...] = ()


def fate(value: bytes | None, required: Sequence[str], left_out: Callable[[Fields], bool]) -> Fate:
    """For what the producer makes: a flaw is broken JSON, a missing field, or a time that is no text."""
    try:
        event = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return Fate.DEAD_LETTER
    good = isinstance(event, dict) and all(event.get(name) is not None for name in required)
    if not good or not isinstance(event["event_time"], str):
        return Fate.DEAD_LETTER
    return Fate.FILTERED if left_out(event) else Fate.FINAL


def judge_of(spike: Spike) -> Callable[[bytes | None], Fate]:
    if spike.filter not in LEFT_OUT or spike.topic not in REQUIRED:
        raise InvalidSpec(f"{spike.name}: chaos knows the example applications only, and their filters")
    left_out, required = LEFT_OUT[spike.filter], REQUIRED[spike.topic]
    return lambda value: fate(value, required, left_out)


def log_of(bootstrap: str, topic: str, judge: Callable[[bytes | None], Fate]) -> pd.DataFrame:
    """Every record of a topic: `partition`, `offset`, `fate`."""
    rows = [(r.partition, r.offset, judge(r.value)) for r in _records(bootstrap, topic)]
    return pd.DataFrame(rows, columns=[*PLACE, "fate"])


def _records(bootstrap: str, topic: str) -> Iterator[Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        fetch_max_bytes=50_000_000,
        max_poll_records=10_000,
    )
    try:
        parts = [TopicPartition(topic, index) for index in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(parts)
        ends = consumer.end_offsets(parts)
        consumer.seek_to_beginning(*parts)
        empty = 0
        while any(consumer.position(part) < ends[part] for part in parts):
            polled = consumer.poll(timeout_ms=POLL_MS)
            empty = 0 if polled else empty + 1
            if empty > EMPTY_POLLS:
                raise Transient(f"Kafka at {bootstrap} gives no more records of {topic} before its end")
            for records in polled.values():
                yield from records
    finally:
        consumer.close()


def seen_of(final: pd.DataFrame, dead_letters: pd.DataFrame) -> pd.DataFrame:
    """What readers see, from the columns of two Iceberg tables: `partition`, `offset`, `table`."""
    names = {"kafka_partition": "partition", "kafka_offset": "offset"}
    frames = [f[list(names)].rename(columns=names) for f in (final, dead_letters)]
    return pd.concat(
        [frames[0].assign(table=Fate.FINAL), frames[1].assign(table=Fate.DEAD_LETTER)], ignore_index=True
    )


def acknowledged(topic: str, runs: Mapping[tuple[str, int], Sequence[Run]]) -> pd.DataFrame:
    """`partition`, `offset` of each acknowledged record of the topic."""
    rows = [
        (partition, offset)
        for (name, partition), found in runs.items()
        if name == topic
        for start, end in found
        for offset in range(start, end)
    ]
    return pd.DataFrame(rows, columns=PLACE)


def balance(
    spike: str, log: pd.DataFrame, acked: pd.DataFrame, seen: pd.DataFrame, positions: Sequence[Position]
) -> Balance:
    """Hold them against each other. Each record of the log, acknowledged or not, is to be seen exactly once
    in the table it belongs to, or nowhere if it is filtered."""
    wanted = log[log["fate"] != Fate.FILTERED]
    once = seen.drop_duplicates(PLACE)
    gone = _without(acked, log)
    lost = pd.concat([_without(wanted, once), gone])
    twice = seen[seen.duplicated(PLACE)]
    both = once.merge(log, on=PLACE, how="left")
    misplaced = both[both["fate"] != both["table"]]
    outside = _outside(acked, positions)
    found = (
        ("lost: neither final nor dead letter, and not filtered", _without(wanted, once)),
        ("lost by Kafka itself: acknowledged, and not in the log", gone),
        ("there twice", twice),
        ("in a table it does not belong to", misplaced),
        ("acknowledged, and not in a committed range", outside),
    )
    return Balance(
        spike=spike,
        acknowledged=len(acked),
        in_log=len(log),
        filtered=len(log) - len(wanted),
        lost=len(lost) + len(outside),
        duplicated=len(twice),
        misplaced=len(misplaced),
        breaches=tuple(f"{spike}: {_told(what, rows)}" for what, rows in found if len(rows)),
    )


def _without(some: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    merged = some[PLACE].merge(others[PLACE], on=PLACE, how="left", indicator=True)
    return merged[merged["_merge"] == "left_only"][PLACE]


def _outside(acked: pd.DataFrame, positions: Sequence[Position]) -> pd.DataFrame:
    ends = {p.partition.index: (p.baseline, p.committed_end) for p in positions}
    start = acked["partition"].map(lambda index: ends.get(index, (0, 0))[0])
    end = acked["partition"].map(lambda index: ends.get(index, (0, 0))[1])
    return acked[(acked["offset"] < start) | (acked["offset"] >= end)]


def _told(what: str, rows: pd.DataFrame) -> str:
    examples = ", ".join(f"{r.partition}:{r.offset}" for r in rows.head(SHOWN).itertuples())
    return f"{count_of(len(rows), 'record')} {what}, as partition:offset {examples}"
