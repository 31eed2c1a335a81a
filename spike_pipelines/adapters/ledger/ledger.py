"""The ledger in PostgreSQL (see `ports.Ledger`)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.audit import AuditQueries
from spike_pipelines.adapters.ledger.bindings import BindingQueries
from spike_pipelines.adapters.ledger.closings import ClosingQueries
from spike_pipelines.adapters.ledger.engine import create_engine, translated
from spike_pipelines.adapters.ledger.lag import LagQueries
from spike_pipelines.adapters.ledger.provenance import ProvenanceQueries
from spike_pipelines.adapters.ledger.reports import Reports
from spike_pipelines.adapters.ledger.retention import RetentionQueries
from spike_pipelines.adapters.ledger.supervision import SupervisionQueries
from spike_pipelines.adapters.ledger.swaps import SwapQueries
from spike_pipelines.adapters.ledger.transaction import SqlTransaction
from spike_pipelines.domain.batch import LIVE_LANE, UNFINISHED, BatchState, FileKind
from spike_pipelines.domain.errors import LeaseLost
from spike_pipelines.domain.leases import PROMOTION, Lease
from spike_pipelines.domain.observed import UNJUDGED
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.supervision import BLOCKING
from spike_pipelines.ports import Backlog, DatasetState

_UNFINISHED = sorted(UNFINISHED)


class SqlLedger(
    Reports,
    AuditQueries,
    ProvenanceQueries,
    SwapQueries,
    RetentionQueries,
    LagQueries,
    SupervisionQueries,
    ClosingQueries,
    BindingQueries,
):
    """Thread-safe. `close()` gives the connections back."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[SqlTransaction]:
        with translated(), self._engine.begin() as connection:
            yield SqlTransaction(connection)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.connect() as connection:
            frozen = connection.execution_options(isolation_level="REPEATABLE READ")
            # An audit of millions of files reads them all; nobody waits for it, and it locks nothing.
            frozen.exec_driver_sql("SET LOCAL statement_timeout = '10min'")
            yield frozen

    # leases

    def acquire(self, resource: str, holder: str, seconds: float) -> Lease | None:
        with self.begin() as tx:
            return tx.acquire(resource, holder, seconds)

    def renew(self, lease: Lease, seconds: float) -> None:
        self._expire(lease, sa.func.clock_timestamp() + timedelta(seconds=seconds))

    def release(self, lease: Lease) -> None:
        """Let others have it at once. The token stays, so that it never comes again."""
        self._expire(lease, sa.func.clock_timestamp())

    def note_unjudged(self, spike: str, message: str) -> None:
        """A driver of it could not be let in. What a person has to decide first stays written."""
        t = s.spikes
        free = sa.or_(t.c.refused_code.is_(None), t.c.refused_code.not_in(BLOCKING))
        values = {
            "refused_at": sa.func.clock_timestamp(),
            "refused_code": UNJUDGED,
            "refused_message": message,
            "refused_driver": "",
        }
        with translated(), self._engine.begin() as db:
            db.execute(sa.update(t).where(t.c.name == spike, free).values(**values))

    def lease_holder(self, resource: str) -> str | None:
        t = s.leases
        query = sa.select(t.c.holder).where(
            t.c.resource == resource, t.c.expires_at > sa.func.clock_timestamp()
        )
        with self._read() as db:
            holder: str | None = db.execute(query).scalar_one_or_none()
        return holder

    def lease_state(self, resource: str) -> tuple[int, bool]:
        t = s.leases
        alive = (t.c.expires_at > sa.func.clock_timestamp()).label("alive")
        with self._read() as db:
            row = db.execute(sa.select(t.c.token, alive).where(t.c.resource == resource)).one_or_none()
        return (row.token, row.alive) if row else (0, False)

    def _expire(self, lease: Lease, at: sa.ColumnElement[datetime]) -> None:
        t = s.leases
        query = (
            sa.update(t)
            .where(
                t.c.resource == lease.resource,
                t.c.token == lease.token,
                t.c.expires_at > sa.func.clock_timestamp(),
            )
            .values(expires_at=at)
        )
        with translated(), self._engine.begin() as db:
            held = db.execute(query).rowcount == 1
        if not held:
            raise LeaseLost(f"lease {lease.resource} #{lease.token} of {lease.holder} is over")

    # what is to be done

    def backlog(self) -> tuple[Backlog, ...]:
        b, t = s.batches, s.leases
        query = (
            sa.select(
                b.c.spike,
                sa.func.count().label("batches"),
                sa.func.min(b.c.staged_at).label("oldest_staged_at"),
                sa.func.coalesce(
                    sa.func.min(b.c.number).filter(b.c.state == BatchState.HELD) == sa.func.min(b.c.number),
                    sa.false(),
                ).label("blocked"),
                sa.func.coalesce(
                    sa.func.bool_and(t.c.expires_at <= sa.func.clock_timestamp()), sa.true()
                ).label("free"),
            )
            .select_from(b.outerjoin(t, t.c.resource == sa.func.concat(PROMOTION, b.c.spike)))
            .where(b.c.state.in_(_UNFINISHED), b.c.lane == LIVE_LANE)  # a swap's is its own process's matter
            .group_by(b.c.spike)
            .order_by(sa.func.min(b.c.staged_at))
        )
        with self._read() as db:
            return tuple(Backlog(**row) for row in db.execute(query).mappings())

    def datasets(self) -> tuple[DatasetState, ...]:
        with self._read() as db:
            query = sa.select(s.datasets, _unpublished_since()).order_by(s.datasets.c.name)
            return tuple(DatasetState(**row) for row in db.execute(query).mappings())

    # publication: the tables follow the ledger

    def changed_files(
        self, dataset: str, kind: FileKind, *, current: int, target: int
    ) -> tuple[LedgerFile, ...]:
        f = s.files
        query = sa.select(f).where(
            f.c.dataset == dataset,
            f.c.kind == kind,
            sa.or_(
                sa.and_(f.c.added > current, f.c.added <= target),
                sa.and_(f.c.removed > current, f.c.removed <= target),
            ),
        )
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query.order_by(f.c.id)).mappings())

    def mark_published(self, dataset: str, sequence: int) -> None:
        self._raise_to(s.datasets.c.published, dataset, sequence)

    def mark_reported(self, dataset: str, sequence: int, *, since: int) -> None:
        self._raise_to(s.datasets.c.reported, dataset, sequence, since)

    def forget_reported(self, dataset: str) -> None:
        d = s.datasets
        with translated(), self._engine.begin() as db:
            db.execute(sa.update(d).where(d.c.name == dataset).values(reported=0))

    def _raise_to(self, column: sa.Column[int], dataset: str, sequence: int, since: int = 0) -> None:
        """Never lowers: two projections may finish in the wrong order. Nothing where it is below `since`."""
        d = s.datasets
        mine = sa.update(d).where(d.c.name == dataset, column >= since)
        with translated(), self._engine.begin() as db:
            db.execute(mine.values({column: sa.func.greatest(column, sequence)}))

    # cleaning staging up

    def cleanable(self, spike: str, limit: int) -> Mapping[int, tuple[str, ...]]:
        b, f = s.batches, s.files
        ready = _to_clean(b.c.number).where(b.c.spike == spike).order_by(b.c.number).limit(limit)
        with self._read() as db:
            keys: dict[int, list[str]] = {number: [] for number in db.execute(ready).scalars()}
            wanted = sa.select(f.c.batch, f.c.staging_key).where(f.c.batch.in_(keys))
            for number, key in db.execute(wanted):
                keys[number].append(key)
        return {number: tuple(found) for number, found in keys.items()}

    def uncleaned(self) -> tuple[str, ...]:
        query = _to_clean(s.batches.c.spike).distinct().order_by(s.batches.c.spike)
        with self._read() as db:
            return tuple(db.execute(query).scalars())

    def mark_cleaned(self, batches: Iterable[int]) -> None:
        b = s.batches
        with translated(), self._engine.begin() as db:
            db.execute(
                sa.update(b)
                .where(b.c.number.in_(list(batches)), b.c.state == BatchState.COMMITTED)
                .values(cleaned_at=sa.func.clock_timestamp())
            )


def _to_clean(column: sa.Column[Any]) -> sa.Select[Any]:
    """Of committed batches that are published and not cleaned up (I9)."""
    b, c, d = s.batches, s.commits, s.datasets
    return (
        sa.select(column)
        .select_from(b.join(c, c.c.batch == b.c.number).join(d, d.c.name == c.c.dataset))
        .where(b.c.state == BatchState.COMMITTED, b.c.cleaned_at.is_(None), c.c.sequence <= d.c.published)
    )


def _unpublished_since() -> sa.Label[datetime | None]:
    """When the first sequence number that is not published came about: by a commit, or by an operation."""
    d, c, o = s.datasets, s.commits, s.operations
    commit = (
        sa.select(c.c.committed_at)
        .where(c.c.dataset == d.c.name, c.c.sequence > d.c.published)
        .order_by(c.c.sequence)
        .limit(1)
        .scalar_subquery()
    )
    operation = (
        sa.select(sa.func.min(o.c.at))
        .where(o.c.spike == d.c.spike, o.c.sequence > d.c.published)
        .scalar_subquery()
    )
    waits = sa.func.least(commit, operation, type_=s.Time)
    return sa.case((d.c.published < d.c.sequence, waits), else_=None).label("unpublished_since")
