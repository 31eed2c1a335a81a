"""One transaction of the ledger: what may change together."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.batch import Batch, BatchState, NewBatch
from spike_pipelines.domain.binding import Binding, Written
from spike_pipelines.domain.closed import Closing
from spike_pipelines.domain.epochs import Epoch, Phase
from spike_pipelines.domain.held import Recount
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.observed import Recovery, Refusal
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position
from spike_pipelines.domain.operations import Move, NewOperation, Operation
from spike_pipelines.domain.promotion import Intent, LedgerFile


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
        """Every schema, as DDL, that a batch was registered under: a driver's, or a swap's that was not
        aborted."""

    def written(self, batch: int) -> Written:
        """With what the batch was written."""

    def refuse(self, spike: str, refusal: Refusal | None) -> None: ...

    def add_recovery(self, recovery: Recovery) -> None: ...

    # offsets
    def positions(self, spike: str, lane: str) -> Mapping[Partition, Position]: ...

    def add_positions(self, spike: str, lane: str, baselines: Mapping[Partition, int]) -> None: ...

    def begin_at(self, spike: str, lane: str, starts: Mapping[Partition, int]) -> None:
        """Set baseline and both ends of partitions of which nothing was ever read."""

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
    def acquire(self, resource: str, holder: str, seconds: float) -> Lease | None:
        """As `Ledger.acquire`, in the same commit as all else."""

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

    def earlier_batches(self, spike: str) -> tuple[Batch, ...]:
        """Live batches of hours that were read below where the spike began, oldest first."""

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        """By the batch number of each finished swap, the batches that had read its records first, through
        any number of swaps: drivers', and those below where the spike began. What is tied so is superseded
        together or not at all."""

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
