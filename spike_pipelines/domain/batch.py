"""One micro-batch's output, and the states it goes through.

The identity of a batch is (spike, lane, epoch, offset ranges), never Spark's batch id, which starts
again with every new checkpoint. The ledger gives it a number that is never used again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.offsets import OffsetRange

LIVE_LANE = "live"


class BatchState(StrEnum):
    STAGED = "staged"  # registered, its files lie in staging
    INTENDED = "intended"  # final keys are written down, copies may exist
    HELD = "held"  # counts do not agree; a person decides
    COMMITTED = "committed"  # files, offsets and state committed in one transaction
    ABORTED = "aborted"  # given up; its records are read again


# What may follow what. The ledger refuses every other change.
TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.STAGED: frozenset({BatchState.INTENDED, BatchState.HELD, BatchState.ABORTED}),
    BatchState.INTENDED: frozenset({BatchState.COMMITTED, BatchState.HELD, BatchState.ABORTED}),
    BatchState.HELD: frozenset({BatchState.STAGED, BatchState.ABORTED}),
    BatchState.COMMITTED: frozenset(),
    BatchState.ABORTED: frozenset(),
}
UNFINISHED = frozenset({BatchState.STAGED, BatchState.INTENDED, BatchState.HELD})


def check_transition(old: BatchState, new: BatchState) -> None:
    if new not in TRANSITIONS[old]:
        raise InvariantBroken(f"a batch cannot go from {old} to {new}")


class FileKind(StrEnum):
    FINAL = "final"
    DEAD_LETTER = "dead_letter"


class FileState(StrEnum):
    STAGED = "staged"
    LIVE = "live"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, order=True)
class StagedFile:
    """One Parquet file that a committed task wrote.

    `key` is relative to the epoch's staging prefix, `hour` the UTC hour all its rows are routed to,
    `etag` without quotes, `size` in bytes.
    """

    key: str
    kind: FileKind
    hour: datetime
    rows: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class HourCounts:
    """Records of one batch routed to one UTC hour. `read = final + dead_letter + filtered` (I8)."""

    hour: datetime
    final: int
    dead_letter: int
    filtered: int

    @property
    def read(self) -> int:
        return self.final + self.dead_letter + self.filtered


@dataclass(frozen=True, slots=True)
class Counts:
    """Records of one batch. `read` is counted by the driver on its own, not derived. `unaccounted` is
    what a person let pass when they released the batch (below 0: more rows than records)."""

    read: int
    final: int
    dead_letter: int
    filtered: int
    unaccounted: int = 0

    def conserved(self) -> bool:
        return self.read == self.final + self.dead_letter + self.filtered + self.unaccounted


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a driver registers: the ranges it read and exactly the files that hold them.

    `elsewhere` are records that a backfill read beside those of its hour; they are in no count.
    """

    ranges: tuple[OffsetRange, ...]
    files: tuple[StagedFile, ...]
    read: int
    hours: tuple[HourCounts, ...]
    application_version: str
    elsewhere: int = 0

    @property
    def counts(self) -> Counts:
        return Counts(
            read=self.read,
            final=sum(h.final for h in self.hours),
            dead_letter=sum(h.dead_letter for h in self.hours),
            filtered=sum(h.filtered for h in self.hours),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the ledger has it. `epoch` is 0 for a swap's: no driver wrote it.

    A `lost` one has no records: its ranges are what a person declared lost. `removed` is the dataset's
    sequence number at which a rewind superseded it; `operation` the audited operation that did that,
    aborted it, released it or declared it.
    """

    number: int
    spike: str
    lane: str
    epoch: int
    state: BatchState
    ranges: tuple[OffsetRange, ...]
    counts: Counts
    staged_at: datetime
    committed_at: datetime | None = None
    held_reason: str | None = None
    application_version: str = "unknown"
    lost: bool = False
    removed: int | None = None
    operation: int | None = None


def identity(spike: str, lane: str, epoch: int, ranges: Iterable[OffsetRange]) -> str:
    """A fixed-length name of (spike, lane, epoch, ranges), independent of the order of the ranges."""
    parts = [spike, lane, str(epoch)]
    parts += [f"{r.partition.topic_id}/{r.partition.index}/{r.start}/{r.end}" for r in sorted(ranges)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


ONE_HOUR = timedelta(hours=1)
_FIRST_HOUR = datetime(1970, 1, 1, tzinfo=UTC)


def hour_of(timestamp: datetime) -> datetime:
    """The UTC hour a timestamp lies in."""
    return timestamp.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_number(hour: datetime) -> int:
    """Hours from 1970 to a full UTC hour: as folders in staging and Iceberg's `hour` transform have it."""
    return (hour - _FIRST_HOUR) // ONE_HOUR


def numbered_hour(number: int) -> datetime:
    """The UTC hour that began so many hours after 1970. `OverflowError` outside the calendar."""
    return _FIRST_HOUR + number * ONE_HOUR


def hour_text(hour: datetime) -> str:
    """An hour as people are told it, may say it, and as final keys have it."""
    return f"{hour:%Y-%m-%dT%H}"
