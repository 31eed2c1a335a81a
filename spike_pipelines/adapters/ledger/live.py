"""How every spike stands, read in one query each: for whoever has a connection, or a snapshot."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import LIVE_LANE
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.ports import Recovery


def epochs(db: sa.Connection) -> Mapping[str, Epoch]:
    """The newest of each."""
    e = s.epochs
    newest = sa.select(e.c.spike, sa.func.max(e.c.number)).group_by(e.c.spike)
    query = sa.select(e).where(sa.tuple_(e.c.spike, e.c.number).in_(newest))
    return {row["spike"]: rows.epoch(row) for row in db.execute(query).mappings()}


def positions(db: sa.Connection) -> Mapping[str, Mapping[Partition, Position]]:
    """Those of the live lane that are not closed."""
    p = s.positions
    query = sa.select(p).where(p.c.lane == LIVE_LANE, p.c.closed_by.is_(None))
    found: dict[str, dict[Partition, Position]] = defaultdict(dict)
    for row in db.execute(query).mappings():
        position = rows.position(row)
        found[row["spike"]][position.partition] = position
    return dict(found)


def commits(db: sa.Connection) -> Mapping[str, datetime]:
    """When the live lane last committed."""
    b = s.batches
    newest = (
        sa.select(sa.func.max(b.c.committed_at))
        .where(b.c.spike == s.spikes.c.name, b.c.lane == LIVE_LANE)
        .scalar_subquery()
    )
    return {name: at for name, at in db.execute(sa.select(s.spikes.c.name, newest)) if at}


def recoveries(db: sa.Connection, since: datetime) -> Mapping[str, tuple[Recovery, ...]]:
    """Oldest first."""
    r = s.recoveries
    query = (
        sa.select(r.c.spike, r.c.at, r.c.action, r.c.cause, r.c.verdict)
        .where(r.c.at >= since)
        .order_by(r.c.at, r.c.id)
    )
    found: dict[str, list[Recovery]] = defaultdict(list)
    for row in db.execute(query).mappings():
        found[row["spike"]].append(Recovery(**row))
    return {name: tuple(mine) for name, mine in found.items()}
