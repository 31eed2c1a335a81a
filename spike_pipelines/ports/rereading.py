"""Records that are read again: dead letters that are replayed, hours that are backfilled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.offsets import OffsetRange


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
    def reparse(self, order: ReplayOrder, keep_alive: Callable[[], None]) -> Reparsed:
        """`keep_alive` is called every few seconds; what it raises ends the work.
        Raises `Transient`, `InvalidSpec`."""


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


class Rereader(Protocol):
    def reread(self, order: BackfillOrder, keep_alive: Callable[[], None]) -> NewBatch:
        """Every record of the pieces is in the batch's counts, or in its `elsewhere`. `keep_alive` is called
        every few seconds; what it raises ends the work. Raises `Transient`, `InvalidSpec`."""

    def close(self) -> None:
        """Give back what the next order would have used."""
