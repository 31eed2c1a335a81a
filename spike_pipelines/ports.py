"""The edges of the platform, as the domain speaks of them.

Each Protocol has one adapter for the real thing, an in-memory one beside it where tests need speed,
and one contract suite under `tests/contract` that both pass. Adapters raise `Transient` when the
other side did not answer or its answer is unknown, and the errors named here; nothing else on purpose.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NewType, Protocol

from spike_pipelines.domain.backfill import HourFacts
from spike_pipelines.domain.batch import Batch, BatchState, FileKind, FileState, NewBatch
from spike_pipelines.domain.binding import Binding
from spike_pipelines.domain.closed import Closing
from spike_pipelines.domain.contents import RowGroup
from spike_pipelines.domain.epochs import Epoch, Phase
from spike_pipelines.domain.held import Recount
from spike_pipelines.domain.lag import LagReport, Loss, Waiting
from spike_pipelines.domain.lag_history import Sample
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.observed import DriverState as DriverState
from spike_pipelines.domain.observed import ObservedDriver as ObservedDriver
from spike_pipelines.domain.observed import Recovery as Recovery
from spike_pipelines.domain.observed import Refusal as Refusal
from spike_pipelines.domain.offsets import Break, OffsetRange, Partition, Position, RecordTime, TopicOffsets
from spike_pipelines.domain.operations import Move, NewOperation, Operation
from spike_pipelines.domain.overlays import NewOverlay, Overlay
from spike_pipelines.domain.promotion import Intent, LedgerFile
from spike_pipelines.domain.spark_application import ObservedApplication, PodSight, Sighting
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import NewSwap, Swap, SwapKind


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
class SurveyedTopic:
    """Offsets as a `read_committed` reader sees them (the end is the last stable offset), and for how long
    Kafka keeps records; None: not deleted by age."""

    offsets: TopicOffsets
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen of many topics. A topic with a problem (a sentence) was not seen in full and is not
    among `topics`; one that is in neither does not exist."""

    topics: Mapping[str, SurveyedTopic]
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FirstRecords:
    """The first committed record at or after an offset, None if there is none. A partition that could not be
    read is not among `records`, and `problems` says why."""

    records: Mapping[Partition, RecordTime | None]
    problems: Mapping[Partition, str] = field(default_factory=dict)


class Surveyor(Protocol):
    """Kafka as those see it who watch a fleet: one broker that is down hides its own topics only (I11)."""

    def survey(self, names: Iterable[str]) -> Survey:
        """One round of requests for all topics. Raises `Transient` if nobody answers."""

    def first_records_after(self, offsets: Mapping[Partition, int]) -> FirstRecords:
        """For each partition, one offset. Raises `Transient` if nobody answers."""


class OffsetMirror(Protocol):
    """Consumer groups, so that every Kafka tool shows what is committed. Written, never read back."""

    def mirror(self, groups: Mapping[str, Mapping[Partition, int]]) -> Mapping[str, str]:
        """Set each group's offsets; answers the groups that refused, with the reason. Raises `Transient` if
        nobody answers."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`etag` without quotes, `size` in bytes, `metadata` with lower-case names; `modified_at` is only in
    listings, `etag_is_md5` (the etag is made of the content alone, and the same for a copy) only in answers
    of `head`."""

    key: str
    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = field(default=None, compare=False)
    etag_is_md5: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class ParquetFooter:
    """What the footer of a Parquet file says.

    `groups` is None where its statistics do not tell where all rows come from; `tail` are the file's last
    bytes, the whole footer among them.
    """

    rows: int
    groups: tuple[RowGroup, ...] | None = None
    tail: bytes = field(default=b"", repr=False)


class ObjectStore(Protocol):
    """One S3 endpoint. `bucket` and keys are explicit in every call; keys never start with a slash."""

    def head(self, bucket: str, key: str) -> ObjectInfo | None: ...

    def read(self, bucket: str, key: str) -> bytes | None:
        """A small object's content; None if it is not there."""

    def footer(self, bucket: str, key: str, *, size: int) -> ParquetFooter:
        """Read a Parquet footer (the last bytes only). Raises `ObjectMissing`, `NotParquet`."""

    def copy(
        self,
        bucket: str,
        source: str,
        target: str,
        *,
        source_etag: str,
        size: int,
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        """Server-side copy that creates `target` and never overwrites it.

        The source must have `source_etag`, and so `size` bytes; `metadata` replaces the object's. A file
        over 5 GB is copied in parts. Raises `ObjectMissing` (no source), `SourceChanged` (another etag),
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

    def check_schema(self, table: str, spike: Spike) -> None:
        """Raise `InvalidSpec`, naming the column, unless the spike's schema extends the table's. Changes
        nothing; a table that is not there takes any."""

    def misfit(
        self,
        table: str,
        spike: Spike,
        files: Iterable[tuple["LiveFile", ParquetFooter]],
        *,
        dead_letters: bool,
    ) -> str | None:
        """Why one of the files could not be published to the table, judged by its footer alone, or None.
        Ensures the table. Raises `InvalidSpec`, `Transient`."""

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

    def obstacle(self, spike: Spike) -> str | None:
        """Why `start` would fail until a person has done something, as a sentence; None: nothing is known."""

    def stop(self, driver: str) -> None:
        """End this driver for good: ask, wait a short grace time, kill. Ended already: nothing happens."""

    def log_tail(self, driver: str, lines: int) -> tuple[str, ...]:
        """The last lines the driver wrote; empty where there is no log."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """`revision` numbers the deployments of a spike; `changed`: its resources are now others than before."""

    revision: int
    changed: bool


class Deployer(Protocol):
    """What puts a spike into the cluster, and remembers what was there before. Raises `InvalidSpec` where the
    application cannot be deployed as it is, `Conflict` while somebody else deploys the same."""

    def deploy(self, spike: Spike, application: Path) -> Deployed: ...

    def good_revision(self, spike: Spike, bad: int, stable: str | None) -> int | None:
        """What to go back to from revision `bad`: of version `stable`, if one is known to have worked."""

    def roll_back(self, spike: Spike, revision: int) -> None: ...

    def application(self, spike: Spike, revision: int) -> str:
        """The text of the application file of that revision."""


class ApplicationShelf(Protocol):
    """Where appender and code location of a cluster read the application files."""

    def put(self, name: str, text: str) -> None:
        """Twice is as once; other spikes' files stay."""


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
    that kind; `undead` those given up or superseded that still have a live file or range; `halfway` those
    whose files are committed without them, or not with them; `vanished` those with a file that is
    superseded by no swap and no rewind."""

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
    halfway: tuple[int, ...] = ()
    vanished: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceBook:
    """A dataset's sequence number, the `newest` that a commit or an operation has, and the first of those
    that are `missing` before others."""

    dataset: str
    sequence: int
    newest: int
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Books:
    """Coverage, sums and sequence numbers from one snapshot of the database, and how many operations of each
    kind there were."""

    coverage: tuple[Coverage, ...]
    sums: tuple[CommittedSums, ...]
    operations: Mapping[str, int] = field(default_factory=dict)
    sequences: tuple[SequenceBook, ...] = ()


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


@dataclass(frozen=True, slots=True)
class LagView:
    """What the ledger knows of every spike's lag, from one snapshot (live lane). `waiting`: unfinished
    batches; `read`: offsets of the open epoch's last heartbeat; `history`: the window's samples, oldest
    first; `mirrored`: the sum of committed ends that the consumer group has."""

    now: datetime
    positions: Mapping[str, Mapping[Partition, Position]]
    waiting: Mapping[str, Waiting]
    epochs: Mapping[str, Epoch]
    read: Mapping[str, Mapping[Partition, int]]
    commits: Mapping[str, datetime]
    created: Mapping[str, datetime]
    recoveries: Mapping[str, tuple[Recovery, ...]]
    losses: Mapping[str, Loss]
    history: Mapping[str, tuple[Sample, ...]]
    mirrored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts for `/metrics` at one moment: unfinished batches and their files by (spike, state), all that
    was ever committed by spike, recoveries by (spike, verdict), when each duty last succeeded, and the
    seconds from staged to committed of the batches committed lately: (median, longest) by spike."""

    at: datetime
    batches: Mapping[tuple[str, str], int]
    files: Mapping[tuple[str, str], int]
    committed: Mapping[str, int]
    recoveries: Mapping[tuple[str, str], int]
    duties: Mapping[str, datetime]
    latencies: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class LagLedger(Protocol):
    """The ledger's side of watching lag. `SqlLedger` is this too."""

    def lag_view(self, history: timedelta, restarts: timedelta) -> LagView:
        """Raises `Transient` if the database did not answer."""

    def record_lag(self, reports: Mapping[str, LagReport]) -> None:
        """Write a look down: the newest report of each spike, its samples, and a loss that is seen for the
        first time or has grown. The same again changes nothing."""

    def latest_lag(self) -> Mapping[str, LagReport]: ...

    def lag_samples(self, spike: str, since: datetime) -> tuple[Sample, ...]:
        """Oldest first; minutes where there are any, further back every ten minutes."""

    def mark_mirrored(self, sums: Mapping[str, int | None]) -> None: ...

    def acknowledge_loss(self, spike: str, who: str, why: str) -> Loss | None:
        """The loss that is acknowledged now; None if none stands open."""

    def recent_breaks(self, since: datetime) -> Mapping[str, tuple[Break, ...]]:
        """Where ranges committed since then do not continue one another or do not end at the committed
        end. Spikes without a commit since then are absent."""

    def tally(self) -> Tally: ...

    def succeeded(self, duty: str) -> None: ...


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

    def bind(self, spike: str, epoch: int, binding: Binding) -> None:
        """Write down what an epoch is opened with."""

    def binding(self, spike: str, epoch: int) -> Binding | None:
        """What an epoch was opened with; None for one that is older than this was written down."""

    def use_binding(self, spike: str, epoch: int) -> None:
        """A batch of the epoch is registered: from now on the spike is bound to what it was opened with."""

    def bound(self, spike: str) -> Binding | None:
        """What the spike is bound to; None while it has neither an unfinished batch nor a committed file
        that retention has not removed."""

    def used_schemas(self, spike: str) -> tuple[str, ...]:
        """Every schema, as DDL, that a batch was registered under."""

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
        self, spike: str, lane: str, batch: NewBatch, *, epoch: int | None, identity: str, prefix: str
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

    def committed_beyond(
        self, spike: str, lane: str, points: Mapping[Partition, int], *, since: int | None = None
    ) -> tuple[Batch, ...]:
        """Live committed batches, oldest first, from the first one on that reaches beyond a point, or from
        number `since` on."""

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        """By the batch of each finished swap, the drivers' batches whose records its files hold."""

    def abort(self, batches: Collection[int], operation: int) -> None:
        """Give unfinished batches up: their offsets may be read again, their final keys stay known."""

    def supersede(self, batches: Collection[int], sequence: int, operation: int) -> None:
        """Take committed batches and their files out of the dataset at `sequence`. Raises `Refused` where a
        swap replaced one of the files and is not superseded with them."""

    def reopen_hours(self, dataset: str, moves: Iterable[Move], operation: int) -> tuple[Closing, ...]:
        """Closed hours of which the moves take something back are not closed any more: they wait for the
        same log ends again. Answers what they were."""

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


# swaps


@dataclass(frozen=True, slots=True)
class SwapBook:
    """What the ledger has of one finished swap, for the audit: its batch, how many records a backfill had to
    find, rows of the files it replaced, how many of these are not superseded at the swap's sequence number,
    and its own counts."""

    number: int
    spike: str
    kind: SwapKind
    batch: int
    expected: int | None
    replaced_rows: int
    not_superseded: int
    read: int
    final: int
    dead_letter: int
    filtered: int
    file_rows: int


class SwapTransaction(LedgerTransaction, Protocol):
    def add_swap(self, new: NewSwap) -> Swap:
        """Freeze the files it replaces. Raises `SwapBusy` if an open swap has one of them, `NotLive`."""

    def swap(self, number: int) -> Swap | None:
        """The swap, locked until the end of the transaction."""

    def replaced(self, swap: int) -> tuple[LedgerFile, ...]: ...

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        """By the batch number of each finished swap, the drivers' batches whose records it took, through
        any number of swaps. What is tied so is superseded together or not at all."""

    def hour_facts(self, spike: str, dataset: str, hour: datetime) -> HourFacts:
        """What the live files of the hour were made of. Raises `Refused` for too many dead-letter files."""

    def stage_swap(self, swap: int, batch: int, elsewhere: int = 0) -> None: ...

    def finish_swap(self, swap: int, dataset: str, sequence: int) -> None:
        """Supersede exactly what was frozen, at `sequence`. Raises `NotLive` if one no longer is live."""

    def abort_swap(self, swap: Swap, problem: str) -> None: ...


class SwapLedger(Ledger, Protocol):
    def begin(self) -> AbstractContextManager[SwapTransaction]: ...

    def swaps(self, spike: str, limit: int) -> tuple[Swap, ...]:
        """Newest first."""

    def open_swaps(self, spike: str) -> tuple[Swap, ...]: ...

    def dead_letter_files(
        self, dataset: str, since: datetime | None, until: datetime | None, limit: int
    ) -> tuple[LedgerFile, ...]:
        """Live dead-letter files of hours in `[since, until)`, the newest hour first."""

    def fed_hours(self, spike: str, ranges: Iterable[OffsetRange]) -> tuple[datetime, ...]:
        """Hours that committed drivers' batches with any of these offsets counted records for."""

    def fed_ranges(self, spike: str, since: datetime) -> tuple[OffsetRange, ...]:
        """Ranges of committed drivers' batches that counted records for the hour of `since` or later."""

    def swap_books(self) -> tuple[SwapBook, ...]: ...

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        """See `SwapTransaction.sources`."""


# dead letters


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


# backfills


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


# retention


@dataclass(frozen=True, slots=True)
class StagedFate:
    """What the ledger knows of a staged object: its batch's state, and whether it was cleaned up."""

    state: BatchState
    cleaned: bool


@dataclass(frozen=True, slots=True)
class Condemned:
    """A final object that nobody is to see any more. `again` says that it was deleted once before."""

    file: int
    dataset: str
    key: str
    size: int
    state: FileState
    again: bool


class RetentionLedger(SwapLedger, Protocol):
    def staged_fates(self, keys: Iterable[str]) -> Mapping[str, StagedFate]:
        """By staging key; what the ledger does not know is absent."""

    def registered_below(self, prefixes: Iterable[str]) -> frozenset[str]:
        """Those of the key prefixes below which some file is registered."""

    def ended_swaps(self, numbers: Iterable[int]) -> Mapping[int, bool]:
        """By number, whether a swap that exists has ended."""

    def superseded(
        self, dataset: str, kind: FileKind, *, gone_at: int, before: datetime, limit: int, after: int = 0
    ) -> tuple[Condemned, ...]:
        """Superseded at a sequence number up to `gone_at`, by a commit before `before`, never deleted;
        ids above `after`, in order."""

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


class SnapshotCatalog(Catalog, Protocol):
    def oldest_sequence(self, table: str) -> int:
        """The smallest sequence number a reader can still go back to; 0 if it cannot be told."""

    def expirable(self, table: str, *, before: datetime, keep: int) -> int:
        """How many snapshots `expire` would remove."""

    def expire(self, table: str, *, before: datetime, keep: int) -> int:
        """Remove snapshots older than `before`, never the newest `keep`; answers how many. The table's
        sequence number stays."""


# supervision on Kubernetes

Manifest = NewType("Manifest", str)  # a SparkApplication as JSON, understood by the Kubernetes adapter only


@dataclass(frozen=True, slots=True)
class Specs:
    """Hashes of a spike's specs: those that could be made again, and the last that was seen to work."""

    known: frozenset[str] = frozenset()
    stable: str | None = None


class SupervisionTransaction(LedgerTransaction, Protocol):
    def add_overlay(self, new: NewOverlay, before: str | None) -> Overlay: ...


class SupervisionLedger(Ledger, Protocol):
    """What the supervisor of a fleet on Kubernetes keeps: all of it may be lost without losing a record."""

    def begin(self) -> AbstractContextManager[SupervisionTransaction]: ...

    def sightings(self) -> Mapping[str, Sighting]: ...

    def note_sightings(self, sightings: Iterable[Sighting]) -> None: ...

    def open_overlays(self) -> Mapping[str, tuple[Overlay, ...]]:
        """By spike, those that have not ended, expired ones included; oldest first."""

    def end_overlays(self, ids: Iterable[int]) -> None: ...

    def specs(self) -> Mapping[str, Specs]: ...

    def note_spec(self, spike: str, spec_hash: str, manifest: Manifest) -> None:
        """Write a deployed spec down; the same again changes nothing."""

    def mark_stable(self, spike: str, spec_hash: str) -> None:
        """This spec was seen to work. A spec that was not written down is not marked."""

    def manifest(self, spike: str, spec_hash: str | None = None) -> Manifest | None:
        """Of this spec, or of the newest."""


@dataclass(frozen=True, slots=True)
class Clues:
    """What a driver left behind: its last lines and the events of its pod and resource, oldest first.
    What could not be had is missing, and `problem` says so."""

    log: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    problem: str | None = None


class ApplicationCluster(Cluster, Protocol):
    """SparkApplications of one namespace. What changes one is conditional on the version that was seen:
    `Conflict` if it has changed since, or is gone. Nothing waits for the operator."""

    def applications(self) -> tuple[ObservedApplication, ...]:
        """Every one that carries our label, from one list. One that cannot be understood has a `problem`.
        Raises `Transient` rather than leaving any out."""

    def pods(self, names: Collection[str]) -> Mapping[str, tuple[PodSight, ...]]:
        """Driver pods by resource name, oldest first, also of resources without one. Raises `Transient`."""

    def kick(self, app: ObservedApplication) -> None:
        """Touch the resource, so that the operator looks at it."""

    def suspend(self, app: ObservedApplication, why: str, request: str | None) -> None:
        """The first half of a restart; `request` is the annotation that it answers."""

    def resume(self, app: ObservedApplication) -> None:
        """The second half."""

    def resubmit(self, app: ObservedApplication, why: str, request: str | None) -> None:
        """Change the spec in nothing that matters, which restarts also what the operator is done with."""

    def carries(self, app: ObservedApplication, new: NewOverlay, stable: Manifest | None) -> str | None:
        """What the resource has in the place of this overlay, as JSON; None: nothing."""

    def converge(
        self,
        app: ObservedApplication,
        holding: Sequence[Overlay],
        ending: Sequence[Overlay],
        stable: Manifest | None,
    ) -> None:
        """Make the resource carry the overlays that hold; give back what the others replaced, where nobody
        else changed it. `stable` is the spec that an overlay of that kind goes back to."""

    def recreate(self, manifest: Manifest) -> None:
        """Make a deleted resource again. One that is there meanwhile is left as it is."""

    def manifest(self, app: ObservedApplication) -> Manifest:
        """The resource as it could be made again."""

    def clues(self, app: ObservedApplication, lines: int) -> Clues:
        """Never raises: a recovery does not fail for want of an explanation."""

    def tell(self, app: ObservedApplication, reason: str, sentence: str) -> None:
        """A Kubernetes Event on the resource, best effort. `reason` is CamelCase."""


# closed hours


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
    """Live files of one hour that one application version of a spike wrote; records of both kinds."""

    spike: str
    dataset: str
    version: str
    hour: datetime
    files: int
    records: int


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
