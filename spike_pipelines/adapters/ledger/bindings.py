"""What a spike is bound to: the part of `SqlTransaction` that writes it down."""

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import UNFINISHED, FileState
from spike_pipelines.domain.binding import Binding
from spike_pipelines.domain.swap import SwapState


class BindingStatements:
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

    def _binding(self, query: sa.Select[tuple[object, ...]]) -> Binding | None:
        row = self._db.execute(query).mappings().one_or_none()
        return rows.binding(row) if row else None
