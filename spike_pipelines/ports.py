"""The edges of the platform, as the domain speaks of them.

Each Protocol has one adapter for the real thing, an in-memory one beside it where tests need speed,
and one contract suite under `tests/contract` that both pass. Adapters raise `Transient` when the
other side did not answer or its answer is unknown, and the errors named here; nothing else on purpose.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import Batch, BatchState, FileKind, NewBatch
from spike_pipelines.domain.epochs import Epoch, Phase
from spike_pipelines.domain.held import Recount
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.observed import DriverState as DriverState
from spike_pipelines.domain.observed import ObservedDriver as ObservedDriver
from spike_pipelines.domain.observed import Recovery as Recovery
from spike_pipelines.domain.observed import Refusal as Refusal
from spike_pipelines.domain.offsets import Break, OffsetRange, Partition, Position, RecordTime, TopicOffsets
from spike_pipelines.domain.operations import NewOperation, Operation
from spike_pipelines.domain.promotion import Intent, LedgerFile
from spike_pipelines.domain.spike import Spike


class Broker(Protocol):
    """What the platform asks of Kafka. Never writes to a topic.

    Where partitions are named, a topic that is not there raises `TopicMissing`, and one with another id
    `TopicChanged`.
    """

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicOffsets]:
        """Ids, log starts and log ends (as `read_uncommitted` sees them) of the topics that exist.

        One round of requests for all; a topic that does not exist is not in the answer.
        Raises `Transient` if any part of the answer is missing.
        """

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        """For each partition the first offset with a timestamp of `at` or later; the log end if none."""

    def first_records(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, RecordTime]:
        """For each partition the first record at or after the offset; absent where there is none."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`etag` without quotes, `size` in bytes, `metadata` with lower-case names."""

    key: str
    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParquetFooter:
    """What the footer of a Parquet file says."""

    rows: int


class ObjectStore(Protocol):
    """One S3 endpoint. `bucket` and keys are explicit in every call; keys never start with a slash."""

    def head(self, bucket: str, key: str) -> ObjectInfo | None: ...

    def footer(self, bucket: str, key: str, *, size: int) -> ParquetFooter:
        """Read a Parquet footer (the last bytes only). Raises `ObjectMissing`, `NotParquet`."""

    def copy(
        self, bucket: str, source: str, target: str, *, source_etag: str, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Server-side copy that creates `target` and never overwrites it.

        The source must have `source_etag`; `metadata` replaces the object's. A file over 5 GB is
        copied in parts. Raises `ObjectMissing` (no source), `SourceChanged` (another etag),
        `AlreadyExists` (a target is there: whose it is, `head` tells).
        """

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete the objects; those that are not there count as deleted."""

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, without metadata, in the store's order (S3: by key)."""

    def put(self, bucket: str, key: str, body: bytes) -> ObjectInfo: ...


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A file that readers of a dataset see: `s3://` URI, rows, bytes and UTC hour."""

    uri: str
    rows: int
    size: int
    hour: datetime


class Catalog(Protocol):
    """Iceberg tables: what readers see. Each change is one snapshot that carries a sequence number."""

    def ensure_table(self, table: str, spike: Spike, *, dead_letters: bool) -> None:
        """Create the table if it is not there, with columns from the spike's schema, partitioned by hour."""

    def sequence(self, table: str) -> int:
        """The ledger sequence number of the current snapshot; 0 for a table without one."""

    def publish(
        self,
        table: str,
        *,
        sequence: int,
        add: Iterable[LiveFile],
        remove: Iterable["LiveFile | str"],
        base: int | None = None,
    ) -> bool:
        """Bring the table to `sequence` in one snapshot. False if it is there already (or beyond).

        `base` is the sequence number the change was computed from: `Conflict` if the table is elsewhere.
        Without it, files that are there already are looked for first, which costs more the larger an
        hour is. To remove by URI alone costs a look at every file; a `LiveFile` says the hour. A file
        to remove that is not there counts as removed.
        """

    def files(self, table: str) -> Mapping[str, int]:
        """URI → rows of every data file in the current snapshot (for the audit)."""


class Cluster(Protocol):
    """Where drivers run: local processes or Kubernetes."""

    def drivers(self) -> tuple[ObservedDriver, ...]:
        """Every driver that this cluster knows, the newest of a spike last. One that cannot be looked at is
        in state `UNKNOWN`, so that the others are served (I11). Raises `Transient` rather than leaving any
        out."""

    def start(self, spike: Spike) -> ObservedDriver:
        """Start one driver more for the spike. It is not this call's business whether another one runs."""

    def stop(self, driver: str) -> None:
        """End this driver for good: ask, wait a short grace time, kill. Ended already: nothing happens."""

    def log_tail(self, driver: str, lines: int) -> tuple[str, ...]:
        """The last lines the driver wrote; empty where there is no log."""


class Appender(Protocol):
    """The appender API, seen from outside."""

    def since(self) -> datetime | None:
        """When it began to answer; None if it does not answer now. Never raises."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""


@dataclass(frozen=True, slots=True)
class DatasetState:
    """How far a dataset's ledger, its tables and its events are. All are sequence numbers."""

    name: str
    spike: str
    sequence: int
    published: int
    reported: int


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

    `oldest` is the smallest number, `blocked` says that it is held, `free` that no live lease covers
    the spike, `token` is the newest lease's (0 before the first).
    """

    spike: str
    lane: str
    batches: int
    oldest: int
    oldest_staged_at: datetime
    blocked: bool
    token: int
    free: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """The committed ranges of one partition of a spike: how many there are, how many offsets they
    have, how many of those were declared lost, and every place where they do not cover
    `[baseline, committed_end)` exactly once. `staged` is where the last live range ends, staged ones
    included (the baseline where there is none)."""

    spike: str
    position: Position
    ranges: int
    offsets: int
    breaks: tuple[Break, ...]
    staged: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class CommittedSums:
    """Sums over a spike's committed batches that no rewind superseded. `unbalanced` are the numbers of
    batches whose counts do not agree with each other or with their files; `late` those registered after
    a newer epoch opened; `unexplained` those aborted, superseded, released or lost by no operation of
    that kind; `undead` those given up or superseded that still have a live file or range."""

    spike: str
    batches: int
    read: int
    final: int
    dead_letter: int
    filtered: int
    unbalanced: tuple[int, ...]
    late: tuple[int, ...]
    unaccounted: int = 0
    unexplained: tuple[int, ...] = ()
    undead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Books:
    """Coverage and sums from one snapshot of the database, and how many operations of each kind there
    were."""

    coverage: tuple[Coverage, ...]
    sums: tuple[CommittedSums, ...]
    operations: Mapping[str, int] = field(default_factory=dict)


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


class LedgerTransaction(Protocol):
    """One database transaction: all of it or nothing. Times are the database's.

    Methods that end in a conditional write raise `Conflict` where the condition does not hold, so
    that the transaction rolls back.
    """

    def now(self) -> datetime: ...

    # spikes and epochs
    def lock_spike(self, spike: str, dataset: str) -> None:
        """Serialise on this spike until the end of the transaction. The first one writes it down."""

    def latest_epoch(self, spike: str) -> Epoch | None: ...

    def driver_epoch(self, spike: str, driver: str) -> Epoch | None:
        """The newest epoch that this driver ever had of this spike."""

    def add_epoch(self, epoch: Epoch) -> None:
        """Insert an open epoch; an older open one becomes superseded."""

    def retire_epoch(self, spike: str, driver: str) -> bool:
        """Fence a driver: its open epoch is retired. False if it has none."""

    def beat(
        self,
        spike: str,
        epoch: int,
        nonce: str,
        *,
        phase: Phase,
        problem: str | None,
        batch_started_at: datetime | None,
        progress_at: datetime | None = None,
        read: Mapping[Partition, int],
    ) -> None:
        """Note a heartbeat of the open epoch. Raises `Fenced` if it is not that."""

    def refuse(self, spike: str, refusal: Refusal | None) -> None: ...

    def add_recovery(self, recovery: Recovery) -> None: ...

    # offsets
    def positions(self, spike: str, lane: str) -> Mapping[Partition, Position]: ...

    def add_positions(self, spike: str, lane: str, baselines: Mapping[Partition, int]) -> None: ...

    def advance_staged(self, spike: str, lane: str, ranges: Iterable[OffsetRange]) -> None: ...

    def advance_committed(self, spike: str, lane: str, ranges: Iterable[OffsetRange]) -> None: ...

    # batches and files
    def find_batch(self, identity: str) -> Batch | None: ...

    def add_batch(
        self, spike: str, lane: str, batch: NewBatch, *, epoch: int, identity: str, prefix: str
    ) -> Batch:
        """Write a staged batch down; `prefix` goes before the keys of its files."""

    def unfinished(self, spike: str, lane: str) -> int: ...

    def next_batch(self, spike: str, lane: str) -> Batch | None:
        """The oldest unfinished batch, held ones included."""

    def batch(self, number: int) -> Batch | None: ...

    def files(self, batch: int) -> tuple[LedgerFile, ...]: ...

    def set_state(
        self, batch: int, old: BatchState, new: BatchState, *, reason: str | None = None
    ) -> None: ...

    def intend(self, intents: Iterable[Intent]) -> None: ...

    def commit_files(
        self, dataset: str, batch: int, etags: Mapping[int, str], *, run_id: str | None = None
    ) -> int:
        """Make the files live at the dataset's next sequence number, and answer that number. `run_id` is
        the Dagster run that did it."""

    # leases
    def require_lease(self, lease: Lease) -> None:
        """Raise `LeaseLost` unless the lease's token is the newest and has not expired."""

    def revoke_lease(self, resource: str) -> None:
        """End whoever's lease, and keep others from acting under one until this transaction ends."""

    # audited operations
    def bump_epoch(self, spike: str, by: str) -> int:
        """Grant a newer epoch to nobody: every driver of before is fenced. Answers its number."""

    def add_operation(self, new: NewOperation) -> int: ...

    def find_operation(self, request: str) -> Operation | None: ...

    def next_sequence(self, dataset: str, *, above: int = 0) -> int:
        """The dataset's next sequence number, beyond `above`; it is the dataset's from now on."""

    def unfinished_batches(self, spike: str, lane: str) -> tuple[Batch, ...]:
        """Oldest first."""

    def committed_beyond(self, spike: str, lane: str, points: Mapping[Partition, int]) -> tuple[Batch, ...]:
        """Live committed batches, oldest first, from the first one on that reaches beyond a point."""

    def abort(self, batches: Collection[int], operation: int) -> None:
        """Give unfinished batches up: their offsets may be read again, their final keys stay known."""

    def supersede(self, batches: Collection[int], sequence: int, operation: int) -> None:
        """Take committed batches and their files out of the dataset at `sequence`. Raises `Refused` where a
        swap replaced one of the files and is not superseded with them."""

    def move_ends(self, spike: str, lane: str, points: Mapping[Partition, int]) -> None:
        """Set staged and committed end to the points, and the baseline where it lies beyond."""

    def close_positions(self, spike: str, lane: str, topic_ids: Iterable[str], operation: int) -> None:
        """Read nothing more of these incarnations; what is staged of them is still committed."""

    def add_lost(
        self, spike: str, lane: str, ranges: Iterable[OffsetRange], *, epoch: int, operation: int
    ) -> Batch:
        """A batch without records, committed in its turn: behind what is staged before it."""

    def release_batch(self, batch: int, counted: Recount, operation: int) -> None:
        """A held batch goes back to be promoted, with the counts that the appender found."""


class Ledger(Protocol):
    """The database of record: epochs, offsets, batches, files. Everything else is a projection of it."""

    def begin(self) -> AbstractContextManager[LedgerTransaction]:
        """Commits at the end of the block, rolls back on an exception. `Transient` if the database did
        not answer; after an unknown commit too: read the state back."""

    def acquire(self, resource: str, holder: str, seconds: float) -> Lease | None:
        """The lease with a new token, or None while somebody else's is alive."""

    def renew(self, lease: Lease, seconds: float) -> Lease: ...

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

    def mark_published(self, dataset: str, sequence: int) -> None: ...

    def unreported(self, dataset: str) -> tuple[HourReport, ...]: ...

    def mark_reported(self, dataset: str, sequence: int) -> None: ...

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

    def live_files(self, dataset: str, sequence: int) -> tuple[LedgerFile, ...]:
        """Files that were live at that sequence number, in the order they became so."""

    def committed_batches(self, dataset: str, sequence: int) -> tuple[Batch, ...]:
        """Batches committed to the dataset up to that sequence number, oldest first."""

    def known_final_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the keys that the ledger knows: live, superseded or intended."""

    def staged_files(self) -> tuple[tuple[str, LedgerFile], ...]:
        """(spike, file) of unfinished batches."""
