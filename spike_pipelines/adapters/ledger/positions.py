"""Staged and committed ends: the part of `SqlTransaction` that only lets them advance."""

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.errors import Conflict
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position


class PositionStatements:
    _db: sa.Connection

    def positions(self, spike: str, lane: str) -> Mapping[Partition, Position]:
        p = s.positions
        found = self._db.execute(
            sa.select(p).where(p.c.spike == spike, p.c.lane == lane, p.c.closed_by.is_(None))
        ).mappings()
        return {position.partition: position for position in map(rows.position, found)}

    def add_positions(self, spike: str, lane: str, baselines: Mapping[Partition, int]) -> None:
        if baselines:
            self._db.execute(sa.insert(s.positions), _begun(spike, lane, baselines))

    def begin_at(self, spike: str, lane: str, starts: Mapping[Partition, int]) -> None:
        if not starts:
            return
        p, offsets = s.positions, ("baseline", "staged_end", "committed_end")
        new = insert(p).values(_begun(spike, lane, starts))
        where = {name: new.excluded[name] for name in offsets}
        self._db.execute(new.on_conflict_do_update(index_elements=list(p.primary_key), set_=where))

    def advance_staged(self, spike: str, lane: str, ranges: Iterable[OffsetRange]) -> None:
        self._advance(s.positions.c.staged_end, spike, lane, ranges)

    def advance_committed(self, spike: str, lane: str, ranges: Iterable[OffsetRange]) -> None:
        self._advance(s.positions.c.committed_end, spike, lane, ranges)

    def _advance(self, column: sa.Column[int], spike: str, lane: str, ranges: Iterable[OffsetRange]) -> None:
        """Move each partition from its range's start to its end; from anywhere else is refused (I2, I5)."""
        ranges = list(ranges)
        if not ranges:
            return
        p = s.positions
        moves = sa.values(
            sa.column("topic_id", sa.Text),
            sa.column("partition", sa.Integer),
            sa.column("start_offset", sa.BigInteger),
            sa.column("end_offset", sa.BigInteger),
            name="moves",
        ).data([(r.partition.topic_id, r.partition.index, r.start, r.end) for r in ranges])
        done = self._db.execute(
            sa.update(p)
            .where(
                p.c.spike == spike,
                p.c.lane == lane,
                p.c.topic_id == moves.c.topic_id,
                p.c.partition == moves.c.partition,
                column == moves.c.start_offset,
            )
            .values({column: moves.c.end_offset})
        )
        if done.rowcount != len(ranges):
            raise Conflict(f"{spike}: {column.name} is not at the start of every range")


def _begun(spike: str, lane: str, offsets: Mapping[Partition, int]) -> list[dict[str, str | int]]:
    """Rows of partitions that stand at these offsets, with nothing read."""
    return [
        {
            "spike": spike,
            "lane": lane,
            "topic": p.topic,
            "topic_id": p.topic_id,
            "partition": p.index,
            "baseline": offset,
            "staged_end": offset,
            "committed_end": offset,
        }
        for p, offset in sorted(offsets.items())
    ]
