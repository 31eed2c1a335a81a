"""What people look up in the ledger: batches, where an offset or a file comes from, who did what."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.hours import EARLIER_LANES
from spike_pipelines.domain.batch import LIVE_LANE, Batch, BatchState
from spike_pipelines.domain.offsets import Position
from spike_pipelines.domain.operations import Operation
from spike_pipelines.ports import BatchRecord


class ProvenanceQueries(ABC):
    """The part of `SqlLedger` that answers questions about single things."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def held(self) -> Mapping[str, Batch]:
        b = s.batches
        query = sa.select(b).where(b.c.state == BatchState.HELD, b.c.lane == LIVE_LANE)
        with self._read() as db:
            return {batch.spike: batch for batch in rows.load_batches(db, query.order_by(b.c.number.desc()))}

    def operations(self, spike: str | None, limit: int) -> tuple[Operation, ...]:
        o = s.operations
        query = sa.select(o).order_by(o.c.id.desc()).limit(limit)
        if spike is not None:
            query = query.where(o.c.spike == spike)
        with self._read() as db:
            return tuple(rows.operation(row) for row in db.execute(query).mappings())

    def record(self, batch: int) -> BatchRecord | None:
        b, e, c, o = s.batches, s.epochs, s.commits, s.operations
        with self._read() as db:
            found = rows.load_batches(db, sa.select(b).where(b.c.number == batch))
            if not found:
                return None
            one = found[0]
            driver = db.execute(
                sa.select(e.c.driver).where(e.c.spike == one.spike, e.c.number == one.epoch)
            ).scalar_one_or_none()
            commit = db.execute(sa.select(c).where(c.c.batch == batch)).mappings().one_or_none()
            files = db.execute(sa.select(s.files).where(s.files.c.batch == batch).order_by(s.files.c.id))
            done = db.execute(
                sa.select(o).where(sa.or_(o.c.batch == batch, o.c.id == one.operation)).order_by(o.c.id)
            )
            return BatchRecord(
                batch=one,
                driver=driver,
                files=tuple(rows.file(row) for row in files.mappings()),
                operations=tuple(rows.operation(row) for row in done.mappings()),
                dataset=commit["dataset"] if commit else None,
                sequence=commit["sequence"] if commit else None,
                run_id=commit["run_id"] if commit else None,
            )

    def covering(self, topic: str, partition: int, offset: int) -> tuple[int, ...]:
        """Two index scans for each reader of the topic: live ranges are disjoint, so that the last one to
        begin at or before the offset is the only candidate; past ranges are few, and so are those of hours
        that were read below where a spike began, of which several may have the offset."""
        p, r = s.positions, s.batch_ranges
        at = (r.c.partition == partition, r.c.start_offset <= offset)
        with self._read() as db:
            readers = db.execute(
                sa.select(p.c.spike, p.c.lane, p.c.topic_id).where(p.c.topic == topic).distinct()
            ).all()
            live = []
            for spike, lane, topic_id in readers:
                last = (
                    sa.select(r.c.batch, r.c.end_offset)
                    .where(r.c.spike == spike, r.c.lane == lane, r.c.topic_id == topic_id, r.c.live, *at)
                    .order_by(r.c.start_offset.desc())
                    .limit(1)
                )
                live += [number for number, end in db.execute(last) if end > offset]
            past = sa.select(r.c.batch).where(
                r.c.topic_id.in_({topic_id for _, _, topic_id in readers}),
                sa.not_(r.c.live),
                r.c.end_offset > offset,
                *at,
            )
            earlier = sa.select(r.c.batch).where(
                r.c.topic_id.in_({topic_id for _, _, topic_id in readers}),
                r.c.lane.like(EARLIER_LANES),
                r.c.live,
                r.c.end_offset > offset,
                *at,
            )
            live += db.execute(earlier).scalars()
            return (*sorted(live), *db.execute(past.order_by(r.c.batch.desc())).scalars())

    def readers(self, topic: str) -> Mapping[str, tuple[Position, ...]]:
        p = s.positions
        found: dict[str, tuple[Position, ...]] = defaultdict(tuple)
        query = sa.select(p).where(p.c.topic == topic, p.c.lane == LIVE_LANE).order_by(p.c.partition)
        with self._read() as db:
            for row in db.execute(query).mappings():
                found[row["spike"]] += (rows.position(row),)
        return dict(found)

    def batch_of(self, key: str) -> int | None:
        f = s.files
        with self._read() as db:
            for column in (f.c.final_key, f.c.staging_key):
                query = sa.select(f.c.batch).where(column == key).limit(1)
                if number := db.execute(query).scalar_one_or_none():
                    return int(number)
        return None
