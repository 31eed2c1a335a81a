"""Epochs: the part of `SqlTransaction` that grants, ends and hears them."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.errors import Fenced
from spike_pipelines.domain.offsets import Partition


class EpochStatements:
    _db: sa.Connection

    def latest_epoch(self, spike: str) -> Epoch | None:
        return self._newest_epoch(s.epochs.c.spike == spike)

    def driver_epoch(self, spike: str, driver: str) -> Epoch | None:
        return self._newest_epoch((s.epochs.c.spike == spike) & (s.epochs.c.driver == driver))

    def _newest_epoch(self, which: sa.ColumnElement[bool]) -> Epoch | None:
        query = sa.select(s.epochs).where(which).order_by(s.epochs.c.number.desc()).limit(1)
        row = self._db.execute(query).mappings().one_or_none()
        return rows.epoch(row) if row else None

    def add_epoch(self, epoch: Epoch) -> None:
        e = s.epochs
        self._db.execute(
            sa.update(e)
            .where(e.c.spike == epoch.spike, e.c.state == EpochState.OPEN)
            .values(state=EpochState.SUPERSEDED)
        )
        self._db.execute(
            sa.insert(e).values(
                spike=epoch.spike,
                number=epoch.number,
                nonce=epoch.nonce,
                driver=epoch.driver,
                state=EpochState.OPEN,
                opened_at=epoch.opened_at,
                heartbeat_at=epoch.heartbeat_at,
                after=epoch.after,
                phase=epoch.phase,
                application_version=epoch.application_version,
            )
        )

    def retire_epoch(self, spike: str, driver: str) -> bool:
        e = s.epochs
        done = self._db.execute(
            sa.update(e)
            .where(e.c.spike == spike, e.c.driver == driver, e.c.state == EpochState.OPEN)
            .values(state=EpochState.RETIRED)
        )
        return done.rowcount == 1

    def beat(
        self,
        spike: str,
        epoch: int,
        nonce: str,
        *,
        phase: Phase,
        problem: str | None,
        batch_started_at: datetime | None,
        progress_at: datetime | None = None,
        read: Mapping[Partition, int],
    ) -> None:
        e = s.epochs
        offsets = [[p.topic, p.topic_id, p.index, offset] for p, offset in sorted(read.items())]
        done = self._db.execute(
            sa.update(e)
            .where(e.c.spike == spike, e.c.number == epoch, e.c.nonce == nonce, e.c.state == EpochState.OPEN)
            .values(
                heartbeat_at=sa.func.clock_timestamp(),
                phase=phase,
                problem=problem,
                batch_started_at=batch_started_at,
                progress_at=progress_at,
                read_offsets=offsets,
            )
        )
        if done.rowcount != 1:
            raise Fenced(f"epoch {epoch} of {spike} is not the open one")
