"""What the audit asks of the ledger: the invariants recomputed in SQL, from rows and not from ends."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.audit_files import HALFWAY, OTHER_HOURS, VANISHED, sequences
from spike_pipelines.domain.batch import LIVE_LANE, UNFINISHED, Batch, BatchState, FileKind, FileState
from spike_pipelines.domain.binding import Binding
from spike_pipelines.domain.offsets import Break, Partition
from spike_pipelines.domain.operations import OperationKind
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
            return Books(_coverages(db), _sums(db), _operations(db), sequences(db))

    def live_files(self, dataset: str, sequence: int) -> tuple[LedgerFile, ...]:
        f = s.files
        query = (
            sa.select(f)
            .where(
                f.c.dataset == dataset,
                f.c.added <= sequence,
                sa.or_(f.c.removed.is_(None), f.c.removed > sequence),
            )
            .order_by(f.c.added, f.c.id)
        )
        with self._read() as db:
            return tuple(rows.file(row) for row in db.execute(query).mappings())

    def committed_batches(self, dataset: str, sequence: int) -> tuple[Batch, ...]:
        b, c = s.batches, s.commits
        query = (
            sa.select(b)
            .select_from(b.join(c, c.c.batch == b.c.number))
            .where(
                c.c.dataset == dataset,
                c.c.sequence <= sequence,
                sa.or_(b.c.removed.is_(None), b.c.removed > sequence),
            )
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

    def bindings(self) -> Mapping[str, Binding]:
        """By spike, what it was last bound to."""
        t = s.bindings
        newest = (
            sa.select(t.c.spike, sa.func.max(t.c.epoch).label("epoch"))
            .where(t.c.used)
            .group_by(t.c.spike)
            .subquery()
        )
        query = sa.select(t).join(newest, (newest.c.spike == t.c.spike) & (newest.c.epoch == t.c.epoch))
        with self._read() as db:
            return {row["spike"]: rows.binding(row) for row in db.execute(query).mappings()}

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
    tops = {_partition_key(row): row["staged"] for row in db.execute(_STAGED_ENDS).mappings()}
    positions = sa.select(s.positions).where(s.positions.c.lane == LIVE_LANE)
    found = ((row, _partition_key(row)) for row in db.execute(positions).mappings())
    return tuple(_coverage(row, sums.get(key), breaks[key], tops.get(key)) for row, key in found)


def _operations(db: sa.Connection) -> dict[str, int]:
    o = s.operations
    counted = db.execute(sa.select(o.c.kind, sa.func.count()).group_by(o.c.kind).order_by(o.c.kind))
    return {kind: number for kind, number in counted}  # noqa: C416 - rows are no pairs for mypy


def _sums(db: sa.Connection) -> tuple[CommittedSums, ...]:
    unbalanced, late = _numbers(db, sa.union(_UNBALANCED, OTHER_HOURS)), _numbers(db, _LATE)
    unexplained, undead = _numbers(db, _UNEXPLAINED), _numbers(db, _UNDEAD)
    halfway, vanished = _numbers(db, HALFWAY), _numbers(db, VANISHED)
    unplaced = _numbers(db, _UNPLACED)
    return tuple(
        CommittedSums(
            **row,
            unbalanced=unbalanced[row["spike"]],
            late=late[row["spike"]],
            unexplained=unexplained[row["spike"]],
            undead=undead[row["spike"]],
            halfway=halfway[row["spike"]],
            vanished=vanished[row["spike"]],
            unplaced=unplaced[row["spike"]],
        )
        for row in db.execute(_SUMS).mappings()
    )


def _numbers(db: sa.Connection, query: sa.Executable) -> Mapping[str, tuple[int, ...]]:
    """Batch numbers by spike."""
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for spike, number in db.execute(query):
        found[spike] += (number,)
    return found


def _partition_key(row: sa.RowMapping) -> tuple[str, str, int]:
    return row["spike"], row["topic_id"], row["partition"]


def _coverage(
    row: sa.RowMapping, sums: sa.RowMapping | None, breaks: list[Break], staged: int | None
) -> Coverage:
    position = rows.position(row)
    end = sums["last_end"] if sums else position.baseline
    if end != position.committed_end:
        breaks = [*breaks, Break(position.partition, end, position.committed_end)]
    return Coverage(
        row["spike"],
        position,
        sums["ranges"] if sums else 0,
        sums["offsets"] if sums else 0,
        tuple(breaks),
        staged=position.baseline if staged is None else staged,
        lost=sums["lost"] if sums else 0,
    )


def _live_ranges() -> sa.Subquery:
    """Live ranges, also of batches that wait, with the furthest end before each (the first: the baseline)."""
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
            b.c.lost,
            b.c.state,
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
        .where(r.c.live, r.c.lane == LIVE_LANE)
        .subquery()
    )


_ranges = _live_ranges()
_RANGE_BREAKS = sa.select(_ranges).where(_ranges.c.expected.is_distinct_from(_ranges.c.start_offset))
_RANGE_SUMS = (
    sa.select(
        _ranges.c.spike,
        _ranges.c.topic_id,
        _ranges.c.partition,
        sa.func.count().label("ranges"),
        sa.cast(sa.func.sum(_ranges.c.end_offset - _ranges.c.start_offset), sa.BigInteger).label("offsets"),
        sa.func.max(_ranges.c.end_offset).label("last_end"),
        sa.cast(
            sa.func.coalesce(
                sa.func.sum(_ranges.c.end_offset - _ranges.c.start_offset).filter(_ranges.c.lost), 0
            ),
            sa.BigInteger,
        ).label("lost"),
    )
    .where(_ranges.c.state == BatchState.COMMITTED)
    .group_by(_ranges.c.spike, _ranges.c.topic_id, _ranges.c.partition)
)

_r = s.batch_ranges
_STAGED_ENDS = (
    sa.select(_r.c.spike, _r.c.topic_id, _r.c.partition, sa.func.max(_r.c.end_offset).label("staged"))
    .where(_r.c.live, _r.c.lane == LIVE_LANE)
    .group_by(_r.c.spike, _r.c.topic_id, _r.c.partition)
)

_b = s.batches
_committed = (_b.c.state == BatchState.COMMITTED) & (_b.c.lane == LIVE_LANE) & _b.c.removed.is_(None)
_waits = _b.c.state.in_(sorted(UNFINISHED)) & (_b.c.lane == LIVE_LANE)


def _sum(column: sa.ColumnElement[int], label: str) -> sa.Label[int]:
    return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger).label(label)


_committed_only: sa.ColumnElement[int] = sa.case((_committed, 1), else_=0)
_SUMS = (
    sa.select(
        _b.c.spike,
        _sum(_committed_only, "batches"),
        _sum(_committed_only * _b.c.records_read, "read"),
        _sum(_committed_only * _b.c.records_final, "final"),
        _sum(_committed_only * _b.c.records_dead_letter, "dead_letter"),
        _sum(_committed_only * _b.c.records_filtered, "filtered"),
        _sum(_committed_only * _b.c.records_unaccounted, "unaccounted"),
    )
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
_p = s.positions
_position = sa.and_(
    _p.c.spike == _r.c.spike,
    _p.c.lane == _r.c.lane,
    _p.c.topic_id == _r.c.topic_id,
    _p.c.partition == _r.c.partition,
)
_in_ranges = (
    sa.select(
        _r.c.batch,
        sa.func.sum(_r.c.end_offset - _r.c.start_offset).label("offsets"),
        sa.func.count().filter(_p.c.spike.is_(None)).label("nowhere"),
    )
    .select_from(_r.outerjoin(_p, _position))
    .where(_r.c.live, _r.c.lane == LIVE_LANE)
    .group_by(_r.c.batch)
    .subquery()
)
# What a driver said of a batch that waits need not add up: that holds it. Its files are what it listed.
_UNBALANCED = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(
        _b.outerjoin(_in_files, _in_files.c.batch == _b.c.number).outerjoin(
            _in_ranges, _in_ranges.c.batch == _b.c.number
        )
    )
    .where(
        sa.or_(_committed, _waits),
        sa.or_(
            sa.and_(
                _committed,
                sa.or_(
                    _b.c.records_read
                    != _b.c.records_final
                    + _b.c.records_dead_letter
                    + _b.c.records_filtered
                    + _b.c.records_unaccounted,
                    _b.c.records_read > _in_ranges.c.offsets,
                ),
            ),
            _b.c.records_final != sa.func.coalesce(_in_files.c[FileKind.FINAL], 0),
            _b.c.records_dead_letter != sa.func.coalesce(_in_files.c[FileKind.DEAD_LETTER], 0),
        ),
    )
)
_UNPLACED = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(_b.outerjoin(_in_ranges, _in_ranges.c.batch == _b.c.number))
    .where(sa.or_(_committed, _waits), sa.func.coalesce(_in_ranges.c.nowhere, 1) > 0)
)
_newer = s.epochs.alias("newer")
_LATE = sa.select(_b.c.spike, _b.c.number).where(
    sa.exists().where(
        _newer.c.spike == _b.c.spike, _newer.c.number > _b.c.epoch, _newer.c.opened_at < _b.c.staged_at
    )
)


def _explained(*kinds: OperationKind) -> sa.ColumnElement[bool]:
    """The batch's operation is one of these kinds, and says who and why."""
    o = s.operations
    return (
        sa.exists()
        .where(o.c.id == _b.c.operation, o.c.spike == _b.c.spike, o.c.kind.in_(kinds))
        .where(sa.func.trim(o.c.who) != "", sa.func.trim(o.c.why) != "")
        .correlate(_b)
    )


_released = sa.exists().where(
    s.operations.c.batch == _b.c.number, s.operations.c.kind == OperationKind.RELEASE
)
_UNEXPLAINED = sa.select(_b.c.spike, _b.c.number).where(
    _b.c.lane == LIVE_LANE,
    sa.or_(
        sa.and_(
            _b.c.state == BatchState.ABORTED,
            sa.not_(_explained(OperationKind.DISCARD, OperationKind.REWIND)),
        ),
        sa.and_(_b.c.removed.is_not(None), sa.not_(_explained(OperationKind.REWIND))),
        sa.and_(_b.c.records_unaccounted != 0, sa.not_(_released)),
        sa.and_(_b.c.lost, _b.c.operation.is_(None)),
    ),
)
_UNDEAD = sa.select(_b.c.spike, _b.c.number).where(
    sa.or_(_b.c.state == BatchState.ABORTED, _b.c.removed.is_not(None)),
    sa.or_(
        sa.exists().where(s.files.c.batch == _b.c.number, s.files.c.state == FileState.LIVE),
        sa.exists().where(_r.c.batch == _b.c.number, _r.c.live),
    ),
)
