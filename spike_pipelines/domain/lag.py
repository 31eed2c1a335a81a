"""How far behind a spike is, and what to call that (design, section 7).

Spark commits nothing to Kafka's consumer groups, so the ledger is the only truth. For one partition
with log start `S`, log end `E`, committed end `C` and staged end `T`:

    lost        = max(S - T, 0)            offsets Kafka no longer has and nobody read
    lag         = max(E - max(C, S), 0)    offsets not yet committed
    lag_seconds = now - arrival of the first uncommitted record, 0 without lag (ADR 0003)

The worst partition speaks for the spike; seconds are never summed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.offsets import Partition, Position, RecordTime, TopicOffsets
from spike_pipelines.domain.spike import Objectives


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """`lag_seconds` is None where there is lag and the first record's time could not be read."""

    partition: Partition
    lost: int
    lag: int
    lag_seconds: float | None


class LagVerdict(StrEnum):
    """In order of severity; the first that matches is the spike's."""

    LOST = "LOST"
    TOPIC_CHANGED = "TOPIC_CHANGED"
    HELD = "HELD"
    BACKPRESSURED = "BACKPRESSURED"
    STOPPED = "STOPPED"
    BEHIND = "BEHIND"
    CATCHING_UP = "CATCHING_UP"
    IDLE = "IDLE"
    OK = "OK"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class LagFacts:
    """All that the verdict is made of. `topic` is None if the broker has no such topic, `running` None
    if it is not known whether a driver runs."""

    positions: Mapping[Partition, Position]
    topic: TopicOffsets | None
    first_uncommitted: Mapping[Partition, RecordTime]
    objectives: Objectives
    running: bool | None
    held: bool
    waiting_batches: int
    max_staged_batches: int


@dataclass(frozen=True, slots=True)
class LagReport:
    """`sentence` is what a person reads; `lag_seconds` is the worst partition's, None if not known."""

    verdict: LagVerdict
    sentence: str
    lag: int
    lag_seconds: float | None
    partitions: tuple[PartitionLag, ...]


def judge(facts: LagFacts, now: datetime) -> LagReport:
    """The verdict over one moment's facts. What is not known makes UNKNOWN, never OK (I12)."""
    if facts.topic is None:
        return LagReport(
            LagVerdict.UNKNOWN, "the broker has no such topic: create it, and it is read", 0, None, ()
        )
    partitions = partition_lags(facts, facts.topic, now)
    lag = sum(p.lag for p in partitions)
    unknown = any(p.lag_seconds is None for p in partitions)
    seconds = None if unknown else max((p.lag_seconds or 0.0 for p in partitions), default=0.0)
    verdict, sentence = _verdict(facts, facts.topic, partitions, lag, seconds)
    return LagReport(verdict, sentence, lag, seconds, partitions)


def partition_lags(facts: LagFacts, topic: TopicOffsets, now: datetime) -> tuple[PartitionLag, ...]:
    return tuple(_one(facts, topic, partition, now) for partition in topic.partitions())


def uncommitted(positions: Mapping[Partition, Position], topic: TopicOffsets) -> Mapping[Partition, int]:
    """For each lagging partition the offset of the first record that is not committed and still there."""
    ends = {p: positions[p].committed_end if p in positions else 0 for p in topic.partitions()}
    first = {p: max(end, topic.log_start[p.index]) for p, end in ends.items()}
    return {p: offset for p, offset in first.items() if offset < topic.log_end[p.index]}


def _one(facts: LagFacts, topic: TopicOffsets, partition: Partition, now: datetime) -> PartitionLag:
    start, end = topic.log_start[partition.index], topic.log_end[partition.index]
    position = facts.positions.get(partition)
    staged = position.staged_end if position else (start if not facts.positions else 0)
    committed = position.committed_end if position else 0
    lag = max(end - max(committed, start), 0)
    record = facts.first_uncommitted.get(partition)
    seconds = 0.0 if lag == 0 else (max((now - record.arrived_at).total_seconds(), 0.0) if record else None)
    return PartitionLag(partition, max(start - staged, 0), lag, seconds)


def _verdict(
    facts: LagFacts,
    topic: TopicOffsets,
    partitions: Iterable[PartitionLag],
    lag: int,
    seconds: float | None,
) -> tuple[LagVerdict, str]:
    lost = sum(p.lost for p in partitions)
    behind = f"{lag:,} records" + ("" if seconds is None else f" and {human(seconds)}") + " behind"
    if lost:
        return (
            LagVerdict.LOST,
            (
                f"{lost:,} records were deleted by Kafka before they were read: "
                "`spike resume NAME --accept-loss` goes on behind them"
            ),
        )
    if any(p.topic_id != topic.topic_id for p in facts.positions):
        return LagVerdict.TOPIC_CHANGED, (
            "the topic was deleted and made again: `spike resume NAME --accept-loss` begins with the new one"
        )
    if facts.held:
        return LagVerdict.HELD, f"the oldest batch is held for a person, {behind}"
    if facts.waiting_batches >= facts.max_staged_batches:
        return LagVerdict.BACKPRESSURED, f"{facts.waiting_batches} batches wait for the appender, {behind}"
    if facts.running is False:
        return LagVerdict.STOPPED, f"no driver runs, {behind}"
    if seconds is None or facts.running is None:
        return LagVerdict.UNKNOWN, f"not all could be observed, {behind}"
    if timedelta(seconds=seconds) > facts.objectives.lag:
        return LagVerdict.BEHIND, f"{behind}, the objective is {human(facts.objectives.lag.total_seconds())}"
    if timedelta(seconds=seconds) > facts.objectives.warn:
        return LagVerdict.CATCHING_UP, f"{behind}, close to the objective"
    if lag == 0:
        return LagVerdict.IDLE, "all that is in the topic is committed"
    return LagVerdict.OK, behind


def human(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
