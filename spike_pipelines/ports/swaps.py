"""Swaps in the ledger: a frozen set of live files is replaced by a batch's files."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.backfill import HourFacts
from spike_pipelines.domain.earlier import EarlierFacts
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.swap import NewSwap, Swap
from spike_pipelines.ports.books import SwapBook
from spike_pipelines.ports.ledger import Ledger
from spike_pipelines.ports.transaction import LedgerTransaction


class SwapTransaction(LedgerTransaction, Protocol):
    def add_swap(self, new: NewSwap) -> Swap:
        """Freeze the files it replaces. Raises `SwapBusy` if an open swap has one of them, `NotLive`."""

    def swap(self, number: int) -> Swap | None:
        """The swap, locked until the end of the transaction."""

    def replaced(self, swap: int) -> tuple[LedgerFile, ...]: ...

    def hour_facts(self, spike: str, dataset: str, hour: datetime) -> HourFacts:
        """What the live files of the hour were made of. Raises `Refused` for too many dead-letter files."""

    def earlier_facts(self, spike: str) -> EarlierFacts: ...

    def note_read(self, swap: int, records: int) -> None:
        """For whoever waits: so many records the swap has read as yet."""

    def require_frozen(self, swap: int) -> None:
        """Raise `NotLive` unless what the swap replaces and was read again is still part of the dataset."""

    def stage_swap(self, swap: int, batch: int, schema: str, elsewhere: int = 0) -> None:
        """Its batch is registered, with files of this schema (DDL), which is used from now on."""

    def finish_swap(self, swap: int, dataset: str, sequence: int) -> None:
        """Supersede exactly what was frozen, at `sequence`. Raises `NotLive` if one no longer is live, or if
        the live stream reads by now what the swap read below where it began."""

    def abort_swap(self, swap: Swap, problem: str) -> None: ...


class SwapLedger(Ledger, Protocol):
    def begin(self) -> AbstractContextManager[SwapTransaction]: ...

    def swaps(self, spike: str | None, limit: int) -> tuple[Swap, ...]:
        """Newest first; None: of all spikes."""

    def open_swaps(self, spike: str) -> tuple[Swap, ...]: ...

    def dead_letter_files(
        self, dataset: str, since: datetime | None, until: datetime | None, limit: int
    ) -> tuple[LedgerFile, ...]:
        """Live dead-letter files of hours in `[since, until)`, the newest hour first."""

    def fed_hours(self, spike: str, ranges: Iterable[OffsetRange]) -> tuple[datetime, ...]:
        """Hours that committed drivers' batches with any of these offsets counted records for, or that a swap
        has moved records of these batches into since."""

    def fed_ranges(self, spike: str, since: datetime) -> tuple[OffsetRange, ...]:
        """Ranges of committed drivers' batches that counted records for the hour of `since` or later."""

    def earlier_facts(self, spike: str) -> EarlierFacts: ...

    def swap_books(self) -> tuple[SwapBook, ...]: ...

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        """See `LedgerTransaction.sources`."""
