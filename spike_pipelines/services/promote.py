"""Promotion: staged batches become final files and committed offsets, in order, a transaction each."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from spike_pipelines.domain.batch import LIVE_LANE, Batch, BatchState, FileKind
from spike_pipelines.domain.binding import check_unmoved, schema_of
from spike_pipelines.domain.contents import RowGroup, hour_problem, origin_problem
from spike_pipelines.domain.errors import (
    AlreadyExists,
    Conflict,
    LeaseLost,
    NotParquet,
    ObjectMissing,
    SourceChanged,
    Transient,
)
from spike_pipelines.domain.leases import Lease, lease_name
from spike_pipelines.domain.promotion import Intent, LedgerFile, conservation_problem, plan_intents
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Catalog, Ledger, ObjectInfo, ObjectStore, ParquetFooter
from spike_pipelines.services.publish import live_file

log = logging.getLogger(__name__)

BATCH_METADATA = "spike-batch"
ETAG_METADATA = "spike-source-etag"
_CHUNK = 32  # files between two looks at the lease
_AT_ONCE = 16  # requests for one spike
_RENEWALS = 3  # in the time that a lease lasts, while something is waited for

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


def threads() -> Executor:
    """For the requests of one piece of work. Of its own: a store that hangs takes no other spike's (I11)."""
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="promote-request")


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """A lease lasts `seconds`; after a kill others wait as long, so it is short and renewed often."""

    holder: str
    seconds: float = 15.0
    run_id: str | None = None  # the Dagster run that commits, for provenance


class NotOurs(Conflict):
    """An object at a final key was not made from this batch's file."""

    code = "not_ours"


class NotConserved(Conflict):
    """Counts do not agree (I8); the batch waits for a person."""

    code = "not_conserved"


class Misfit(Conflict):
    """A file holds other records than it is registered for, or none that its table could take."""

    code = "misfit"


@dataclass(frozen=True, slots=True)
class Promoter:
    """Promotes one spike. `pool` makes what runs requests to the object store side by side; the caller's own
    thread renews the lease for as long as they take."""

    ledger: Ledger
    store: ObjectStore
    catalog: Catalog
    terms: LeaseTerms
    pool: Callable[[], Executor] = threads

    def promote(self, spike: Spike, *, limit: int) -> tuple[Batch, ...]:
        """Commit up to `limit` waiting batches of the spike, oldest first, and stop at a held one.

        Answers what was committed; nothing if somebody else has the lease. Errors: `LeaseLost`,
        `Transient`; after either, what was begun is finished by the next call. `SpecChanged`: nothing
        of the batch was begun.
        """
        lease = self.ledger.acquire(lease_name(spike.name), self.terms.holder, self.terms.seconds)
        if lease is None:
            return ()
        committed: list[Batch] = []
        with released(self.ledger, lease):
            while len(committed) < limit:
                self.ledger.renew(lease, self.terms.seconds)
                batch = self._next(spike, lease)
                if batch is None or not (done := self._promote_one(spike, batch, lease)):
                    break
                committed.append(done)
        return tuple(committed)

    def _next(self, spike: Spike, lease: Lease) -> Batch | None:
        with self.ledger.begin() as tx:
            tx.require_lease(lease)
            batch = tx.next_batch(spike.name, LIVE_LANE)
            check_unmoved(spike, tx.bound(spike.name) if batch else None)
        return None if batch is None or batch.state is BatchState.HELD else batch

    def _promote_one(self, spike: Spike, batch: Batch, lease: Lease) -> Batch | None:
        """Commit one batch, or hold it with the reason."""
        try:
            batch, files = self._intend(spike, batch, lease)
            etags = self.copy_all(spike, files, lease)
        except (NotConserved, Misfit, NotOurs, ObjectMissing, SourceChanged, NotParquet) as problem:
            self._hold(batch, lease, str(problem))
            return None
        self._commit(spike, batch, etags, lease)
        return batch

    def _intend(self, spike: Spike, batch: Batch, lease: Lease) -> tuple[Batch, tuple[LedgerFile, ...]]:
        """Check the batch against its files and write the final keys down, unless that was done before."""
        with self.ledger.begin() as tx:
            files, written = tx.files(batch.number), tx.written(batch.number)
        if batch.state is BatchState.INTENDED:
            return batch, files
        footers = self.footers(spike, files, lease)
        rows = {file: footer.rows for file, footer in footers.items()}
        if problem := conservation_problem(batch, files, rows, exact_topic=not spike.topic_has_gaps):
            raise NotConserved(problem)
        self._check_origins(spike, batch, files, footers, lease)
        as_written = replace(spike, schema=schema_of(spike, written))
        files = self.intend(as_written, batch, files, footers, lease)
        return replace(batch, state=BatchState.INTENDED), files

    def intend(
        self,
        spike: Spike,
        batch: Batch,
        files: Iterable[LedgerFile],
        footers: Mapping[int, ParquetFooter],
        lease: Lease,
        *,
        mark: str | None = None,
    ) -> tuple[LedgerFile, ...]:
        """Write the final keys down (`mark` is a swap's), if the tables take the files under these. `spike`
        has the schema that they were written with. Errors: as `check_publishable`; `LeaseLost`."""
        intents = plan_intents(spike, files, mark=mark)
        self.check_publishable(spike, files, footers, intents, lease)
        with self.ledger.begin() as tx:
            tx.require_lease(lease)
            tx.set_state(batch.number, BatchState.STAGED, BatchState.INTENDED)
            tx.intend(intents)
            return tx.files(batch.number)

    def footers(self, spike: Spike, files: Iterable[LedgerFile], lease: Lease) -> Mapping[int, ParquetFooter]:
        """By file id."""

        def read(file: LedgerFile) -> tuple[int, ParquetFooter]:
            staged = (spike.staging.bucket, file.staging_key)
            return file.id, self.store.footer(*staged, size=file.size, etag=file.staging_etag)

        return dict(self._each(read, files, lease))

    def _check_origins(
        self,
        spike: Spike,
        batch: Batch,
        files: Iterable[LedgerFile],
        footers: Mapping[int, ParquetFooter],
        lease: Lease,
    ) -> None:
        """Raise `Misfit` unless all records are of the batch's ranges. Where partitions share a row group,
        its records are asked (ADR 0014)."""
        files = tuple(files)
        groups = {file: footer.groups for file, footer in footers.items()}
        shared = [file for file in files if any(group.shared for group in groups[file.id] or ())]
        groups |= self.origins(spike, shared, footers, lease)
        for file in files:
            if problem := origin_problem(file.staging_key, groups[file.id], batch.ranges):
                raise Misfit(problem)

    def origins(
        self,
        spike: Spike,
        files: Iterable[LedgerFile],
        footers: Mapping[int, ParquetFooter],
        lease: Lease,
    ) -> Mapping[int, tuple[RowGroup, ...]]:
        """By file id: row groups of one partition each."""

        def read(file: LedgerFile) -> tuple[int, tuple[RowGroup, ...]]:
            staged = (spike.staging.bucket, file.staging_key)
            footer = footers[file.id]
            return file.id, self.store.origins(*staged, size=file.size, etag=file.staging_etag, footer=footer)

        return dict(self._each(read, files, lease))

    def check_publishable(
        self,
        spike: Spike,
        files: Iterable[LedgerFile],
        footers: Mapping[int, ParquetFooter],
        intents: Iterable[Intent],
        lease: Lease,
    ) -> None:
        """Raise `Misfit` unless the tables will take the files as the intents name them: after the commit it
        would be too late. `spike` has the schema that they were written with. Errors: `InvalidSpec`,
        `Transient`."""
        keys = {intent.file: intent.final_key for intent in intents}
        files = tuple(replace(file, final_key=keys[file.id]) for file in files)
        for file in files:
            if problem := hour_problem(file.staging_key, file.hour, footers[file.id].groups):
                raise Misfit(problem)
        # Milliseconds for each file of the CPU's time: beside the thread that renews.
        for problem in self._each(partial(self._misfit, spike, files), [footers], lease):
            if problem:
                raise Misfit(problem)

    def _misfit(
        self, spike: Spike, files: Iterable[LedgerFile], footers: Mapping[int, ParquetFooter]
    ) -> str | None:
        for kind, table in spike.dataset.tables.items():
            staged = [(live_file(spike, f), footers[f.id]) for f in files if f.kind is kind]
            dead = kind is FileKind.DEAD_LETTER
            if staged and (problem := self.catalog.misfit(table, spike, staged, dead_letters=dead)):
                return f"{problem} (it is in staging still)"
        return None

    def copy_all(self, spike: Spike, files: Iterable[LedgerFile], lease: Lease) -> Mapping[int, str]:
        """Final etags by file id."""

        def copy(file: LedgerFile) -> tuple[int, str]:
            return file.id, self._copy(spike, file).etag

        return dict(self._each(copy, files, lease))

    def _each(self, work: Callable[[_Item], _Done], items: Iterable[_Item], lease: Lease) -> Iterator[_Done]:
        """What `work` makes of the items, in their order, some side by side. The lease is renewed before
        each chunk, however many there are, and while one is at work, however long it takes."""
        waiting = iter(items)
        with self.pool() as pool:
            while chunk := list(islice(waiting, _CHUNK)):
                self.ledger.renew(lease, self.terms.seconds)
                yield from self._awaited([pool.submit(work, item) for item in chunk], lease)

    def _awaited(self, futures: list[Future[_Done]], lease: Lease) -> list[_Done]:
        """All results. What is not begun when one fails, or the lease is lost, never begins."""
        try:
            while True:
                done, waiting = wait(futures, self.terms.seconds / _RENEWALS, FIRST_EXCEPTION)
                ready = [future.result() for future in futures if future in done]
                if not waiting:
                    return ready
                self.ledger.renew(lease, self.terms.seconds)
        finally:
            for future in futures:
                future.cancel()

    def _copy(self, spike: Spike, file: LedgerFile) -> ObjectInfo:
        """Copy one file to its final key. An object that is there already is asked whose it is."""
        assert file.final_key is not None
        metadata = {BATCH_METADATA: str(file.batch), ETAG_METADATA: file.staging_etag}
        try:
            return self.store.copy(
                spike.final.bucket,
                file.staging_key,
                file.final_key,
                source_etag=file.staging_etag,
                size=file.size,
                metadata=metadata,
            )
        except AlreadyExists:
            found = self.store.head(spike.final.bucket, file.final_key)
            ours = found is not None and metadata.items() <= found.metadata.items()
            if found is None or not ours or found.size != file.size or self._differ(spike, file, found):
                raise NotOurs(
                    f"s3://{spike.final.bucket}/{file.final_key} was not made by this batch"
                ) from None
            return found

    def _differ(self, spike: Spike, file: LedgerFile, copy: ObjectInfo) -> bool:
        """Whether etags tell that the bytes are not the staged file's: metadata alone can be copied."""
        if not copy.etag_is_md5 or copy.etag == file.staging_etag:
            return False
        source = self.store.head(spike.staging.bucket, file.staging_key)
        return source is not None and source.etag_is_md5

    def _commit(self, spike: Spike, batch: Batch, etags: Mapping[int, str], lease: Lease) -> None:
        """The one commit point (I3). If its outcome is unknown, the next run reads the state back."""
        with self.ledger.begin() as tx:
            tx.require_lease(lease)
            tx.set_state(batch.number, BatchState.INTENDED, BatchState.COMMITTED)
            tx.advance_committed(spike.name, batch.lane, batch.ranges)
            sequence = tx.commit_files(spike.dataset.name, batch.number, etags, run_id=self.terms.run_id)
        log.info("%s: batch %d committed as %s #%d", spike.name, batch.number, spike.dataset.name, sequence)

    def _hold(self, batch: Batch, lease: Lease, reason: str) -> None:
        log.error("%s: batch %d is held: %s", batch.spike, batch.number, reason)
        with self.ledger.begin() as tx:
            tx.require_lease(lease)
            tx.set_state(batch.number, batch.state, BatchState.HELD, reason=reason)


@contextmanager
def released(ledger: Ledger, lease: Lease) -> Iterator[None]:
    """Give the lease back at the end, also after an error, which stays the one that is raised."""
    try:
        yield
    except BaseException:
        try:
            ledger.release(lease)
        except (LeaseLost, Transient) as error:
            log.warning("lease %s is left to expire: %s", lease.resource, error)
        raise
    ledger.release(lease)
