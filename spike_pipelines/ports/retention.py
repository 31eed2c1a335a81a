"""What the ledger knows of what may be deleted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import BatchState, FileKind
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.ports.swaps import SwapLedger


@dataclass(frozen=True, slots=True)
class StagedFate:
    """What the ledger knows of a staged object: its batch's state, and whether it was cleaned up."""

    state: BatchState
    cleaned: bool


@dataclass(frozen=True, slots=True)
class Condemned:
    """A final object that nobody is to see any more. `again` says that it was deleted once before."""

    file: int
    key: str
    size: int
    again: bool


class RetentionLedger(SwapLedger, Protocol):
    def staged_fates(self, keys: Iterable[str]) -> Mapping[str, StagedFate]:
        """By staging key; what the ledger does not know is absent."""

    def registered_below(self, prefixes: Iterable[str]) -> frozenset[str]:
        """Those of the key prefixes below which some file is registered."""

    def ended_swaps(self, numbers: Iterable[int]) -> Mapping[int, bool]:
        """By number, whether a swap that exists has ended."""

    def superseded(
        self, dataset: str, kind: FileKind, *, gone_at: int, limit: int, after: int = 0
    ) -> tuple[Condemned, ...]:
        """Superseded at a sequence number up to `gone_at` that is published, not deleted; ids above `after`,
        in order."""

    def published_before(self, dataset: str, at: datetime) -> int:
        """The newest commit's sequence number of which it is known that it was published before `at`: staging
        was cleaned up by then. 0 where none is."""

    def tombstones(self, spike: str, limit: int, after: int = 0) -> tuple[Condemned, ...]:
        """Final keys of aborted intents that were never swept; ids above `after`, in order."""

    def swept_once(self, spike: str, before: datetime, limit: int, after: int = 0) -> tuple[Condemned, ...]:
        """Deleted once before `before`, to be deleted once more; ids above `after`, in order."""

    def kept_superseded(self, dataset: str) -> tuple[LedgerFile, ...]:
        """Superseded files that retention has not condemned: readers of older snapshots need them."""

    def condemned_early(self) -> tuple[str, ...]:
        """Final keys that were condemned although their replacement is not published (I9): none."""

    def mark_condemned(self, files: Iterable[int]) -> None: ...

    def mark_swept(self, files: Iterable[int]) -> None: ...
