"""The ledger outside a transaction: leases, publication, reports, what people look up."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import Batch, FileKind
from spike_pipelines.domain.binding import Binding, Written
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.observed import Recovery, Refusal
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position
from spike_pipelines.domain.operations import Operation
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.ports.books import Books
from spike_pipelines.ports.transaction import LedgerTransaction


@dataclass(frozen=True, slots=True)
class DatasetState:
    """How far a dataset's ledger, its tables and its events are, in sequence numbers, and since when the
    first number that its tables do not have is in the ledger."""

    name: str
    spike: str
    sequence: int
    published: int
    reported: int
    unpublished_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class HourReport:
    """What became live in one hour of a dataset between two sequence numbers: `rows` and
    `dead_letters` in records, `size` in bytes, `latency_seconds` the slowest batch's way from staged
    to committed, `ranges` the offsets its batches read (records of other hours included)."""

    dataset: str
    hour: datetime
    sequence: int
    files: int
    rows: int
    dead_letters: int
    size: int
    latency_seconds: float
    batches: tuple[int, ...]
    ranges: tuple[OffsetRange, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits at the appender for one spike, at least one batch.

    `blocked` says that the one with the smallest number is held, `free` that no live lease covers the spike.
    """

    spike: str
    batches: int
    oldest_staged_at: datetime
    blocked: bool
    free: bool


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """All that the ledger knows of a batch: who wrote it (`driver`; None if no driver did), and where it
    is committed, which Dagster run (`run_id`) made it number `sequence` of which dataset."""

    batch: Batch
    driver: str | None
    files: tuple[LedgerFile, ...]
    operations: tuple[Operation, ...]
    dataset: str | None = None
    sequence: int | None = None
    run_id: str | None = None


class Ledger(Protocol):
    """The database of record: epochs, offsets, batches, files. Everything else is a projection of it."""

    def begin(self) -> AbstractContextManager[LedgerTransaction]:
        """Commits at the end of the block, rolls back on an exception. `Transient` if the database did
        not answer; after an unknown commit too: read the state back."""

    def acquire(self, resource: str, holder: str, seconds: float) -> Lease | None:
        """The lease with a new token, or None while somebody else's is alive."""

    def renew(self, lease: Lease, seconds: float) -> None: ...

    def release(self, lease: Lease) -> None: ...

    def lease_holder(self, resource: str) -> str | None:
        """Who has the lease now, if anybody."""

    def lease_state(self, resource: str) -> tuple[int, bool]:
        """The newest token (0 before the first), and whether that lease is alive."""

    def backlog(self) -> tuple[Backlog, ...]: ...

    def datasets(self) -> tuple[DatasetState, ...]: ...

    def changed_files(
        self, dataset: str, kind: FileKind, *, current: int, target: int
    ) -> tuple[LedgerFile, ...]:
        """Files that were added or removed at a sequence number in `(current, target]`."""

    def written_between(self, dataset: str, *, current: int, target: int) -> tuple[Written, ...]:
        """With what the batches were written that were committed at a sequence number in `(current,
        target]`, each once, in the order of their commits."""

    def mark_published(self, dataset: str, sequence: int) -> None: ...

    def unreported(self, dataset: str) -> tuple[HourReport, ...]: ...

    def mark_reported(self, dataset: str, sequence: int, *, since: int) -> None:
        """What was committed in `(since, sequence]` was reported; not if more is to be reported meanwhile."""

    def forget_reported(self, dataset: str) -> None:
        """Every hour is to be reported again."""

    def cleanable(self, spike: str, limit: int) -> Mapping[int, tuple[str, ...]]:
        """Published batches whose staged objects are still there: number → staging keys."""

    def uncleaned(self) -> tuple[str, ...]:
        """Spikes with a published batch whose staged objects are still there."""

    def mark_cleaned(self, batches: Iterable[int]) -> None: ...

    # what people and sensors look at: one query each, for all spikes (live lane)

    def now(self) -> datetime: ...

    def epochs(self) -> Mapping[str, Epoch]:
        """Each spike's newest epoch."""

    def refusals(self) -> Mapping[str, Refusal]: ...

    def recoveries(self, since: datetime) -> Mapping[str, tuple[Recovery, ...]]:
        """Oldest first."""

    def all_positions(self) -> Mapping[str, Mapping[Partition, Position]]: ...

    def last_commits(self) -> Mapping[str, datetime]: ...

    def last_batches(self, spike: str, limit: int) -> tuple[Batch, ...]:
        """Newest first."""

    # what people look up

    def held(self) -> Mapping[str, Batch]:
        """The batch that blocks a spike, by spike."""

    def operations(self, spike: str | None, limit: int) -> tuple[Operation, ...]:
        """Newest first."""

    def record(self, batch: int) -> BatchRecord | None: ...

    def covering(self, topic: str, partition: int, offset: int) -> tuple[int, ...]:
        """Batches whose ranges have the offset, of all incarnations of the topic: live ones first."""

    def readers(self, topic: str) -> Mapping[str, tuple[Position, ...]]:
        """Spikes that read or read the topic, closed positions included."""

    def batch_of(self, key: str) -> int | None:
        """The batch of the file with this final or staging key."""

    # what the audit recomputes

    def books(self) -> Books: ...

    def bindings(self) -> Mapping[str, Binding]:
        """By spike, what it was last bound to: see `LedgerTransaction.bound`."""

    def live_files(self, dataset: str, sequence: int) -> tuple[LedgerFile, ...]:
        """Files that were live at that sequence number, in the order they became so."""

    def committed_batches(self, dataset: str, sequence: int) -> tuple[Batch, ...]:
        """Batches committed to the dataset up to that sequence number, oldest first."""

    def known_final_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the keys that the ledger knows: live, superseded or intended."""

    def staged_files(self) -> tuple[tuple[str, LedgerFile], ...]:
        """(spike, file) of unfinished batches."""
