"""Places in a Kafka log, and what it means for ranges of them to continue one another.

An **offset** is always the *next* one to read: a partition with committed offset 5 has had 0..4
committed. Ranges are half-open, `[start, end)`. So `range.end` of one batch is `range.start` of the
next, and the length of a range is `end - start` without a correction anywhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from spike_pipelines.domain.errors import Gap, InvalidSpec, Overlap
from spike_pipelines.domain.words import count_of


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One partition of one *incarnation* of a topic.

    `topic_id` is the broker's id (a base64 UUID): a topic deleted and made again has another one,
    and its offsets mean something else (I10).
    """

    topic: str
    topic_id: str
    index: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.index}"


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """Offsets `[start, end)` of one partition. May be empty, is never negative."""

    partition: Partition
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise InvalidSpec(f"{self.partition}: [{self.start}, {self.end}) is not a range of offsets")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.partition}[{self.start},{self.end})"


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """What the broker says of a topic at one moment: id and, by partition, log start and end."""

    topic: str
    topic_id: str
    log_start: Mapping[int, int]
    log_end: Mapping[int, int]

    def partitions(self) -> tuple[Partition, ...]:
        return tuple(Partition(self.topic, self.topic_id, index) for index in sorted(self.log_end))


@dataclass(frozen=True, slots=True)
class Position:
    """How far one lane of a spike has come in one partition.

    `baseline <= committed_end <= staged_end`, all offsets of the next record to read. A `closed` one
    belongs to a topic that was deleted: what is staged of it is still committed, nothing more is read.
    """

    partition: Partition
    baseline: int
    staged_end: int
    committed_end: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class RecordTime:
    """Offset and Kafka timestamp of one record, and the largest timestamp of the record batch that it
    came in: a batch is appended at once, so the record cannot have arrived much before that, by the clock
    that stamped it. `domain.arrival` knows what other clocks say."""

    offset: int
    timestamp: datetime
    batch_timestamp: datetime | None = field(default=None, compare=False)

    @property
    def stamped_at(self) -> datetime:
        """When the record was appended, as nearly as its batch tells: producers may write timestamps
        of long ago, and a late event is no lag (ADR 0003)."""
        return max(self.timestamp, self.batch_timestamp or self.timestamp)


def total(ranges: Iterable[OffsetRange]) -> int:
    """Number of offsets in the ranges; the number of records on a topic without gaps."""
    return sum(len(r) for r in ranges)


def merged(ranges: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The same offsets in as few ranges as there can be, in order."""
    found: list[OffsetRange] = []
    for r in sorted(ranges):
        if found and found[-1].partition == r.partition and r.start <= found[-1].end:
            found[-1] = OffsetRange(r.partition, found[-1].start, max(found[-1].end, r.end))
        elif len(r):
            found.append(r)
    return tuple(found)


def check_continues(staged_ends: Mapping[Partition, int], ranges: Iterable[OffsetRange]) -> None:
    """Raise unless every range begins exactly where its partition's staged end is (I2).

    A partition that is not in `staged_ends` is new; its range must begin at 0.
    Errors: `Gap` (records would be skipped), `Overlap` (records would be there twice).
    """
    for r in ranges:
        expected = staged_ends.get(r.partition, 0)
        if r.start > expected:
            raise Gap(
                f"{r} starts beyond the staged end {expected}: "
                f"{count_of(r.start - expected, 'offset')} would be skipped"
            )
        if r.start < expected:
            raise Overlap(
                f"{r} starts below the staged end {expected}: "
                f"{count_of(expected - r.start, 'offset is', 'offsets are')} already staged"
            )


@dataclass(frozen=True, slots=True)
class Break:
    """Where consecutive ranges of a partition do not meet: a gap (`found > expected`) or an overlap."""

    partition: Partition
    expected: int
    found: int

    def __str__(self) -> str:
        kind = "gap" if self.found > self.expected else "overlap"
        return f"{self.partition}: {kind}, expected {self.expected}, found {self.found}"
