"""Swaps in the ledger: the verbs of `ports.SwapTransaction`, and what people and the audit ask."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.hours import earlier_facts, fed_hours, fed_ranges, hour_facts
from spike_pipelines.domain.backfill import HourFacts
from spike_pipelines.domain.batch import LIVE_LANE, FileKind, FileState, hour_text
from spike_pipelines.domain.earlier import EarlierFacts
from spike_pipelines.domain.errors import Conflict
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.swap import (
    HOURLY,
    OPEN_SWAPS,
    NewSwap,
    NotLive,
    Swap,
    SwapBusy,
    SwapKind,
    SwapState,
    check_swap_transition,
)
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import SwapBook

_OPEN = sorted(OPEN_SWAPS)


class SwapStatements:
    """The part of `SqlTransaction` that knows swaps."""

    _db: sa.Connection

    def add_swap(self, new: NewSwap) -> Swap:
        """Freeze the files. Raises `SwapBusy` if an open swap has one of them, or reads the same hours (which
        may have no file); `NotLive`."""
        ids = list(new.replaces)
        if new.kind in HOURLY:
            self._require_alone(new)
        self._require_free(ids)
        self._require_live(ids)
        w = s.swaps
        values = {
            "spike": new.spike,
            "dataset": new.dataset,
            "kind": new.kind,
            "state": SwapState.PLANNED,
            "who": new.who,
            "why": new.why,
            "application_version": new.application_version,
            "since": new.scope.since,
            "until": new.scope.until,
            "reason": new.scope.reason,
            "planned_at": sa.func.clock_timestamp(),
            "records_expected": new.expected,
        }
        row = self._db.execute(sa.insert(w).values(**values).returning(*w.c)).mappings().one()
        self._freeze(row["number"], ids, new.sources)
        return rows.swap(row)

    def _freeze(self, number: int, files: Iterable[int], sources: Iterable[int]) -> None:
        if frozen := [{"swap": number, "file": file} for file in files]:
            self._db.execute(sa.insert(s.swap_files), frozen)
        if read := [{"swap": number, "batch": batch} for batch in sources]:
            self._db.execute(sa.insert(s.swap_sources), read)

    def swap(self, number: int) -> Swap | None:
        query = sa.select(s.swaps).where(s.swaps.c.number == number).with_for_update()
        row = self._db.execute(query).mappings().one_or_none()
        return rows.swap(row) if row else None

    def replaced(self, swap: int) -> tuple[LedgerFile, ...]:
        f, x = s.files, s.swap_files
        query = sa.select(f).select_from(f.join(x, x.c.file == f.c.id)).where(x.c.swap == swap)
        return tuple(rows.file(row) for row in self._db.execute(query.order_by(f.c.id)).mappings())

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        return _sources(self._db, spike)

    def hour_facts(self, spike: str, dataset: str, hour: datetime) -> HourFacts:
        return hour_facts(self._db, spike, dataset, hour, _sources(self._db, spike))

    def stage_swap(self, swap: int, batch: int, schema: str, elsewhere: int = 0) -> None:
        values = {"batch": batch, "schema": schema, "records_elsewhere": elsewhere}
        self._move(swap, SwapState.PLANNED, SwapState.STAGED, **values)

    def note_read(self, swap: int, records: int) -> None:
        w = s.swaps
        self._db.execute(sa.update(w).where(w.c.number == swap).values(records_so_far=records))

    def earlier_facts(self, spike: str) -> EarlierFacts:
        return earlier_facts(self._db, spike)

    def require_frozen(self, swap: int) -> None:
        self._require_sources(swap)
        x = s.swap_files
        frozen = sa.select(x.c.file).where(x.c.swap == swap, x.c.held)
        self._require_live(list(self._db.execute(frozen).scalars()))

    def finish_swap(self, swap: int, dataset: str, sequence: int) -> None:
        """Supersede exactly what was frozen, at `sequence`. Raises `NotLive` if one no longer is live, or a
        batch that was read again is no longer part of the dataset, or the live stream reads what the swap
        has read below where it began."""
        self._require_sources(swap)
        self._require_below(swap)
        f, x = s.files, s.swap_files
        frozen = sa.select(x.c.file).where(x.c.swap == swap, x.c.held)
        done = self._db.execute(
            sa.update(f)
            .where(f.c.id.in_(frozen), f.c.dataset == dataset, f.c.state == FileState.LIVE)
            .values(state=FileState.SUPERSEDED, removed=sequence)
        )
        wanted = self._db.execute(sa.select(sa.func.count()).select_from(frozen.subquery())).scalar_one()
        if done.rowcount != wanted:
            raise NotLive(
                f"swap {swap} replaces {count_of(wanted, 'file')}, of which "
                f"{count_of(wanted - done.rowcount, 'is', 'are')} no longer live"
            )
        self._move(swap, SwapState.STAGED, SwapState.SWAPPED, ended_at=sa.func.clock_timestamp())

    def abort_swap(self, swap: Swap, problem: str) -> None:
        """Give up: its files are never live, and others may replace what it had frozen."""
        self._move(
            swap.number,
            swap.state,
            SwapState.ABORTED,
            ended_at=sa.func.clock_timestamp(),
            problem=problem[:2000],
        )
        x, f = s.swap_files, s.files
        self._db.execute(sa.update(x).where(x.c.swap == swap.number).values(held=False))
        if swap.batch is not None:
            self._db.execute(
                sa.update(f)
                .where(f.c.batch == swap.batch, f.c.state == FileState.STAGED)
                .values(state=FileState.ABORTED)
            )
            r = s.batch_ranges
            self._db.execute(sa.update(r).where(r.c.batch == swap.batch).values(live=False))

    def _move(self, number: int, old: SwapState, new: SwapState, **values: object) -> None:
        check_swap_transition(old, new)
        w = s.swaps
        done = self._db.execute(
            sa.update(w).where(w.c.number == number, w.c.state == old).values(state=new, **values)
        )
        if done.rowcount != 1:
            raise Conflict(f"swap {number} is not {old} any more")

    def _require_sources(self, swap: int) -> None:
        """A rewind may have taken a batch away of which the backfill has filtered records only: no file."""
        b, y = s.batches, s.swap_sources
        query = (
            sa.select(b.c.number)
            .select_from(b.join(y, y.c.batch == b.c.number))
            .where(y.c.swap == swap, b.c.removed.is_not(None))
        )
        if gone := self._db.execute(query.limit(1)).scalar_one_or_none():
            raise NotLive(f"batch {gone}, which swap {swap} read again, was superseded by a rewind meanwhile")

    def _require_below(self, swap: int) -> None:
        """A rewind may have taken the beginning of the spike back since the swap was planned."""
        w, r = s.swaps, s.batch_ranges
        query = (
            sa.select(r.c.topic, r.c.partition)
            .select_from(w.join(r, r.c.batch == w.c.batch))
            .where(w.c.number == swap, sa.not_(_below_start()))
        )
        if taken := self._db.execute(query.limit(1)).one_or_none():
            raise NotLive(
                f"what swap {swap} has read of {taken[0]}:{taken[1]} was taken into the live stream by a "
                "rewind meanwhile"
            )

    def _require_alone(self, new: NewSwap) -> None:
        w = s.swaps
        query = sa.select(w).where(
            w.c.dataset == new.dataset,
            w.c.kind.in_(sorted(HOURLY)),
            w.c.state.in_(_OPEN),
            w.c.since < new.scope.until,
            w.c.until > new.scope.since,
        )
        if row := self._db.execute(query.limit(1)).mappings().one_or_none():
            raise SwapBusy(
                f"swap {row['number']} of {row['who']} is a backfill of {hour_text(row['since'])}, begun at "
                f"{row['planned_at']:%H:%M:%S} UTC: wait for its end"
            )

    def _require_free(self, ids: list[int]) -> None:
        x = s.swap_files
        query = (
            sa.select(x.c.swap, sa.func.count())
            .join(s.swaps, s.swaps.c.number == x.c.swap)
            .where(x.c.file.in_(ids), s.swaps.c.state.in_(_OPEN))
            .group_by(x.c.swap)
        )
        for number, count in self._db.execute(query):
            raise SwapBusy(f"swap {number} is replacing {count} of these {len(ids)} files")

    def _require_live(self, ids: list[int]) -> None:
        f = s.files
        query = sa.select(sa.func.count()).where(f.c.id.in_(ids), f.c.state == FileState.LIVE)
        live = self._db.execute(query).scalar_one()
        if live != len(ids):
            raise NotLive(f"{len(ids) - live} of {count_of(len(ids), 'file')} no longer live: look again")


class SwapQueries(ABC):
    """The part of `SqlLedger` that knows swaps. Queries only."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def swaps(self, spike: str | None, limit: int) -> tuple[Swap, ...]:
        """Newest first; None: of all spikes."""
        w = s.swaps
        query = sa.select(w).order_by(w.c.number.desc()).limit(limit)
        return self._swaps(query if spike is None else query.where(w.c.spike == spike))

    def open_swaps(self, spike: str) -> tuple[Swap, ...]:
        w = s.swaps
        return self._swaps(sa.select(w).where(w.c.spike == spike, w.c.state.in_(_OPEN)).order_by(w.c.number))

    def dead_letter_files(
        self, dataset: str, since: datetime | None, until: datetime | None, limit: int
    ) -> tuple[LedgerFile, ...]:
        """Live dead-letter files of hours in `[since, until)`, the newest hour first."""
        f = s.files
        query = sa.select(f).where(
            f.c.dataset == dataset, f.c.kind == FileKind.DEAD_LETTER, f.c.state == FileState.LIVE
        )
        if since is not None:
            query = query.where(f.c.hour >= since)
        if until is not None:
            query = query.where(f.c.hour < until)
        query = query.order_by(f.c.hour.desc(), f.c.id.desc()).limit(limit)
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query).mappings())

    def earlier_facts(self, spike: str) -> EarlierFacts:
        with self._read() as db:
            return earlier_facts(db, spike)

    def swap_books(self) -> tuple[SwapBook, ...]:
        with self._read() as db:
            found = db.execute(_BOOKS).mappings()
            return tuple(SwapBook(**(dict(row) | {"kind": SwapKind(row["kind"])})) for row in found)

    def sources(self, spike: str) -> Mapping[int, frozenset[int]]:
        with self._read() as db:
            return _sources(db, spike)

    def fed_hours(self, spike: str, ranges: Iterable[OffsetRange]) -> tuple[datetime, ...]:
        with self._read() as db:
            return fed_hours(db, spike, ranges, _sources(db, spike))

    def fed_ranges(self, spike: str, since: datetime) -> tuple[OffsetRange, ...]:
        with self._read() as db:
            return fed_ranges(db, spike, since)

    def _swaps(self, query: sa.Select[tuple[object, ...]]) -> tuple[Swap, ...]:
        with self._read() as db:
            return tuple(rows.swap(row) for row in db.execute(query).mappings())


def _below_start() -> sa.ColumnElement[bool]:
    """Of a range: that it ends where the live stream began, or before."""
    r, p = s.batch_ranges, s.positions
    return (
        sa.exists()
        .where(p.c.spike == r.c.spike, p.c.lane == LIVE_LANE, p.c.topic_id == r.c.topic_id)
        .where(p.c.partition == r.c.partition, p.c.baseline >= r.c.end_offset)
        .correlate(r)
    )


def _sources(db: sa.Connection, spike: str) -> Mapping[int, frozenset[int]]:
    """A replay took the records of the files it replaced; a backfill those of the batches it read again,
    of which some may have had no file. One that read earlier records took them of nobody: it is a source."""
    w, x, f, y = s.swaps, s.swap_files, s.files, s.swap_sources
    done = (w.c.spike == spike) & (w.c.state == SwapState.SWAPPED)
    replaced = w.join(x, x.c.swap == w.c.number).join(f, f.c.id == x.c.file)
    edges = sa.union(
        sa.select(w.c.batch.label("made"), f.c.batch.label("source"))
        .select_from(replaced)
        .where(done, w.c.kind == SwapKind.REPLAY),
        sa.select(w.c.batch, y.c.batch).select_from(w.join(y, y.c.swap == w.c.number)).where(done),
    ).cte("edges")
    found = sa.select(edges.c.made, edges.c.source).cte("found", recursive=True)
    further = sa.select(found.c.made, edges.c.source).select_from(
        found.join(edges, edges.c.made == found.c.source)
    )
    found = found.union(further)
    swapped = sa.select(w.c.batch).where(done, w.c.kind != SwapKind.EARLIER)
    sources: dict[int, set[int]] = defaultdict(set)
    for made, source in db.execute(sa.select(found).where(found.c.source.not_in(swapped))):
        sources[made].add(source)
    return {made: frozenset(numbers) for made, numbers in sources.items()}


def _books() -> sa.Select[tuple[object, ...]]:
    w, x, f, b, c, r = s.swaps, s.swap_files, s.files, s.batches, s.commits, s.batch_ranges
    old = s.files.alias("old")
    replaced = sa.select(old).select_from(old.join(x, x.c.file == old.c.id)).where(x.c.swap == w.c.number)
    superseded = (old.c.state == FileState.SUPERSEDED) & (old.c.removed == c.c.sequence)
    rows_of = sa.cast(sa.func.coalesce(sa.func.sum(old.c.rows), 0), sa.BigInteger)
    made = sa.cast(sa.func.coalesce(sa.func.sum(f.c.rows), 0), sa.BigInteger)

    def of_replaced(what: sa.ColumnElement[int]) -> sa.ScalarSelect[int]:
        return replaced.with_only_columns(what).correlate(w, c).scalar_subquery()

    return (
        sa.select(
            w.c.number,
            w.c.spike,
            w.c.kind,
            w.c.batch,
            w.c.records_expected.label("expected"),
            of_replaced(rows_of).label("replaced_rows"),
            of_replaced(sa.func.count().filter(~superseded)).label("not_superseded"),
            b.c.records_read.label("read"),
            b.c.records_final.label("final"),
            b.c.records_dead_letter.label("dead_letter"),
            b.c.records_filtered.label("filtered"),
            sa.select(made).where(f.c.batch == b.c.number).correlate(b).scalar_subquery().label("file_rows"),
            sa.case((b.c.removed.is_(None), w.c.since)).label("hour"),
            sa.select(sa.func.count())
            .select_from(r)
            .where(r.c.batch == b.c.number, r.c.live, sa.not_(_below_start()))
            .correlate(b)
            .scalar_subquery()
            .label("above"),
        )
        .select_from(w.join(b, b.c.number == w.c.batch).join(c, c.c.batch == b.c.number))
        .where(w.c.state == SwapState.SWAPPED)
        .order_by(w.c.number)
    )


_BOOKS = _books()
