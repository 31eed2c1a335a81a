"""Records that are read again: dead letters that are replayed, hours that are backfilled."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.earlier import Place
from spike_pipelines.domain.offsets import OffsetRange


class KeepAlive(Protocol):
    """Called every few seconds by whoever works for long; what it raises ends the work."""

    def __call__(self, so_far: int | None = None, /) -> None:
        """`so_far`: how many records were read, where that is known."""


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """Dead letters of one reason in one file: how many, and one of them (raw bytes, cut short)."""

    reason: str
    records: int
    sample: bytes | None
    detail: str | None


class DeadLetterReader(Protocol):
    def reasons(self, bucket: str, key: str) -> tuple[ReasonCount, ...]:
        """What a dead-letter file holds, by reason. Raises `Transient`, `ObjectMissing`, `NotParquet`."""


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What is to be parsed again: keys of dead-letter files in the spike's final bucket, and of these only
    the records of `reason` if given. `planned_at` stands in for a clock. Files go below `prefix` (ends in
    `/`) of the staging bucket; None: count only."""

    spike: str
    keys: tuple[str, ...]
    reason: str | None
    planned_at: datetime
    prefix: str | None


@dataclass(frozen=True, slots=True)
class Reparsed:
    """What came out: every record of the files is in exactly one of final, dead-letter and filtered.
    `still` are the dead letters by reason."""

    batch: NewBatch
    still: Mapping[str, int]


class Reparser(Protocol):
    def reparse(self, order: ReplayOrder, keep_alive: KeepAlive) -> Reparsed:
        """Raises `Transient`, `InvalidSpec`, and what `keep_alive` raises."""


@dataclass(frozen=True, slots=True)
class BackfillOrder:
    """What is to be read again: `pieces` of the spike's topic, and of these the records of `hour`. Keys
    `dead` of dead-letter files in the final bucket tell which records belong to which hour for another
    reason than their timestamp. `planned_at` stands in for a clock. Files go below `prefix` (ends in `/`)
    of the staging bucket; None: count only."""

    spike: str
    hour: datetime
    pieces: tuple[OffsetRange, ...]
    dead: tuple[str, ...]
    planned_at: datetime
    prefix: str | None


@dataclass(frozen=True, slots=True)
class SurveyOrder:
    """Where in the `pieces` of the spike's topic records of the hours in `[since, until)` lie."""

    spike: str
    pieces: tuple[OffsetRange, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Surveyed:
    """`scanned`: all records of the pieces."""

    places: tuple[Place, ...]
    scanned: int


class Rereader(Protocol):
    def reread(self, order: BackfillOrder, keep_alive: KeepAlive) -> NewBatch:
        """Every record of the pieces is in the batch's counts, or in its `elsewhere`. Raises `Transient`,
        `InvalidSpec`, and what `keep_alive` raises."""

    def survey(self, order: SurveyOrder, keep_alive: KeepAlive) -> Surveyed:
        """By the records' Kafka timestamps. Errors: as `reread`."""

    def close(self) -> None:
        """Give back what the next order would have used."""
