"""What the audit asks of files and commits: that what one row says of a commit, the others say too."""

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import UNFINISHED, BatchState, FileKind, FileState
from spike_pipelines.domain.operations import OperationKind
from spike_pipelines.domain.swap import SwapState
from spike_pipelines.ports import SequenceBook

_SHOWN = 10  # missing numbers of one dataset
_b, _f = s.batches, s.files
_in_commit = _f.c.state.in_([FileState.LIVE, FileState.SUPERSEDED])
# Files are read once, in whatever order they lie.
HALFWAY = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(_f.join(_b, _b.c.number == _f.c.batch))
    .where(
        sa.or_(
            sa.and_(_b.c.state == BatchState.COMMITTED, sa.not_(_in_commit)),
            sa.and_(_b.c.state.in_(sorted(UNFINISHED)), _in_commit),
        )
    )
    .distinct()
)

_h = s.batch_hours


def _rows_of(kind: FileKind) -> sa.Label[int]:
    return sa.func.coalesce(sa.func.sum(_f.c.rows).filter(_f.c.kind == kind), 0).label(kind)


_in_hours = (
    sa.select(_f.c.batch, _f.c.hour, _rows_of(FileKind.FINAL), _rows_of(FileKind.DEAD_LETTER))
    .group_by(_f.c.batch, _f.c.hour)
    .subquery()
)
# By which a backfill tells whether it found all of an hour. Releases of before did not count them again.
_released = sa.exists().where(
    s.operations.c.batch == _b.c.number, s.operations.c.kind == OperationKind.RELEASE
)
OTHER_HOURS = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(
        _h.join(
            _in_hours, (_in_hours.c.batch == _h.c.batch) & (_in_hours.c.hour == _h.c.hour), full=True
        ).join(_b, _b.c.number == sa.func.coalesce(_h.c.batch, _in_hours.c.batch))
    )
    .where(
        _b.c.state == BatchState.COMMITTED,
        _b.c.removed.is_(None),
        sa.not_(_released),
        sa.or_(
            sa.func.coalesce(_h.c.records_final, 0) != sa.func.coalesce(_in_hours.c[FileKind.FINAL], 0),
            sa.func.coalesce(_h.c.records_dead_letter, 0)
            != sa.func.coalesce(_in_hours.c[FileKind.DEAD_LETTER], 0),
        ),
    )
    .distinct()
)

_w, _x, _c = s.swaps, s.swap_files, s.commits
_replaced = (
    sa.exists()
    .select_from(_x.join(_w, _w.c.number == _x.c.swap).join(_c, _c.c.batch == _w.c.batch))
    .where(_x.c.file == _f.c.id, _x.c.held, _w.c.state == SwapState.SWAPPED, _c.c.sequence == _f.c.removed)
    .correlate(_f)
)
VANISHED = (
    sa.select(_b.c.spike, _b.c.number)
    .select_from(_f.join(_b, _b.c.number == _f.c.batch))
    .where(_f.c.removed.is_not(None), _b.c.removed.is_distinct_from(_f.c.removed), sa.not_(_replaced))
    .distinct()
)


def sequences(db: sa.Connection) -> tuple[SequenceBook, ...]:
    """Every number is a commit's or an operation's; only tables that are redone skip numbers."""
    missing: dict[str, list[int]] = {}
    for dataset, number in db.execute(_MISSING):
        missing.setdefault(dataset, []).append(number)
    found = db.execute(_NEWEST)
    return tuple(
        SequenceBook(name, sequence, newest, tuple(missing.get(name, [])[:_SHOWN]))
        for name, sequence, newest in found
    )


def _numbers() -> sa.Subquery:
    o, d = s.operations, s.datasets
    by_commit = sa.select(_c.c.dataset, _c.c.sequence, sa.literal(value=False).label("skips"))
    by_operation = (
        sa.select(d.c.name, o.c.sequence, o.c.kind == OperationKind.PROJECT)
        .select_from(o.join(d, d.c.spike == o.c.spike))
        .where(o.c.sequence.is_not(None))
    )
    given = by_commit.union_all(by_operation).subquery()
    before = sa.func.lag(given.c.sequence, 1, 0).over(partition_by=given.c.dataset, order_by=given.c.sequence)
    return sa.select(given, before.label("before")).subquery()


_given = _numbers()
_MISSING = (
    sa.select(_given.c.dataset, _given.c.before + 1)
    .where(_given.c.sequence != _given.c.before + 1, sa.not_(_given.c.skips))
    .order_by(_given.c.dataset, _given.c.sequence)
)
_NEWEST = (
    sa.select(
        s.datasets.c.name,
        s.datasets.c.sequence,
        sa.func.coalesce(sa.func.max(_given.c.sequence), 0),
    )
    .select_from(s.datasets.outerjoin(_given, _given.c.dataset == s.datasets.c.name))
    .group_by(s.datasets.c.name, s.datasets.c.sequence)
    .order_by(s.datasets.c.name)
)
