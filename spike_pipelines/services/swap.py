"""Swaps: what was planned becomes visible in one transaction, or leaves nothing behind.

| it dies …                       | then                                                                 |
| ------------------------------- | -------------------------------------------------------------------- |
| before the batch is registered  | files in staging that nobody knows; the plan is aborted              |
| before or among the copies      | `finish` plans the same keys, asks whose an object is, and goes on   |
| before the commit               | as above: nothing is live, nothing is superseded                     |
| after it                        | the swap is `swapped`; the appender publishes like any commit        |

By the next replay or backfill of the same, or the hourly retention job (`finish_left`), whichever is first.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from spike_pipelines.domain.batch import Batch, BatchState, NewBatch, identity
from spike_pipelines.domain.binding import check_schema, schema_of
from spike_pipelines.domain.errors import (
    Conflict,
    InvalidSpec,
    InvariantBroken,
    NothingStaged,
    NotParquet,
    ObjectMissing,
    Refused,
    SourceChanged,
    TopicChanged,
    Transient,
)
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import NewSwap, NotLive, Swap, SwapBusy, SwapState, swap_problem
from spike_pipelines.ports import KeepAlive, SwapLedger, SwapTransaction
from spike_pipelines.services.bound import lock_bound, require_bound
from spike_pipelines.services.promote import Misfit, NotConserved, NotOurs, Promoter, released

log = logging.getLogger(__name__)

SWAP_LEASE_SECONDS = 30.0
# Another attempt at the same plan would find the same.
HOPELESS = (
    NotConserved, Misfit, NotOurs, NotLive, NothingStaged, ObjectMissing, SourceChanged, NotParquet,
    TopicChanged,
)  # fmt: skip

# Writes the new files below the swap's staging prefix. Called with the swap, what it replaces, and a
# function that keeps the lease and raises `LeaseLost`, or `NotLive` where it is of no use any more.
Produce = Callable[[Swap, tuple[LedgerFile, ...], KeepAlive], NewBatch]


class SwapRefused(Conflict):
    """The swap was aborted; the message says why. What it would have replaced is untouched."""

    code = "swap_refused"


@dataclass(frozen=True, slots=True)
class Swapper:
    """`promoter` counts and copies files; its holder's name stands in the leases."""

    ledger: SwapLedger
    promoter: Promoter
    lease_seconds: float = SWAP_LEASE_SECONDS

    def plan(self, spike: Spike, new: NewSwap) -> tuple[Swap, Lease]:
        """Freeze what is to be replaced. Errors: `SwapBusy`, `NotLive`, `SpecChanged`, `Transient`."""
        with self.ledger.begin() as tx:
            lock_bound(tx, spike)
            return self.add(tx, new)

    def add(self, tx: SwapTransaction, new: NewSwap) -> tuple[Swap, Lease]:
        """A plan and its lease, by one commit: whoever finds the plan finds it at work. Errors: `SwapBusy`,
        `NotLive`."""
        swap = tx.add_swap(new)
        lease = tx.acquire(lease_of(swap.number), self.promoter.terms.holder, self.lease_seconds)
        assert lease is not None  # nobody else knows the number
        return swap, lease

    def finish_open(self, spike: Spike) -> tuple[Swap, ...]:
        """Bring those whose process died to their end, or give them up. One that is at work is left alone."""
        ended = []
        for swap in self.ledger.open_swaps(spike.name):
            try:
                ended.append(self.finish(spike, swap.number, None))
            except SwapBusy:
                continue
            except SwapRefused as refused:
                ended.append(replace(swap, state=SwapState.ABORTED, problem=str(refused)))
        return tuple(ended)

    def finish_left(self, spikes: Iterable[Spike]) -> Iterator[Swap]:
        """`finish_open` for every spike; one that cannot does not stop the others.

        Raises `Conflict` in the end, naming them: their swaps stay open, and nothing of them is visible.
        """
        failures = []
        for spike in spikes:
            try:
                yield from self.finish_open(spike)
            except (Conflict, InvalidSpec, Refused, Transient) as error:
                failures.append(f"{spike.name}: {error}")
        if failures:
            raise Conflict("swaps whose process died are still open: " + "; ".join(failures))

    def finish(self, spike: Spike, number: int, produce: Produce | None, lease: Lease | None = None) -> Swap:
        """Take a swap from wherever it is to its end. A planned one needs `produce`; `lease` is that of
        whoever planned it just now.

        Errors: `SwapBusy` (another process works on it), `SwapRefused` (aborted, with the reason),
        `LeaseLost`, `SpecChanged` and `Transient` (nothing is decided: finish it again).
        """
        lease = lease or self._acquire(number)
        with released(self.ledger, lease):
            require_bound(self.ledger, spike)
            swap = self._look(number)
            if swap.state is SwapState.ABORTED:
                raise SwapRefused(f"{swap} was aborted before: {swap.problem}")
            try:
                if swap.state is SwapState.PLANNED:
                    swap = self._stage(spike, swap, produce, lease)
                if swap.state is SwapState.STAGED:
                    self._carry_out(spike, swap, lease)
            except HOPELESS as problem:
                self._abort(swap, lease, str(problem))
                raise SwapRefused(f"{swap} was aborted, nothing changed: {problem}") from problem
            return self._look(number)

    def abort(self, number: int, problem: str) -> Swap:
        """Give up a swap that nobody works on. Errors: `SwapBusy`, `Conflict`, `Transient`."""
        lease = self._acquire(number)
        with released(self.ledger, lease):
            self._abort(self._look(number), lease, problem)
            return self._look(number)

    def _acquire(self, number: int) -> Lease:
        resource = lease_of(number)
        lease = self.ledger.acquire(resource, self.promoter.terms.holder, self.lease_seconds)
        if lease is None:
            raise SwapBusy(f"swap {number} is at work: {self.ledger.lease_holder(resource)} has it")
        return lease

    def _look(self, number: int) -> Swap:
        with self.ledger.begin() as tx:
            swap = tx.swap(number)
        if swap is None:
            raise Conflict(f"there is no swap {number}")
        return swap

    def _stage(self, spike: Spike, swap: Swap, produce: Produce | None, lease: Lease) -> Swap:
        if produce is None:
            raise NothingStaged("its process ended before it had registered anything")
        with self.ledger.begin() as tx:
            replaced = tx.replaced(swap.number)
        new = produce(swap, replaced, lambda so_far=None: self._keep(swap, lease, so_far))
        with self.ledger.begin() as tx:
            tx.lock_spike(spike.name, spike.dataset.name)
            tx.require_lease(lease)
            batch = tx.add_batch(
                spike.name,
                swap.lane,
                new,
                epoch=None,
                identity=identity(spike.name, swap.lane, 0, new.ranges),
                prefix=swap_prefix(spike, swap),
            )
            check_schema(spike, tx.used_schemas(spike.name))
            tx.stage_swap(swap.number, batch.number, spike.schema, new.elsewhere)
        return self._look(swap.number)

    def _carry_out(self, spike: Spike, swap: Swap, lease: Lease) -> None:
        batch, files = self._intend(spike, swap, lease)
        etags = self.promoter.copy_all(spike, files, lease)
        self._renew(lease)
        self._commit(spike, swap, batch, etags, lease)

    def _intend(self, spike: Spike, swap: Swap, lease: Lease) -> tuple[Batch, tuple[LedgerFile, ...]]:
        """Check the new files against the old and write the final keys down, unless that was done."""
        with self.ledger.begin() as tx:
            batch, files = _batch_of(swap, tx.batch(swap.batch or 0)), tx.files(swap.batch or 0)
            replaced, written = tx.replaced(swap.number), tx.written(batch.number)
        if batch.state is BatchState.INTENDED:
            return batch, files
        footers = self.promoter.footers(spike, files, lease)
        rows = {file: footer.rows for file, footer in footers.items()}
        if problem := swap_problem(swap, batch, files, rows, replaced):
            raise NotConserved(problem)
        as_written = replace(spike, schema=schema_of(spike, written))
        return batch, self.promoter.intend(as_written, batch, files, footers, lease, mark=swap.mark)

    def _commit(self, spike: Spike, swap: Swap, batch: Batch, etags: Mapping[int, str], lease: Lease) -> None:
        """The one commit point (I3): new files live, old ones superseded, at one sequence number."""
        with self.ledger.begin() as tx:
            tx.lock_spike(spike.name, spike.dataset.name)  # a rewind supersedes files too
            tx.require_lease(lease)
            tx.set_state(batch.number, BatchState.INTENDED, BatchState.COMMITTED)
            sequence = tx.commit_files(spike.dataset.name, batch.number, etags)
            tx.finish_swap(swap.number, spike.dataset.name, sequence)
        log.info("%s: batch %d swapped in as %s #%d", swap, batch.number, swap.dataset, sequence)

    def _abort(self, swap: Swap, lease: Lease, problem: str) -> None:
        log.error("%s is aborted: %s", swap, problem)
        with self.ledger.begin() as tx:
            tx.require_lease(lease)
            now = tx.swap(swap.number)
            assert now is not None
            if now.batch is not None:
                batch = _batch_of(now, tx.batch(now.batch))
                tx.set_state(batch.number, batch.state, BatchState.ABORTED, reason=problem)
            tx.abort_swap(now, problem)

    def _keep(self, swap: Swap, lease: Lease, so_far: int | None) -> None:
        """Go on reading; not for nothing, where a rewind came meanwhile. Raises `LeaseLost`, `NotLive`."""
        self._renew(lease)
        with self.ledger.begin() as tx:
            tx.require_frozen(swap.number)
            if so_far is not None:
                tx.note_read(swap.number, so_far)

    def _renew(self, lease: Lease) -> None:
        self.ledger.renew(lease, self.lease_seconds)


def lease_of(number: int) -> str:
    return f"swap:{number}"


def swap_prefix(spike: Spike, swap: Swap) -> str:
    """The only place in staging that attempts of a swap write to."""
    return spike.staging.key(spike.name, swap.lane) + "/"


def _batch_of(swap: Swap, batch: Batch | None) -> Batch:
    if batch is None:
        raise InvariantBroken(f"{swap} is {swap.state} and has no batch")
    return batch
