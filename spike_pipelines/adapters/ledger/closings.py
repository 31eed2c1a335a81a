"""Closed hours as the ledger has them: queries for sensors and people, and the statements that close."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import translated
from spike_pipelines.adapters.ledger.hours import reads_kafka_first
from spike_pipelines.domain.batch import LIVE_LANE, BatchState, FileKind, FileState
from spike_pipelines.domain.closed import Closing, reopened
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.operations import Move
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.swap import SwapKind, SwapState
from spike_pipelines.ports import DatasetHours, HourBook, HoursView, WrittenHour

_PAGE = 100  # closings looked at in one go, the last observed first
_C = s.closings.c
_STANDS = _C.reopened_by.is_(None)


class ClosingQueries(ABC):
    """The half of `SqlLedger` that knows closed hours."""

    _engine: sa.Engine

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[sa.Connection]: ...

    def hours_view(self) -> HoursView:
        d, t = s.datasets, s.spikes
        query = sa.select(
            d.c.name,
            d.c.spike,
            t.c.created_at,
            _newest(d.c.name).label("newest"),
            _newest(d.c.name, _C.closed_at.is_not(None)).label("closed"),
        ).join(t, t.c.name == d.c.spike)
        with self._snapshot() as db:
            now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            positions = _positions(db)
            waiting: dict[str, list[Closing]] = defaultdict(list)
            for closing in _closings(db, _C.closed_at.is_(None), by=_C.hour):
                waiting[closing.dataset].append(closing)
            found = {
                r.name: DatasetHours(
                    dataset=r.name,
                    spike=r.spike,
                    created_at=r.created_at,
                    newest=r.newest,
                    closed=r.closed,
                    waiting=tuple(waiting[r.name]),
                    positions=positions.get(r.spike, {}),
                )
                for r in db.execute(query)
            }
        return HoursView(now, found)

    def filed_hours(self, dataset: str) -> tuple[datetime, ...]:
        """One step of an index from hour to hour, however many files there are."""
        f = s.files
        first = sa.select(sa.func.min(f.c.hour).label("hour")).where(f.c.dataset == dataset)
        steps = first.cte("steps", recursive=True)
        following = (
            sa.select(sa.func.min(f.c.hour))
            .where(f.c.dataset == dataset, f.c.hour > steps.c.hour)
            .scalar_subquery()
        )
        steps = steps.union_all(sa.select(following).where(steps.c.hour.is_not(None)))
        with self._read() as db:
            found = db.execute(sa.select(steps.c.hour).where(steps.c.hour.is_not(None)))
            return tuple(found.scalars())

    def known_hours(self, dataset: str) -> tuple[datetime, ...]:
        with self._read() as db:
            return tuple(db.execute(sa.select(_C.hour).where(_C.dataset == dataset, _STANDS)).scalars())

    def await_ends(
        self,
        dataset: str,
        due: Mapping[datetime, datetime],
        ends: Mapping[Partition, int],
        observed_at: datetime,
    ) -> None:
        listed = [[p.topic, p.topic_id, p.index, end] for p, end in sorted(ends.items())]
        values = [
            {"dataset": dataset, "hour": hour, "due_at": at, "observed_at": observed_at, "ends": listed}
            for hour, at in due.items()
        ]
        if values:
            with translated(), self._engine.begin() as db:
                db.execute(insert(s.closings).on_conflict_do_nothing(), values)

    def untold_hours(self, limit: int) -> tuple[HourBook, ...]:
        with self._snapshot() as db:
            published = {r.name: r.published for r in db.execute(sa.select(s.datasets))}
            ids = [*db.execute(_never_told(limit)).scalars(), *db.execute(_changed()).scalars()]
            closings = [c for page in _pages(ids) for c in _closings(db, _C.id.in_(page), by=_C.hour)]
            return tuple(_books(db, closings, published))

    def mark_told(self, told: Mapping[int, int]) -> None:
        """Never lowers: told again is told."""
        if not told:
            return
        done = sa.update(s.closings).where(_C.id == sa.bindparam("id_"), _C.closed_at.is_not(None))
        told_now = sa.func.greatest(sa.func.coalesce(_C.told, 0), sa.bindparam("told_"))
        with translated(), self._engine.begin() as db:
            db.execute(done.values(told=told_now), [{"id_": i, "told_": n} for i, n in told.items()])

    def hour_books(self, dataset: str, limit: int) -> tuple[HourBook, ...]:
        f = s.files
        either = sa.union(
            sa.select(f.c.hour).where(f.c.dataset == dataset),
            sa.select(_C.hour).where(_C.dataset == dataset, _STANDS),
        ).subquery()
        newest = sa.select(either.c.hour).order_by(either.c.hour.desc()).limit(limit)
        with self._snapshot() as db:
            published = {r.name: r.published for r in db.execute(sa.select(s.datasets))}
            hours = list(db.execute(newest).scalars())
            mine = _closings(db, _C.dataset == dataset, _C.hour.in_(hours), _STANDS, by=_C.hour)
            closings = {c.hour: c for c in mine}
            found = {hour: closings.get(hour) for hour in hours}
            return tuple(_book(db, dataset, found, published.get(dataset, 0)))

    def late_files(self, dataset: str, hours: Collection[datetime]) -> tuple[LedgerFile, ...]:
        f, b = s.files, s.batches
        query = (
            sa.select(f)
            .select_from(_with_closing(f).join(b, b.c.number == f.c.batch))
            .where(f.c.dataset == dataset, f.c.hour.in_(list(hours)), f.c.state == FileState.LIVE, _LATE)
            .order_by(f.c.hour.desc(), f.c.id.desc())
        )
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query).mappings())

    def written_hours(self, spike: str | None) -> tuple[WrittenHour, ...]:
        found = sa.union_all(_live(), _filtered()).subquery()
        keys = (found.c.spike, found.c.dataset, found.c.version, found.c.hour)
        sums = (sa.cast(sa.func.sum(found.c[n]), sa.BigInteger).label(n) for n in _WRITTEN)
        mine = () if spike is None else (found.c.spike == spike,)
        query = sa.select(*keys, *sums).where(*mine).group_by(*keys).order_by(*keys)
        with self._snapshot() as db:
            return tuple(WrittenHour(**row) for row in db.execute(query).mappings())


class ClosingStatements:
    """The half of `SqlTransaction` that closes hours, and reopens them."""

    _db: sa.Connection

    def waiting_hours(self, dataset: str) -> tuple[Closing, ...]:
        return _closings(self._db, _C.dataset == dataset, _C.closed_at.is_(None), by=_C.hour)

    def ever_positions(self, spike: str) -> Mapping[Partition, Position]:
        return _positions(self._db, spike).get(spike, {})

    def close_hours(self, dataset: str, closings: Collection[int]) -> None:
        d = s.datasets
        sequence = sa.select(d.c.sequence).where(d.c.name == dataset).scalar_subquery()
        self._db.execute(
            sa.update(s.closings)
            .where(_C.dataset == dataset, _C.id.in_(list(closings)), _C.closed_at.is_(None))
            .values(closed_at=sa.func.clock_timestamp(), sequence=sequence)
        )

    def reopen_hours(self, dataset: str, moves: Iterable[Move], operation: int) -> tuple[Closing, ...]:
        """Log ends only grow, so the look back ends where a page has nothing to reopen."""
        moves = tuple(moves)
        found: list[Closing] = []
        for page in self._closed_pages(dataset):
            mine = reopened(page, moves)
            if not mine:
                break
            found += mine
        if found:
            self._reopen([c.id for c in found], operation)
        return tuple(found)

    def _closed_pages(self, dataset: str) -> Iterator[tuple[Closing, ...]]:
        closed = (_C.dataset == dataset, _C.closed_at.is_not(None), _STANDS)
        skip = 0
        while page := _closings(
            self._db, *closed, by=_C.observed_at.desc(), then=_C.id.desc(), limit=_PAGE, skip=skip
        ):
            yield page
            skip += _PAGE

    def _reopen(self, closings: list[int], operation: int) -> None:
        """The row stays as it was, and a new one waits for the same."""
        self._db.execute(sa.update(s.closings).where(_C.id.in_(closings)).values(reopened_by=operation))
        same = [c.name for c in (_C.dataset, _C.hour, _C.due_at, _C.observed_at, _C.ends)]
        again = sa.select(*(s.closings.c[name] for name in same)).where(_C.id.in_(closings))
        self._db.execute(sa.insert(s.closings).from_select(same, again))


_WRITTEN = ("files", "records", "filtered")


def _live() -> sa.Select[Any]:
    f, b = s.files, s.batches
    keys = (b.c.spike, f.c.dataset, b.c.application_version.label("version"), f.c.hour)
    counts = (sa.func.count(), sa.func.sum(f.c.rows), sa.literal(0))
    return (
        sa.select(*keys, *(count.label(n) for n, count in zip(_WRITTEN, counts, strict=True)))
        .select_from(f.join(b, b.c.number == f.c.batch))
        .where(f.c.state == FileState.LIVE)
        .group_by(*keys)
    )


def _filtered() -> sa.Select[Any]:
    """Filtered records stand in no file. They are a batch's until a backfill has read them again."""
    b, h, d = s.batches, s.batch_hours, s.datasets
    keys = (b.c.spike, d.c.name.label("dataset"), b.c.application_version.label("version"), h.c.hour)
    counts = (sa.literal(0), sa.literal(0), h.c.records_filtered)
    return (
        sa.select(*keys, *(count.label(n) for n, count in zip(_WRITTEN, counts, strict=True)))
        .select_from(b.join(h, h.c.batch == b.c.number).join(d, d.c.spike == b.c.spike))
        .where(b.c.state == BatchState.COMMITTED, b.c.removed.is_(None), h.c.records_filtered > 0)
        .where(~_read_again())
    )


def _read_again() -> sa.Exists:
    """Whether a later backfill of the hour has the records of a batch: of a driver's those that it names."""
    b, h, w, y, again = s.batches, s.batch_hours, s.swaps, s.swap_sources, s.batches.alias("again")
    named = sa.exists().where(y.c.swap == w.c.number, y.c.batch == b.c.number).correlate(w, b)
    return (
        sa.exists()
        .where(w.c.kind == SwapKind.BACKFILL, w.c.state == SwapState.SWAPPED, w.c.since == h.c.hour)
        .where(w.c.spike == b.c.spike, w.c.batch > b.c.number)
        .where(again.c.number == w.c.batch, again.c.removed.is_(None))
        .where(sa.or_(sa.not_(reads_kafka_first(b.c.lane)), named))
        .correlate(b, h)
    )


# After the hour was closed, by who read it first: what another swap puts there only takes another's place.
_LATE = sa.and_(s.files.c.added > _C.sequence, reads_kafka_first(s.batches.c.lane))


def _with_closing(files: sa.Table) -> sa.Join:
    return files.outerjoin(
        s.closings, sa.and_(_C.dataset == files.c.dataset, _C.hour == files.c.hour, _STANDS)
    )


def _newest(dataset: sa.Column[str], *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[datetime]:
    return sa.select(sa.func.max(_C.hour)).where(_C.dataset == dataset, _STANDS, *where).scalar_subquery()


def _closings(
    db: sa.Connection,
    *where: sa.ColumnElement[bool],
    by: sa.ColumnElement[Any],
    then: sa.ColumnElement[Any] = _C.id,
    limit: int | None = None,
    skip: int = 0,
) -> tuple[Closing, ...]:
    query = sa.select(s.closings).where(*where).order_by(by, then).limit(limit).offset(skip)
    return tuple(_closing(row) for row in db.execute(query).mappings())


def _closing(row: rows.Row) -> Closing:
    ends = {Partition(topic, topic_id, index): end for topic, topic_id, index, end in row["ends"]}
    names = ("id", "dataset", "hour", "due_at", "observed_at", "closed_at", "sequence", "told")
    return Closing(ends=ends, **{name: row[name] for name in names})


def _positions(db: sa.Connection, spike: str | None = None) -> Mapping[str, Mapping[Partition, Position]]:
    p = s.positions
    query = sa.select(p).where(p.c.lane == LIVE_LANE, *(() if spike is None else (p.c.spike == spike,)))
    found: dict[str, dict[Partition, Position]] = defaultdict(dict)
    for row in db.execute(query).mappings():
        position = rows.position(row)
        found[row["spike"]][position.partition] = position
    return dict(found)


def _pages(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]


def _never_told(limit: int) -> sa.Select[Any]:
    d = s.datasets
    return (
        sa.select(_C.id)
        .join(d, d.c.name == _C.dataset)
        .where(_STANDS, _C.closed_at.is_not(None), _C.told.is_(None))
        .where(d.c.published > 0, _C.sequence <= d.c.published)  # before that, readers have no table
        .order_by(_C.hour, _C.id)
        .limit(limit)
    )


def _changed() -> sa.CompoundSelect[Any]:
    """Told hours with files added or removed since. Whoever tells an hour tells all that changed until then,
    so what was told last of a dataset is where to look from."""
    d, f = s.datasets, s.files
    told = sa.select(sa.func.max(_C.told)).where(_C.dataset == d.c.name).scalar_subquery()
    since = sa.select(d.c.name, d.c.published, told.label("told")).cte("since")

    def touched(number: sa.Column[int]) -> sa.Select[Any]:
        return (
            sa.select(_C.id)
            .select_from(
                since.join(
                    f,
                    sa.and_(f.c.dataset == since.c.name, number > since.c.told, number <= since.c.published),
                ).join(s.closings, sa.and_(_C.dataset == f.c.dataset, _C.hour == f.c.hour))
            )
            .where(_STANDS, number > _C.told)
        )

    return sa.union(touched(f.c.added), touched(f.c.removed))


def _books(
    db: sa.Connection, closings: Iterable[Closing], published: Mapping[str, int]
) -> Iterator[HourBook]:
    by_dataset: dict[str, dict[datetime, Closing | None]] = defaultdict(dict)
    for closing in closings:
        by_dataset[closing.dataset][closing.hour] = closing
    for dataset, found in sorted(by_dataset.items()):
        yield from _book(db, dataset, found, published[dataset])


def _book(
    db: sa.Connection, dataset: str, hours: Mapping[datetime, Closing | None], sequence: int
) -> Iterator[HourBook]:
    f, b = s.files, s.batches

    def total(of: sa.ColumnElement[int], *where: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        some = sa.func.sum(of).filter(*where) if where else sa.func.sum(of)
        return sa.cast(sa.func.coalesce(some, 0), sa.BigInteger)

    query = (
        sa.select(
            f.c.hour,
            total(f.c.rows, f.c.kind == FileKind.FINAL).label("rows"),
            total(f.c.rows, f.c.kind == FileKind.DEAD_LETTER).label("dead_letters"),
            sa.func.count().label("files"),
            total(f.c.size).label("size"),
            sa.func.count().filter(_LATE).label("late_files"),
            total(f.c.rows, _LATE).label("late_records"),
        )
        .select_from(_with_closing(f).join(b, b.c.number == f.c.batch))
        .where(
            f.c.dataset == dataset,
            f.c.hour.in_(list(hours)),
            f.c.added <= sequence,
            sa.or_(f.c.removed.is_(None), f.c.removed > sequence),
        )
        .group_by(f.c.hour)
    )
    seen = {row["hour"]: dict(row) for row in db.execute(query).mappings()}
    nothing = dict.fromkeys(("rows", "dead_letters", "files", "size", "late_files", "late_records"), 0)
    for hour, closing in hours.items():
        counts = {**nothing, "hour": hour, **seen.get(hour, {})}
        yield HourBook(dataset=dataset, sequence=sequence, closing=closing, **counts)
