"""What people and sensors read from the ledger. Queries only."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import live, rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import LIVE_LANE, Batch, FileKind
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.ports import HourReport, Recovery, Refusal


class Reports(ABC):
    """The reading half of `SqlLedger`."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def unreported(self, dataset: str) -> tuple[HourReport, ...]:
        """One report for each hour that got files since the last report, up to what is published."""
        d = s.datasets
        with self._read() as db:
            state = db.execute(sa.select(d).where(d.c.name == dataset)).mappings().one()
            since, until = state["reported"], state["published"]
            f = s.files
            query = sa.select(f).where(f.c.dataset == dataset, f.c.added > since, f.c.added <= until)
            by_hour: dict[datetime, list[sa.RowMapping]] = defaultdict(list)
            for row in db.execute(query.order_by(f.c.id)).mappings():
                by_hour[row["hour"]].append(row)
            numbers = {row["batch"] for found in by_hour.values() for row in found}
            batches = rows.load_batches(db, sa.select(s.batches).where(s.batches.c.number.in_(numbers)))
        by_number = {batch.number: batch for batch in batches}
        return tuple(
            _report(dataset, hour, until, found, by_number) for hour, found in sorted(by_hour.items())
        )

    def now(self) -> datetime:
        with self._read() as db:
            now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now

    def epochs(self) -> Mapping[str, Epoch]:
        with self._read() as db:
            return live.epochs(db)

    def refusals(self) -> Mapping[str, Refusal]:
        t = s.spikes
        query = sa.select(t).where(t.c.refused_at.is_not(None))
        with self._read() as db:
            return {
                row["name"]: Refusal(
                    row["refused_at"], row["refused_code"], row["refused_message"], row["refused_driver"]
                )
                for row in db.execute(query).mappings()
            }

    def recoveries(self, since: datetime) -> Mapping[str, tuple[Recovery, ...]]:
        with self._read() as db:
            return live.recoveries(db, since)

    def all_positions(self) -> Mapping[str, Mapping[Partition, Position]]:
        with self._read() as db:
            return live.positions(db)

    def last_commits(self) -> Mapping[str, datetime]:
        with self._read() as db:
            return live.commits(db)

    def last_batches(self, spike: str, limit: int) -> tuple[Batch, ...]:
        """The newest batches of the live lane, newest first."""
        b = s.batches
        query = (
            sa.select(b)
            .where(b.c.spike == spike, b.c.lane == LIVE_LANE)
            .order_by(b.c.number.desc())
            .limit(limit)
        )
        with self._read() as db:
            return rows.load_batches(db, query)


def _report(
    dataset: str, hour: datetime, sequence: int, found: list[sa.RowMapping], batches: Mapping[int, Batch]
) -> HourReport:
    mine = [batches[number] for number in sorted({row["batch"] for row in found})]
    return HourReport(
        dataset=dataset,
        hour=hour,
        sequence=sequence,
        files=len(found),
        rows=sum(row["rows"] for row in found if row["kind"] == FileKind.FINAL),
        dead_letters=sum(row["rows"] for row in found if row["kind"] == FileKind.DEAD_LETTER),
        size=sum(row["size"] for row in found),
        latency_seconds=max((b.committed_at - b.staged_at).total_seconds() for b in mine if b.committed_at),
        batches=tuple(b.number for b in mine),
        ranges=tuple(sorted(r for b in mine for r in b.ranges)),
    )
