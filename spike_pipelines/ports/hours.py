"""Closed hours in the ledger."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.closed import Closing
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.ports.ledger import Ledger
from spike_pipelines.ports.transaction import LedgerTransaction


@dataclass(frozen=True, slots=True)
class DatasetHours:
    """How far the hours of a dataset are closed. `newest` is the newest hour whose log ends were written
    down, `closed` the newest closed one, `waiting` those not closed yet, oldest first; `positions` are of
    all the topics that the spike ever read."""

    dataset: str
    spike: str
    created_at: datetime
    newest: datetime | None
    closed: datetime | None
    waiting: tuple[Closing, ...]
    positions: Mapping[Partition, Position]


@dataclass(frozen=True, slots=True)
class HoursView:
    """`datasets` by name, from one snapshot that was taken after `now`."""

    now: datetime
    datasets: Mapping[str, DatasetHours]


@dataclass(frozen=True, slots=True)
class HourBook:
    """What readers see of one hour at a sequence number: final `rows`, `dead_letters`, `files` of both kinds
    and their `size` in bytes. `late_files` and `late_records` are those of them that live batches committed
    after the hour was closed. `closing` is None for an hour that is not due."""

    dataset: str
    hour: datetime
    sequence: int
    rows: int
    dead_letters: int
    files: int
    size: int
    late_files: int
    late_records: int
    closing: Closing | None


@dataclass(frozen=True, slots=True)
class WrittenHour:
    """What one application version of a spike made of one hour, and still stands: live files, their records
    of both kinds, and how many records it filtered, which are in no file."""

    spike: str
    dataset: str
    version: str
    hour: datetime
    files: int
    records: int
    filtered: int


class HoursTransaction(LedgerTransaction, Protocol):
    def waiting_hours(self, dataset: str) -> tuple[Closing, ...]:
        """Not closed yet, oldest first."""

    def ever_positions(self, spike: str) -> Mapping[Partition, Position]:
        """Of the live lane, with those of deleted topics."""

    def close_hours(self, dataset: str, closings: Collection[int]) -> None:
        """Close them at the dataset's sequence number of now. The caller has the spike's lock, and has read
        its positions before."""


class HoursLedger(Ledger, Protocol):
    def begin(self) -> AbstractContextManager[HoursTransaction]: ...

    def hours_view(self) -> HoursView: ...

    def filed_hours(self, dataset: str) -> tuple[datetime, ...]:
        """Hours that ever got a file."""

    def known_hours(self, dataset: str) -> tuple[datetime, ...]:
        """Hours whose log ends were written down."""

    def await_ends(
        self,
        dataset: str,
        due: Mapping[datetime, datetime],
        ends: Mapping[Partition, int],
        observed_at: datetime,
    ) -> None:
        """Write down what has to be committed for hours (hour → due at). What is there already stands."""

    def untold_hours(self, limit: int) -> tuple[HourBook, ...]:
        """Published closed hours of which no event tells, at most `limit` of them, and all those that changed
        since one told."""

    def mark_told(self, told: Mapping[int, int]) -> None:
        """Closing id → the sequence number that was told."""

    def hour_books(self, dataset: str, limit: int) -> tuple[HourBook, ...]:
        """The newest `limit` hours with files or a closing, newest first, at the published number."""

    def late_files(self, dataset: str, hours: Collection[datetime]) -> tuple[LedgerFile, ...]:
        """Live files that live batches committed to closed hours of these, newest first."""

    def written_hours(self, spike: str | None) -> tuple[WrittenHour, ...]:
        """By spike, version and hour."""
