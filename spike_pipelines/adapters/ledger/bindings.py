"""What a spike is bound to, and what its batches were written with."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import UNFINISHED, FileState
from spike_pipelines.domain.binding import Binding, Written
from spike_pipelines.domain.swap import SwapState


def _written() -> sa.Select[tuple[str, str | None]]:
    """A driver's batch has its epoch's schema, a swap's has the swap's."""
    b, t, w = s.batches, s.bindings, s.swaps
    source = b.outerjoin(t, (t.c.spike == b.c.spike) & (t.c.epoch == b.c.epoch))
    source = source.outerjoin(w, w.c.batch == b.c.number)
    schema = sa.func.coalesce(t.c.schema, w.c.schema).label("schema")
    return sa.select(b.c.application_version, schema).select_from(source)


_WRITTEN = _written()


class BindingQueries(ABC):
    """The part of `SqlLedger` that knows bindings. Queries only."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def written_between(self, dataset: str, *, current: int, target: int) -> tuple[Written, ...]:
        c, found = s.commits, _WRITTEN.selected_columns
        query = (
            _WRITTEN.join(c, c.c.batch == s.batches.c.number)
            .where(c.c.dataset == dataset, c.c.sequence > current, c.c.sequence <= target)
            .group_by(*found)
            .order_by(sa.func.min(c.c.sequence))
        )
        with self._read() as db:
            return tuple(Written(row.application_version, row.schema) for row in db.execute(query))


class BindingStatements:
    """The part of `SqlTransaction` that writes it down."""

    _db: sa.Connection

    def bind(self, spike: str, epoch: int, binding: Binding) -> None:
        self._db.execute(
            sa.insert(s.bindings).values(
                spike=spike,
                epoch=epoch,
                topic=binding.topic,
                dataset=binding.dataset,
                staging_bucket=binding.staging.bucket,
                staging_prefix=binding.staging.prefix,
                final_bucket=binding.final.bucket,
                final_prefix=binding.final.prefix,
                schema=binding.schema,
            )
        )

    def binding(self, spike: str, epoch: int) -> Binding | None:
        t = s.bindings
        return self._binding(sa.select(t).where(t.c.spike == spike, t.c.epoch == epoch))

    def use_binding(self, spike: str, epoch: int) -> None:
        t = s.bindings
        self._db.execute(
            sa.update(t).where(t.c.spike == spike, t.c.epoch == epoch, sa.not_(t.c.used)).values(used=True)
        )

    def bound(self, spike: str) -> Binding | None:
        t, b, f = s.bindings, s.batches, s.files
        copied = sa.exists().where(
            b.c.spike == spike,
            b.c.number == f.c.batch,
            f.c.state == FileState.ABORTED,
            f.c.final_key.is_not(None),
            f.c.swept_at.is_(None),
        )
        waits = sa.exists().where(b.c.spike == spike, b.c.state.in_(sorted(UNFINISHED)))
        kept = sa.or_(f.c.state == FileState.LIVE, f.c.swept_at.is_(None))
        there = sa.exists().where(f.c.dataset == t.c.dataset, kept).correlate(t)
        newest = sa.select(t).where(t.c.spike == spike, t.c.used, waits | there | copied)
        return self._binding(newest.order_by(t.c.epoch.desc()).limit(1))

    def used_schemas(self, spike: str) -> tuple[str, ...]:
        t, w = s.bindings, s.swaps
        written = w.c.schema.is_not(None) & w.c.state.in_([SwapState.STAGED, SwapState.SWAPPED])
        found = sa.union(
            sa.select(t.c.schema).where(t.c.spike == spike, t.c.used),
            sa.select(w.c.schema).where(w.c.spike == spike, written),
        )
        return tuple(sorted(self._db.execute(found).scalars()))

    def written(self, batch: int) -> Written:
        row = self._db.execute(_WRITTEN.where(s.batches.c.number == batch)).one()
        return Written(row.application_version, row.schema)

    def _binding(self, query: sa.Select[tuple[object, ...]]) -> Binding | None:
        row = self._db.execute(query).mappings().one_or_none()
        return rows.binding(row) if row else None
