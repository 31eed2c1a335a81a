"""What the ledger knows of one hour of a dataset: which batches fed it, and what swaps made of it since."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.backfill import Dead, Feed, HourFacts, Moved
from spike_pipelines.domain.batch import LIVE_LANE, BatchState, FileKind, FileState, hour_of
from spike_pipelines.domain.earlier import EarlierFacts
from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.offsets import OffsetRange, merged
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.swap import SwapKind, SwapState

MOST_DEAD = 20_000  # dead-letter files that tell where records belong

EARLIER_LANES = f"{SwapKind.EARLIER}-%"  # SQL's LIKE

_read = s.batch_hours.c.records_final + s.batch_hours.c.records_dead_letter + s.batch_hours.c.records_filtered


def hour_facts(
    db: sa.Connection, spike: str, dataset: str, hour: datetime, sources: Mapping[int, frozenset[int]]
) -> HourFacts:
    """`sources`: by a swap's batch, the drivers' batches that its records come from."""
    records = _records(db, spike, hour)
    moved = _moved(db, spike, hour, sources)
    strayed = _of_any_hour(db, {n for m, astray in moved if astray for n in m.sources})
    feeds = _feeds(db, spike, records, strayed)
    fed = frozenset(f.batch for f in feeds)
    origin = {n: frozenset({n}) for n in fed} | {n: of for n, of in sources.items() if of & fed}
    return HourFacts(
        hour=hour,
        files=_files(db, dataset, hour),
        feeds=feeds,
        moved=tuple(m for m, _ in moved),
        dead=_dead(db, dataset, origin),
    )


def fed_hours(
    db: sa.Connection, spike: str, ranges: Iterable[OffsetRange], sources: Mapping[int, frozenset[int]]
) -> tuple[datetime, ...]:
    """Also those that a swap moved records of these batches into. `sources`: see `hour_facts`."""
    fed = [row for wanted in ranges for row in db.execute(_fed_by(spike, wanted))]
    batches = {number for number, _ in fed}
    made = sorted(n for n, of in sources.items() if of & batches)
    swaps = db.execute(_swapped(spike).where(s.swaps.c.batch.in_(made))).mappings().all() if made else []
    came = {hour for _, change in _changes(db, swaps) for hour, records in change.items() if records > 0}
    return tuple(sorted({hour for _, hour in fed} | came))


def _fed_by(spike: str, wanted: OffsetRange) -> sa.Select[tuple[int, datetime]]:
    r, h = s.batch_ranges, s.batch_hours
    return (
        sa.select(h.c.batch, h.c.hour)
        .select_from(_committed_ranges().join(h, h.c.batch == r.c.batch))
        .where(*_live_of(spike), _read > 0)
        .where(r.c.topic_id == wanted.partition.topic_id, r.c.partition == wanted.partition.index)
        .where(r.c.start_offset < wanted.end, r.c.end_offset > wanted.start)
    )


def fed_ranges(db: sa.Connection, spike: str, since: datetime) -> tuple[OffsetRange, ...]:
    r, h = s.batch_ranges, s.batch_hours
    fed = sa.exists().where(h.c.batch == r.c.batch, h.c.hour >= hour_of(since), _read > 0)
    query = sa.select(r).select_from(_committed_ranges()).where(*_live_of(spike), fed)
    return merged(rows.offset_range(row) for row in db.execute(query).mappings())


def earlier_facts(db: sa.Connection, spike: str) -> EarlierFacts:
    b, p, w = s.batches, s.positions, s.swaps
    began = sa.select(sa.func.min(b.c.committed_at)).where(
        b.c.spike == spike, b.c.lane == LIVE_LANE, sa.not_(b.c.lost)
    )
    begun = sa.select(p).where(p.c.spike == spike, p.c.lane == LIVE_LANE, p.c.closed_by.is_(None))
    read = (
        sa.select(w.c.since)
        .select_from(w.join(b, b.c.number == w.c.batch))
        .where(w.c.spike == spike, w.c.kind == SwapKind.EARLIER, w.c.state == SwapState.SWAPPED)
        .where(b.c.removed.is_(None))
    )
    positions = [rows.position(row) for row in db.execute(begun).mappings()]
    return EarlierFacts(
        db.execute(began).scalar_one(),
        {x.partition: x.baseline for x in positions},
        frozenset(db.execute(read).scalars()),
    )


def _committed_ranges() -> sa.Join:
    return s.batch_ranges.join(s.batches, s.batches.c.number == s.batch_ranges.c.batch)


def _live_of(spike: str) -> tuple[sa.ColumnElement[bool], ...]:
    b, r = s.batches, s.batch_ranges
    return (
        r.c.spike == spike, reads_kafka_first(r.c.lane), r.c.live,
        b.c.state == BatchState.COMMITTED, b.c.removed.is_(None),
    )  # fmt: skip


def reads_kafka_first(lane: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """A driver's batch, or one that read an hour below where the spike began: its records were nobody's."""
    return sa.or_(lane == LIVE_LANE, lane.like(EARLIER_LANES))


def _records(db: sa.Connection, spike: str, hour: datetime) -> Mapping[int, int]:
    """By committed batch that read them first, its records of the hour."""
    b, h = s.batches, s.batch_hours
    query = (
        sa.select(b.c.number, _read)
        .select_from(h.join(b, b.c.number == h.c.batch))
        .where(h.c.hour == hour, b.c.spike == spike, reads_kafka_first(b.c.lane))
        .where(b.c.state == BatchState.COMMITTED, b.c.removed.is_(None))
    )
    return {number: records for number, records in db.execute(query) if records}


def _of_any_hour(db: sa.Connection, numbers: Collection[int]) -> frozenset[int]:
    """Without those that read one hour below where the spike began: no replay finds records of another one in
    them, and what else lies in their ranges is nobody's."""
    b = s.batches
    query = sa.select(b.c.number).where(
        b.c.number.in_(sorted(numbers)), sa.not_(b.c.lane.like(EARLIER_LANES))
    )
    return frozenset(db.execute(query).scalars()) if numbers else frozenset()


def _feeds(
    db: sa.Connection, spike: str, records: Mapping[int, int], strayed: Collection[int]
) -> tuple[Feed, ...]:
    b = s.batches
    numbers = sorted({*records, *strayed})
    query = sa.select(b).where(b.c.spike == spike, b.c.number.in_(numbers), b.c.removed.is_(None))
    found = rows.load_batches(db, query.order_by(b.c.number)) if numbers else ()
    return tuple(Feed(x.number, x.ranges, records.get(x.number, 0), x.counts.unaccounted) for x in found)


def _moved(
    db: sa.Connection, spike: str, hour: datetime, sources: Mapping[int, frozenset[int]]
) -> list[tuple[Moved, bool]]:
    """Each swap that had to do with the hour, and whether it may have taken records from one hour to another:
    a replay of several hours may, also where as many came as went."""
    swaps = db.execute(_touching(spike, hour)).mappings().all()
    found = []
    for row, change in _changes(db, swaps):
        moved = Moved(row["batch"], sources.get(row["batch"], frozenset()), change.get(hour, 0))
        found.append((moved, len(change) > 1 or any(change.values())))
    return found


def _changes(
    db: sa.Connection, swaps: Sequence[sa.RowMapping]
) -> Iterator[tuple[sa.RowMapping, Mapping[datetime, int]]]:
    """By swap, how many records more each hour that it had to do with has since."""
    given = _given(db, [row["batch"] for row in swaps])
    taken = _taken(db, [row["number"] for row in swaps if row["kind"] == SwapKind.REPLAY])
    for row in swaps:
        came, went = given[row["batch"]], taken[row["number"]]
        if row["kind"] == SwapKind.BACKFILL:
            went = {row["since"]: row["records_expected"]}
        yield row, {h: came.get(h, 0) - went.get(h, 0) for h in {*came, *went}}


def _touching(spike: str, hour: datetime) -> sa.Select[tuple[object, ...]]:
    """Swaps whose batch has records of the hour, or that replaced a file of it."""
    w, h, x, f = s.swaps, s.batch_hours, s.swap_files, s.files
    into = sa.exists().where(h.c.batch == w.c.batch, h.c.hour == hour)
    out_of = sa.exists().where(x.c.swap == w.c.number, x.c.file == f.c.id, f.c.hour == hour)
    return _swapped(spike).where(sa.or_(into, out_of))


def _swapped(spike: str) -> sa.Select[tuple[object, ...]]:
    """Swaps that stand, and took records of others."""
    w, b = s.swaps, s.batches
    return (
        sa.select(w)
        .select_from(w.join(b, b.c.number == w.c.batch))
        .where(w.c.spike == spike, w.c.state == SwapState.SWAPPED, b.c.removed.is_(None))
        .where(w.c.kind != SwapKind.EARLIER)
        .order_by(w.c.number)
    )


def _given(db: sa.Connection, batches: list[int]) -> Mapping[int, dict[datetime, int]]:
    """By batch and hour, its records."""
    h = s.batch_hours
    return _by_hour(db.execute(sa.select(h.c.batch, h.c.hour, _read).where(h.c.batch.in_(batches))))


def _taken(db: sa.Connection, swaps: list[int]) -> Mapping[int, dict[datetime, int]]:
    """By swap and hour, the rows of the files it replaced."""
    x, f = s.swap_files, s.files
    query = (
        sa.select(x.c.swap, f.c.hour, sa.cast(sa.func.sum(f.c.rows), sa.BigInteger))
        .select_from(x.join(f, f.c.id == x.c.file))
        .where(x.c.swap.in_(swaps))
        .group_by(x.c.swap, f.c.hour)
    )
    return _by_hour(db.execute(query))


def _by_hour(found: Iterable[sa.Row[tuple[int, datetime, int]]]) -> Mapping[int, dict[datetime, int]]:
    counts: dict[int, dict[datetime, int]] = defaultdict(dict)
    for number, hour, records in found:
        counts[number][hour] = records
    return counts


def _files(db: sa.Connection, dataset: str, hour: datetime) -> tuple[LedgerFile, ...]:
    f = s.files
    query = sa.select(f).where(f.c.dataset == dataset, f.c.hour == hour, f.c.state == FileState.LIVE)
    return tuple(rows.file(row) for row in db.execute(query.order_by(f.c.id)).mappings())


def _dead(db: sa.Connection, dataset: str, origin: Mapping[int, frozenset[int]]) -> tuple[Dead, ...]:
    f = s.files
    query = sa.select(f.c.final_key, f.c.batch).where(
        f.c.batch.in_(sorted(origin)),
        f.c.dataset == dataset,
        f.c.kind == FileKind.DEAD_LETTER,
        f.c.state == FileState.LIVE,
    )
    found = tuple(Dead(key, origin[n]) for key, n in db.execute(query.order_by(f.c.id).limit(MOST_DEAD + 1)))
    if len(found) > MOST_DEAD:
        raise Refused(
            f"more than {MOST_DEAD} dead-letter files belong to this hour's batches: replay them first"
        )
    return found
