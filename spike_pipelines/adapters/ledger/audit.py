"""What the audit asks of the ledger: the invariants recomputed in SQL, from rows and not from ends."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import LIVE_LANE, UNFINISHED, Batch, BatchState, FileKind, FileState
from spike_pipelines.domain.offsets import Break, Partition
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.ports import Books, CommittedSums, Coverage

_KEYS_AT_ONCE = 5_000


class AuditQueries(ABC):
    """The auditing half of `SqlLedger`."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[sa.Connection]:
        """A connection whose statements all see the database at one moment."""

    def books(self) -> Books:
        with self._snapshot() as db:
            return Books(_coverages(db), _sums(db))

    def live_files(self, dataset: str, sequence: int) -> tuple[LedgerFile, ...]:
        f = s.files
        query = sa.select(f).where(
            f.c.dataset == dataset,
            f.c.added <= sequence,
            sa.or_(f.c.removed.is_(None), f.c.removed > sequence),
        )
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query).mappings())

    def committed_batches(self, dataset: str, sequence: int) -> tuple[Batch, ...]:
        b, c = s.batches, s.commits
        query = (
            sa.select(b)
            .select_from(b.join(c, c.c.batch == b.c.number))
            .where(c.c.dataset == dataset, c.c.sequence <= sequence)
            .order_by(b.c.number)
        )
        with self._read() as db:
            return rows.load_batches(db, query)

    def known_final_keys(self, keys: Iterable[str]) -> frozenset[str]:
        wanted = list(keys)
        found: set[str] = set()
        with self._read() as db:
            for i in range(0, len(wanted), _KEYS_AT_ONCE):
                query = sa.select(s.files.c.final_key).where(
                    s.files.c.final_key.in_(wanted[i : i + _KEYS_AT_ONCE])
                )
                found.update(db.execute(query).scalars())
        return frozenset(found)

    def staged_files(self) -> tuple[tuple[str, LedgerFile], ...]:
        b, f = s.batches, s.files
        query = (
            sa.select(b.c.spike, *f.c)
            .select_from(f.join(b, b.c.number == f.c.batch))
            .where(b.c.state.in_(sorted(UNFINISHED)), f.c.state == FileState.STAGED)
        )
        with self._read() as db:
            return tuple((row["spike"], rows.file(row)) for row in db.execute(query).mappings())


def _coverages(db: sa.Connection) -> tuple[Coverage, ...]:
    """Window functions find the places where ranges do not meet, so that only those come back."""
    sums = {_partition_key(row): row for row in db.execute(_RANGE_SUMS).mappings()}
    breaks = defaultdict(list)
    for row in db.execute(_RANGE_BREAKS).mappings():
        partition = Partition(row["topic"], row["topic_id"], row["partition"])
        breaks[_partition_key(row)].append(Break(partition, row["expected"], row["start_offset"]))
    positions = sa.select(s.positions).where(s.positions.c.lane == LIVE_LANE)
    found = ((row, _partition_key(row)) for row in db.execute(positions).mappings())
    return tuple(_coverage(row, sums.get(key), breaks[key]) for row, key in found)


def _sums(db: sa.Connection) -> tuple[CommittedSums, ...]:
    unbalanced, late = defaultdict(list), defaultdict(list)
    for spike, number in db.execute(_UNBALANCED):
        unbalanced[spike].append(number)
    for spike, number in db.execute(_LATE):
        late[spike].append(number)
    return tuple(
        CommittedSums(**row, unbalanced=tuple(unbalanced[row["spike"]]), late=tuple(late[row["spike"]]))
        for row in db.execute(_SUMS).mappings()
    )


def _partition_key(row: sa.RowMapping) -> tuple[str, str, int]:
    return row["spike"], row["topic_id"], row["partition"]


def _coverage(row: sa.RowMapping, sums: sa.RowMapping | None, breaks: list[Break]) -> Coverage:
    position = rows.position(row)
    end = sums["last_end"] if sums else position.baseline
    if end != position.committed_end:
        breaks = [*breaks, Break(position.partition, end, position.committed_end)]
    return Coverage(
        row["spike"], position, sums["ranges"] if sums else 0, sums["offsets"] if sums else 0, tuple(breaks)
    )


def _committed_ranges() -> sa.Subquery:
    """Live ranges of committed batches with the furthest end before each (the baseline for the first)."""
    r, b, p = s.batch_ranges, s.batches, s.positions
    before = sa.func.max(r.c.end_offset).over(
        partition_by=(r.c.spike, r.c.topic_id, r.c.partition),
        order_by=(r.c.start_offset, r.c.end_offset),
        rows=(None, -1),
    )
    return (
        sa.select(
            r.c.spike,
            r.c.topic,
            r.c.topic_id,
            r.c.partition,
            r.c.start_offset,
            r.c.end_offset,
            sa.func.coalesce(before, p.c.baseline).label("expected"),
        )
        .select_from(
            r.join(b, b.c.number == r.c.batch).outerjoin(
                p,
                sa.and_(
                    p.c.spike == r.c.spike,
                    p.c.lane == r.c.lane,
                    p.c.topic_id == r.c.topic_id,
                    p.c.partition == r.c.partition,
                ),
            )
        )
        .where(r.c.live, r.c.lane == LIVE_LANE, b.c.state == BatchState.COMMITTED)
        .subquery()
    )


_ranges = _committed_ranges()
_RANGE_BREAKS = sa.select(_ranges).where(_ranges.c.expected.is_distinct_from(_ranges.c.start_offset))
_RANGE_SUMS = sa.select(
    _ranges.c.spike,
    _ranges.c.topic_id,
    _ranges.c.partition,
    sa.func.count().label("ranges"),
    sa.cast(sa.func.sum(_ranges.c.end_offset - _ranges.c.start_offset), sa.BigInteger).label("offsets"),
    sa.func.max(_ranges.c.end_offset).label("last_end"),
).group_by(_ranges.c.spike, _ranges.c.topic_id, _ranges.c.partition)

_b = s.batches
_committed = (_b.c.state == BatchState.COMMITTED) & (_b.c.lane == LIVE_LANE)


def _sum(column: sa.ColumnElement[int], label: str) -> sa.Label[int]:
    return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger).label(label)


_SUMS = (
    sa.select(
        _b.c.spike,
        sa.func.count().label("batches"),
        _sum(_b.c.records_read, "read"),
        _sum(_b.c.records_final, "final"),
        _sum(_b.c.records_dead_letter, "dead_letter"),
        _sum(_b.c.records_filtered, "filtered"),
    )
    .where(_committed)
    .group_by(_b.c.spike)
    .order_by(_b.c.spike)
)


def _rows_of(kind: FileKind) -> sa.Label[int]:
    rows_of_kind = sa.func.sum(s.files.c.rows).filter(s.files.c.kind == kind)
    return sa.func.coalesce(rows_of_kind, 0).label(kind)


# Files are read once, in whatever order they lie: looking them up batch by batch takes minutes for millions.
_in_files = (
    sa.select(s.files.c.batch, _rows_of(FileKind.FINAL), _rows_of(FileKind.DEAD_LETTER))
    .group_by(s.files.c.batch)
    .subquery()
)
_UNBALANCED = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(_b.outerjoin(_in_files, _in_files.c.batch == _b.c.number))
    .where(
        _committed,
        sa.or_(
            _b.c.records_read != _b.c.records_final + _b.c.records_dead_letter + _b.c.records_filtered,
            _b.c.records_final != sa.func.coalesce(_in_files.c[FileKind.FINAL], 0),
            _b.c.records_dead_letter != sa.func.coalesce(_in_files.c[FileKind.DEAD_LETTER], 0),
        ),
    )
)
_newer = s.epochs.alias("newer")
_LATE = sa.select(_b.c.spike, _b.c.number).where(
    sa.exists().where(
        _newer.c.spike == _b.c.spike, _newer.c.number > _b.c.epoch, _newer.c.opened_at < _b.c.staged_at
    )
)
