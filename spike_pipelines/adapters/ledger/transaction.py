"""One transaction on the ledger: the port `LedgerTransaction` as SQL, put together from its parts."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.batches import BatchStatements
from spike_pipelines.adapters.ledger.bindings import BindingStatements
from spike_pipelines.adapters.ledger.closings import ClosingStatements
from spike_pipelines.adapters.ledger.epochs import EpochStatements
from spike_pipelines.adapters.ledger.operations import OperationStatements
from spike_pipelines.adapters.ledger.positions import PositionStatements
from spike_pipelines.adapters.ledger.swaps import SwapStatements
from spike_pipelines.domain.errors import InvariantBroken, LeaseLost
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.overlays import NewOverlay, Overlay
from spike_pipelines.ports import Recovery, Refusal


class SqlTransaction(
    EpochStatements,
    PositionStatements,
    BatchStatements,
    BindingStatements,
    OperationStatements,
    SwapStatements,
    ClosingStatements,
):
    """See `ports.LedgerTransaction`. Lives inside one `SqlLedger.begin()` block."""

    def __init__(self, connection: sa.Connection) -> None:
        self._db = connection

    def now(self) -> datetime:
        now: datetime = self._db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now

    # spikes

    def lock_spike(self, spike: str, dataset: str) -> None:
        t = s.spikes
        self._db.execute(insert(t).values(name=spike, dataset=dataset).on_conflict_do_nothing())
        self._db.execute(sa.select(t.c.name).where(t.c.name == spike).with_for_update())
        d = s.datasets
        self._db.execute(insert(d).values(name=dataset, spike=spike).on_conflict_do_nothing())
        owner = self._db.execute(sa.select(d.c.spike).where(d.c.name == dataset)).scalar_one()
        if owner != spike:
            raise InvariantBroken(f"dataset {dataset} belongs to spike {owner}, {spike} must have its own")

    def refuse(self, spike: str, refusal: Refusal | None) -> None:
        values: dict[str, Any] = {
            "refused_at": None,
            "refused_code": None,
            "refused_message": None,
            "refused_driver": None,
        }
        if refusal:
            values = {
                "refused_at": refusal.at,
                "refused_code": refusal.code,
                "refused_message": refusal.message[:2000],
                "refused_driver": refusal.driver,
            }
        self._db.execute(sa.update(s.spikes).where(s.spikes.c.name == spike).values(**values))

    def add_recovery(self, recovery: Recovery) -> None:
        self._db.execute(
            sa.insert(s.recoveries).values(
                spike=recovery.spike,
                at=recovery.at,
                action=recovery.action,
                cause=recovery.cause[:2000],
                verdict=recovery.verdict,
            )
        )

    def add_overlay(self, new: NewOverlay, before: str | None) -> Overlay:
        now = self.now()
        values = {
            "spike": new.spike,
            "kind": new.kind,
            "value": new.value,
            "before": before,
            "cause": new.cause[:2000],
            "spec_hash": new.spec_hash,
            "created_at": now,
            "expires_at": now + new.lasts,
        }
        query = sa.insert(s.overlays).values(**values).returning(s.overlays)
        return rows.overlay(self._db.execute(query).mappings().one())

    # leases

    def acquire(self, resource: str, holder: str, seconds: float) -> Lease | None:
        t = s.leases
        now = sa.func.clock_timestamp()
        expires = now + timedelta(seconds=seconds)
        query = (
            insert(t)
            .values(resource=resource, token=1, holder=holder, expires_at=expires)
            .on_conflict_do_update(
                index_elements=[t.c.resource],
                set_={"token": t.c.token + 1, "holder": holder, "expires_at": expires},
                where=t.c.expires_at <= now,
            )
            .returning(t.c.token)
        )
        row = self._db.execute(query).one_or_none()
        return Lease(resource, row.token, holder) if row else None

    def require_lease(self, lease: Lease) -> None:
        t = s.leases
        alive = self._db.execute(
            sa.select(t.c.token)
            .where(
                t.c.resource == lease.resource,
                t.c.token == lease.token,
                t.c.expires_at > sa.func.clock_timestamp(),
            )
            .with_for_update()
        ).one_or_none()
        if alive is None:
            raise LeaseLost(f"lease {lease.resource} #{lease.token} of {lease.holder} is over")
