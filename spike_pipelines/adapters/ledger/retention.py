"""What retention asks of the ledger, and what it notes (see `ports.RetentionLedger`)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import translated
from spike_pipelines.domain.batch import BatchState, FileKind, FileState
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.swap import OPEN_SWAPS
from spike_pipelines.ports import Condemned, StagedFate


class RetentionQueries(ABC):
    """The part of `SqlLedger` that retention uses."""

    _engine: sa.Engine

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def staged_fates(self, keys: Iterable[str]) -> Mapping[str, StagedFate]:
        b, f = s.batches, s.files
        query = (
            sa.select(f.c.staging_key, b.c.state, b.c.cleaned_at.is_not(None).label("cleaned"))
            .select_from(f.join(b, b.c.number == f.c.batch))
            .where(f.c.staging_key.in_(list(keys)))
        )
        with self._read() as db:
            return {
                row.staging_key: StagedFate(BatchState(row.state), row.cleaned) for row in db.execute(query)
            }

    def registered_below(self, prefixes: Iterable[str]) -> frozenset[str]:
        f = s.files
        with self._read() as db:
            return frozenset(
                prefix
                for prefix in prefixes
                if db.execute(
                    sa.select(f.c.id).where(f.c.staging_key.startswith(prefix, autoescape=True)).limit(1)
                ).first()
            )

    def ended_swaps(self, numbers: Iterable[int]) -> Mapping[int, bool]:
        w = s.swaps
        query = sa.select(w.c.number, w.c.state).where(w.c.number.in_(list(numbers)))
        with self._read() as db:
            return {number: state not in OPEN_SWAPS for number, state in db.execute(query)}

    def superseded(
        self, dataset: str, kind: FileKind, *, gone_at: int, limit: int, after: int = 0
    ) -> tuple[Condemned, ...]:
        f, d = s.files, s.datasets
        query = (
            self._condemned()
            .join(d, d.c.name == f.c.dataset)
            .where(
                f.c.state == FileState.SUPERSEDED,
                f.c.dataset == dataset,
                f.c.kind == kind,
                f.c.removed <= gone_at,
                f.c.removed <= d.c.published,
                f.c.condemned_at.is_(None),
            )
        )
        return self._found(query, limit, after)

    def published_before(self, dataset: str, at: datetime) -> int:
        b, c = s.batches, s.commits
        query = (
            sa.select(c.c.sequence)
            .join(b, b.c.number == c.c.batch)
            .where(c.c.dataset == dataset, b.c.cleaned_at < at)
            .order_by(c.c.sequence.desc())
            .limit(1)
        )
        with self._read() as db:
            return db.execute(query).scalar_one_or_none() or 0

    def tombstones(self, spike: str, limit: int, after: int = 0) -> tuple[Condemned, ...]:
        f, b = s.files, s.batches
        query = self._condemned().where(
            b.c.spike == spike,
            b.c.state == BatchState.ABORTED,
            f.c.final_key.is_not(None),
            f.c.condemned_at.is_(None),
        )
        return self._found(query, limit, after)

    def swept_once(self, spike: str, before: datetime, limit: int, after: int = 0) -> tuple[Condemned, ...]:
        f, b = s.files, s.batches
        query = self._condemned().where(
            b.c.spike == spike,
            f.c.state != FileState.LIVE,
            f.c.condemned_at < before,
            f.c.swept_at.is_(None),
        )
        return self._found(query, limit, after)

    def kept_superseded(self, dataset: str) -> tuple[LedgerFile, ...]:
        f = s.files
        query = sa.select(f).where(
            f.c.dataset == dataset, f.c.state == FileState.SUPERSEDED, f.c.condemned_at.is_(None)
        )
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query).mappings())

    def condemned_early(self) -> tuple[str, ...]:
        f, d = s.files, s.datasets
        query = (
            sa.select(f.c.final_key)
            .join(d, d.c.name == f.c.dataset)
            .where(f.c.condemned_at.is_not(None), f.c.removed > d.c.published)
        )
        with self._read() as db:
            return tuple(db.execute(query.order_by(f.c.id)).scalars())

    def mark_condemned(self, files: Iterable[int]) -> None:
        self._mark(s.files.c.condemned_at, files)

    def mark_swept(self, files: Iterable[int]) -> None:
        self._mark(s.files.c.swept_at, files)

    def _mark(self, column: sa.Column[datetime], files: Iterable[int]) -> None:
        f = s.files
        dead = f.c.state != FileState.LIVE
        with translated(), self._engine.begin() as db:
            db.execute(
                sa.update(f)
                .where(f.c.id.in_(list(files)), dead, column.is_(None))
                .values({column: sa.func.clock_timestamp()})
            )

    @staticmethod
    def _condemned() -> sa.Select[tuple[object, ...]]:
        f, b = s.files, s.batches
        again = f.c.condemned_at.is_not(None).label("again")
        return sa.select(
            f.c.id.label("file"),
            f.c.final_key.label("key"),
            f.c.size,
            again,
        ).select_from(f.join(b, b.c.number == f.c.batch))

    def _found(self, query: sa.Select[tuple[object, ...]], limit: int, after: int) -> tuple[Condemned, ...]:
        f = s.files
        query = query.where(f.c.id > after, f.c.swept_at.is_(None)).order_by(f.c.id).limit(limit)
        with self._read() as db:
            return tuple(Condemned(**row) for row in db.execute(query).mappings())
