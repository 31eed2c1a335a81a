"""How far behind a spike is, partition by partition (design, section 7). `domain.lag_verdict` names it.

Spark commits nothing to Kafka's consumer groups, so the ledger is the only truth. For one partition
with log start `S`, log end `E` (the last stable offset, as a `read_committed` reader sees it),
committed end `C` and staged end `T`:

    lost         = max(S - T, 0)            offsets Kafka no longer has and nobody read
    lag          = max(E - max(C, S), 0)    offsets not yet committed: the promise is on these
    staged_lag   = max(E - max(T, S), 0)    offsets not yet safe in S3
    read_lag     = max(E - max(R, S), 0)    offsets the driver has not read yet (its heartbeat says R)
    lag_seconds  = now - arrival of the first uncommitted record, 0 without one (ADR 0003, domain.arrival)
    time_to_loss = min(stamp of the first unstaged record + retention - now, and, where Kafka deletes by
                   size, (T - S) / (dS/dt), over several of its steps: domain.log_start)

While batches wait for the appender, lag_seconds is no less than the age of the oldest of them: Kafka may have
deleted records that are staged and not committed, and then nothing of the log is left to lag.

Offsets behind which there is no record (ends of transactions, aborted ones, compacted away) are no lag.
The worst partition speaks for the spike; seconds are never summed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.arrival import Watermarks, arrived_at
from spike_pipelines.domain.lag_history import Ends, Sample, Trend
from spike_pipelines.domain.log_start import Look, deletion
from spike_pipelines.domain.losses import Missing
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position, RecordTime, TopicOffsets
from spike_pipelines.domain.spike import Spike, Start

CLOCK_TOLERANCE = timedelta(seconds=5)  # a record stamped further in the future has no known age


class LagVerdict(StrEnum):
    """In order of severity; the first that matches is the spike's."""

    LOST = "LOST"
    TOPIC_CHANGED = "TOPIC_CHANGED"
    HELD = "HELD"
    WILL_LOSE = "WILL_LOSE"
    RETENTION_RISK = "RETENTION_RISK"
    BACKPRESSURED = "BACKPRESSURED"
    STOPPED = "STOPPED"
    STALLED = "STALLED"
    FALLING_BEHIND = "FALLING_BEHIND"
    CATCHING_UP = "CATCHING_UP"
    IDLE = "IDLE"
    OK = "OK"
    UNKNOWN = "UNKNOWN"


GOOD = frozenset({LagVerdict.OK, LagVerdict.IDLE})


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Offsets of one partition, and what follows from them. `lag_seconds` is None where there is lag and
    the first record's time is not known, `read_lag` where no heartbeat tells, `time_to_loss_seconds`
    where nothing is in danger or its time is not known. `cut_off` are offsets that were staged and are
    beyond the log's end. `loss_unobserved`: Kafka deletes by age, and the age of what it deletes next and
    is not staged could not be read."""

    partition: Partition
    lost: int
    lag: int
    lag_seconds: float | None
    staged_lag: int = 0
    read_lag: int | None = None
    time_to_loss_seconds: float | None = None
    committed_end: int = 0
    staged_end: int = 0
    log_start: int = 0
    log_end: int = 0
    cut_off: int = 0
    loss_unobserved: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that Kafka deleted before they were read or cut off after, all that were seen since
    `seen_at`; it stands until somebody acknowledges it. `ranges` is empty where they were not kept yet."""

    seen_at: datetime
    records: int
    detail: str
    ranges: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits at the appender: at least one batch. `held_reason` is the oldest one's if it is held."""

    batches: int
    oldest_staged_at: datetime
    newest_staged_at: datetime
    held_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of the driver. `running` is None if the cluster did not answer; `started_at` is when the
    newest driver was started, the other times are of the open epoch and its batch. `tried_at`: when it and
    earlier drivers were started or opened an epoch, as far as that is known."""

    running: bool | None
    started_at: datetime | None = None
    opened_at: datetime | None = None
    batch_started_at: datetime | None = None
    problem: str | None = None
    tried_at: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class LagFacts:
    """All that the verdict is made of.

    `topic` is None if the broker has no such topic or, with `unobserved` as the reason, did not say. In
    `first_uncommitted` and `first_unstaged` a partition that is absent was not looked at; None says that
    no record follows; `unread_problems` says why. `retention` is None where age deletes nothing;
    `by_size`: Kafka deletes what is beyond a size too, and `looks` are those between which the log's start
    moved, over days. `begins` is where a new spike begins that starts at a time. `history` is oldest first;
    `ends` are its last looks at single partitions, `watermarks` those at what had arrived; `high_watermarks`
    are this look's by partition number, asked for after `asked_at`, and empty where nobody asked.
    """

    spike: Spike
    positions: Mapping[Partition, Position]
    topic: TopicOffsets | None
    first_uncommitted: Mapping[Partition, RecordTime | None]
    life: Life
    first_unstaged: Mapping[Partition, RecordTime | None]
    read: Mapping[Partition, int]
    waiting: Waiting | None = None
    retention: timedelta | None = None
    unobserved: str | None = None
    last_commit_at: datetime | None = None
    created_at: datetime | None = None
    restarts: tuple[str, ...] = ()
    loss: Loss | None = None
    history: tuple[Sample, ...] = ()
    unread_problems: Mapping[Partition, str] = field(default_factory=dict)
    by_size: bool = False
    looks: tuple[Look, ...] = ()
    begins: Mapping[Partition, int] = field(default_factory=dict)
    ends: tuple[Ends, ...] = ()
    watermarks: tuple[Watermarks, ...] = ()
    high_watermarks: Mapping[int, int] = field(default_factory=dict)
    asked_at: datetime | None = None

    def witnesses(self, topic: TopicOffsets) -> tuple[Watermarks, ...]:
        """Looks of before at this very topic."""
        return tuple(look for look in self.watermarks if look.topic_id == topic.topic_id)


@dataclass(frozen=True, slots=True)
class LagReport:
    """What was seen of one spike at one moment, and what to call it.

    `sentence` is what a person reads: how far behind, the trend, what comes, what to do. `lag` counts
    offsets, `lag_seconds` is the worst partition's; None: not known. `observed` is False where the
    broker's side is missing: then the figures say nothing. `topic_changed`: the topic that was read is
    gone, whether or not there is another one; `read_topic` is its name if the application file has another.
    `unread_problem` is why an age is not known. `restarts` are the last hour's causes. `lasts`: the look
    before found the same verdict. `by_size`: Kafka deletes what is beyond a size. `ends` and `watermarks`
    are for the next looks.
    """

    verdict: LagVerdict
    sentence: str
    lag: int
    lag_seconds: float | None
    partitions: tuple[PartitionLag, ...]
    observed: bool = True
    at: datetime | None = None
    topic_id: str | None = None
    topic_changed: bool = False
    read_topic: str | None = None
    staged_lag: int = 0
    read_lag: int | None = None
    time_to_loss_seconds: float | None = None
    eta_seconds: float | None = None
    retention_seconds: float | None = None
    commit_age_seconds: float | None = None
    stalled: bool = False
    running: bool | None = None
    waiting_batches: int = 0
    held_reason: str | None = None
    unacknowledged_loss: int = 0
    worst: Partition | None = None
    trend: Trend | None = None
    created_at: datetime | None = None
    epoch_opened_at: datetime | None = None
    restarts: tuple[str, ...] = ()
    objective_seconds: float | None = None
    unread_problem: str | None = None
    lasts: bool = False
    by_size: bool = False
    ends: tuple[Ends, ...] = ()
    watermarks: tuple[Watermarks, ...] = ()

    @property
    def loss_unobserved(self) -> bool:
        """Whether it is not known when Kafka deletes what is not staged: then no loss may be near."""
        return any(p.loss_unobserved for p in self.partitions)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What is gone or cut off now, range by range."""
        return missing(self.partitions)

    @property
    def lost(self) -> int:
        """Offsets gone or cut off now, or counted by a loss that nobody has acknowledged."""
        return max(sum(p.lost + p.cut_off for p in self.partitions), self.unacknowledged_loss)

    def sample(self, at: datetime) -> Sample:
        """This report as a point of history."""
        seen = self.partitions if self.observed else ()
        return Sample(
            at=at,
            verdict=self.verdict,
            topic_id=self.topic_id if self.observed else None,
            log_start=sum(p.log_start for p in seen),
            log_end=sum(p.log_end for p in seen),
            staged_end=sum(p.staged_end for p in seen),
            committed_end=sum(p.committed_end for p in seen),
            lag=self.lag if self.observed else None,
            staged_lag=self.staged_lag if self.observed else None,
            read_lag=self.read_lag if self.observed else None,
            lag_seconds=self.lag_seconds if self.observed else None,
            time_to_loss_seconds=self.time_to_loss_seconds,
            log_starts=tuple(p.log_start for p in seen),
            staged_ends=tuple(p.staged_end for p in seen),
        )


def missing(partitions: Iterable[PartitionLag]) -> tuple[Missing, ...]:
    """What Kafka has deleted unread, and what is staged beyond its end."""
    seen = tuple(partitions)
    deleted = (OffsetRange(p.partition, p.staged_end, p.log_start) for p in seen if p.lost)
    cut = (OffsetRange(p.partition, p.log_end, p.staged_end) for p in seen if p.cut_off)
    return (*map(Missing, deleted), *(Missing(r, cut_off=True) for r in cut))


def topic_changed(facts: LagFacts) -> bool:
    """Whether all that was read came from a topic that is gone, whatever has its name now (I10)."""
    if facts.topic is None:
        return facts.unobserved is None and bool(facts.positions)
    return bool(facts.positions) and all(p.topic_id != facts.topic.topic_id for p in facts.positions)


def read_topic(facts: LagFacts) -> str | None:
    """The topic that was read, where the application file names another one."""
    read = {p.topic for p in facts.positions}
    return min(read) if read and facts.spike.topic not in read else None


def measure(facts: LagFacts, topic: TopicOffsets, now: datetime) -> tuple[PartitionLag, ...]:
    looks = _looks(facts, topic, now) if facts.by_size else ()
    return tuple(_one(facts, topic, partition, now, looks) for partition in topic.partitions())


def uncommitted(
    spike: Spike,
    positions: Mapping[Partition, Position],
    topic: TopicOffsets,
    begins: Mapping[Partition, int] | None = None,
) -> Mapping[Partition, int]:
    """For each lagging partition the offset of the first record that is not committed and still there."""
    return _behind(topic, {p: ends(spike, positions, topic, p, begins)[0] for p in topic.partitions()})


def unstaged(
    spike: Spike,
    positions: Mapping[Partition, Position],
    topic: TopicOffsets,
    begins: Mapping[Partition, int] | None = None,
) -> Mapping[Partition, int]:
    """The same for records that are not safe in S3 yet."""
    return _behind(topic, {p: ends(spike, positions, topic, p, begins)[1] for p in topic.partitions()})


def ends(
    spike: Spike,
    positions: Mapping[Partition, Position],
    topic: TopicOffsets,
    partition: Partition,
    begins: Mapping[Partition, int] | None = None,
) -> tuple[int, int]:
    """Committed and staged end of a partition. One that appeared after the spike began is read from 0.
    Before the first epoch there is no baseline: nothing is promised of what is before the configured start,
    which `begins` has where that is a time."""
    position = positions.get(partition)
    if position:
        return position.committed_end, position.staged_end
    if positions:
        return 0, 0
    first = topic.log_start[partition.index]
    if spike.start is not Start.EARLIEST:
        first = (begins or {}).get(partition, topic.log_end[partition.index])
    return first, first


def _behind(topic: TopicOffsets, reached: Mapping[Partition, int]) -> Mapping[Partition, int]:
    first = {p: max(end, topic.log_start[p.index]) for p, end in reached.items()}
    return {p: offset for p, offset in first.items() if offset < topic.log_end[p.index]}


def _one(
    facts: LagFacts, topic: TopicOffsets, partition: Partition, now: datetime, looks: tuple[Look, ...]
) -> PartitionLag:
    start, end = topic.log_start[partition.index], topic.log_end[partition.index]
    committed, staged = ends(facts.spike, facts.positions, topic, partition, facts.begins)
    lag = _missing(end, committed, start, facts.first_uncommitted, partition)
    staged_lag = min(lag, _missing(end, staged, start, facts.first_unstaged, partition))
    read = facts.read.get(partition)
    return PartitionLag(
        partition=partition,
        lost=0 if topic_changed(facts) else max(start - staged, 0),
        lag=lag,
        lag_seconds=_age_seconds(lag, _arrival(facts, topic, partition), now),
        staged_lag=staged_lag,
        read_lag=None if read is None else min(lag, max(end - max(read, start), 0)),
        time_to_loss_seconds=None
        if staged_lag == 0
        else _time_to_loss(facts, partition, staged - start, now, looks),
        committed_end=committed,
        staged_end=staged,
        log_start=start,
        log_end=end,
        cut_off=_cut_off(facts, partition, end),
        loss_unobserved=staged_lag > 0
        and facts.retention is not None
        and partition not in facts.first_unstaged,
    )


def _cut_off(facts: LagFacts, partition: Partition, end: int) -> int:
    """What was read and is staged beyond the log's end (I10). A spike that begins at `latest` while a
    transaction is open begins beyond it, and has read nothing."""
    position = facts.positions.get(partition)
    if position is None or position.staged_end == position.baseline:
        return 0
    return max(position.staged_end - end, 0)


def cut_off(positions: Mapping[Partition, Position], topic: TopicOffsets) -> bool:
    """Whether the log seems to end below what is staged of it: as old an answer as the ledger's is new."""
    return any(
        p.topic_id == topic.topic_id and x.staged_end > topic.log_end.get(p.index, x.staged_end)
        for p, x in positions.items()
    )


def _missing(
    end: int, reached: int, start: int, first: Mapping[Partition, RecordTime | None], partition: Partition
) -> int:
    """Offsets from where a reader is to the end; none where no record follows."""
    return 0 if partition in first and first[partition] is None else max(end - max(reached, start), 0)


def _arrival(facts: LagFacts, topic: TopicOffsets, partition: Partition) -> datetime | None:
    record = facts.first_uncommitted.get(partition)
    return arrived_at(record, partition.index, facts.witnesses(topic)) if record else None


def _age_seconds(lag: int, arrival: datetime | None, now: datetime) -> float | None:
    if lag == 0:
        return 0.0
    if arrival is None or arrival > now + CLOCK_TOLERANCE:
        return None
    return max((now - arrival).total_seconds(), 0.0)


def _time_to_loss(
    facts: LagFacts, partition: Partition, room: int, now: datetime, looks: tuple[Look, ...]
) -> float | None:
    """Seconds until Kafka deletes what is not safe in S3 yet: never more than it really takes. The
    log's start is `room` offsets away.

    By age Kafka deletes a segment once its youngest record is too old: no sooner than any record in it that
    came when it says, so that a late event among others is not deleted early. It goes by the timestamps,
    whoever's clock they are of: a record that is stamped too old is deleted early.
    """
    times = []
    record = facts.first_unstaged.get(partition)
    if record is not None and facts.retention is not None:
        times.append((record.stamped_at + facts.retention - now).total_seconds())
    if looks and (found := deletion(looks[:-1], looks[-1], partition.index)):
        times.append(found.seconds_to(room))
    return max(min(times), 0.0) if times else None


def _looks(facts: LagFacts, topic: TopicOffsets, now: datetime) -> tuple[Look, ...]:
    """At the log's starts, this one last."""
    minutes = (Look(s.at, s.topic_id, s.log_starts, s.staged_ends) for s in facts.history)
    starts = tuple(topic.log_start[p.index] for p in topic.partitions())
    staged = tuple(ends(facts.spike, facts.positions, topic, p, facts.begins)[1] for p in topic.partitions())
    return (*facts.looks, *minutes, Look(now, topic.topic_id, starts, staged))


def setting(by_age: bool, by_size: bool) -> str:
    """What to raise so that Kafka keeps more."""
    return " and ".join(["retention.ms"] * (by_age or not by_size) + ["retention.bytes"] * by_size)


def within(seconds: float) -> str:
    """`in 3 min 20 s`, or that it is due: Kafka deletes when it comes by, not to the second."""
    return f"in {human(seconds)}" if seconds >= 0.5 else "at any moment"


def human(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
