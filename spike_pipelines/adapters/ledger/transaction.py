"""One transaction on the ledger: the verbs of `LedgerTransaction` as SQL."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.bindings import BindingVerbs
from spike_pipelines.adapters.ledger.closings import ClosingStatements
from spike_pipelines.adapters.ledger.operations import OperationStatements
from spike_pipelines.adapters.ledger.swaps import SwapVerbs
from spike_pipelines.domain.batch import (
    UNFINISHED,
    Batch,
    BatchState,
    FileState,
    HourCounts,
    NewBatch,
    StagedFile,
    check_transition,
)
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.errors import Conflict, Fenced, InvariantBroken, LeaseLost
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position
from spike_pipelines.domain.overlays import NewOverlay, Overlay
from spike_pipelines.domain.promotion import Intent, LedgerFile
from spike_pipelines.ports import Recovery, Refusal

_UNFINISHED = sorted(UNFINISHED)


class SqlTransaction(OperationStatements, SwapVerbs, BindingVerbs, ClosingStatements):
    """See `ports.LedgerTransaction`. Lives inside one `SqlLedger.begin()` block."""

    def __init__(self, connection: sa.Connection) -> None:
        self._db = connection

    def now(self) -> datetime:
        now: datetime = self._db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now

    # spikes and epochs

    def lock_spike(self, spike: str, dataset: str) -> None:
        t = s.spikes
        self._db.execute(insert(t).values(name=spike, dataset=dataset).on_conflict_do_nothing())
        self._db.execute(sa.select(t.c.name).where(t.c.name == spike).with_for_update())
        d = s.datasets
        self._db.execute(insert(d).values(name=dataset, spike=spike).on_conflict_do_nothing())
        owner = self._db.execute(sa.select(d.c.spike).where(d.c.name == dataset)).scalar_one()
        if owner != spike:
            raise InvariantBroken(f"dataset {dataset} belongs to spike {owner}, {spike} must have its own")

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

    # offsets

    def positions(self, spike: str, lane: str) -> Mapping[Partition, Position]:
        p = s.positions
        found = self._db.execute(
            sa.select(p).where(p.c.spike == spike, p.c.lane == lane, p.c.closed_by.is_(None))
        ).mappings()
        return {position.partition: position for position in map(rows.position, found)}

    def add_positions(self, spike: str, lane: str, baselines: Mapping[Partition, int]) -> None:
        if not baselines:
            return
        values = [
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
            for p, offset in sorted(baselines.items())
        ]
        self._db.execute(sa.insert(s.positions), values)

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

    # batches and files

    def find_batch(self, identity: str) -> Batch | None:
        return self._one_batch(sa.select(s.batches).where(s.batches.c.identity == identity))

    def batch(self, number: int) -> Batch | None:
        return self._one_batch(sa.select(s.batches).where(s.batches.c.number == number))

    def next_batch(self, spike: str, lane: str) -> Batch | None:
        b = s.batches
        return self._one_batch(
            sa.select(b)
            .where(b.c.spike == spike, b.c.lane == lane, b.c.state.in_(_UNFINISHED))
            .order_by(b.c.number)
            .limit(1)
        )

    def _one_batch(self, query: sa.Select[Any]) -> Batch | None:
        found = rows.load_batches(self._db, query)
        return found[0] if found else None

    def unfinished(self, spike: str, lane: str) -> int:
        b = s.batches
        query = (
            sa.select(sa.func.count())
            .select_from(b)
            .where(b.c.spike == spike, b.c.lane == lane, b.c.state.in_(_UNFINISHED))
        )
        return int(self._db.execute(query).scalar_one())

    def add_batch(
        self, spike: str, lane: str, batch: NewBatch, *, epoch: int | None, identity: str, prefix: str
    ) -> Batch:
        counts = batch.counts
        row = (
            self._db.execute(
                sa.insert(s.batches)
                .values(
                    identity=identity,
                    spike=spike,
                    lane=lane,
                    epoch=epoch,
                    state=BatchState.STAGED,
                    records_read=counts.read,
                    records_final=counts.final,
                    records_dead_letter=counts.dead_letter,
                    records_filtered=counts.filtered,
                    application_version=batch.application_version,
                    staged_at=sa.func.clock_timestamp(),
                )
                .returning(*s.batches.c)
            )
            .mappings()
            .one()
        )
        number = row["number"]
        ranges = [r for r in batch.ranges if len(r)]
        self._insert_ranges(row, ranges)
        self._insert_hours(number, batch.hours)
        self._insert_files(number, prefix, batch.files)
        return rows.batch(row, ranges)

    def _insert_ranges(self, batch: sa.RowMapping, ranges: list[OffsetRange]) -> None:
        values = [
            {
                "batch": batch["number"],
                "spike": batch["spike"],
                "lane": batch["lane"],
                "topic": r.partition.topic,
                "topic_id": r.partition.topic_id,
                "partition": r.partition.index,
                "start_offset": r.start,
                "end_offset": r.end,
            }
            for r in ranges
        ]
        if values:
            self._db.execute(sa.insert(s.batch_ranges), values)

    def _insert_hours(self, number: int, hours: tuple[HourCounts, ...]) -> None:
        values = [
            {
                "batch": number,
                "hour": h.hour,
                "records_final": h.final,
                "records_dead_letter": h.dead_letter,
                "records_filtered": h.filtered,
            }
            for h in hours
        ]
        if values:
            self._db.execute(sa.insert(s.batch_hours), values)

    def _insert_files(self, number: int, prefix: str, files: tuple[StagedFile, ...]) -> None:
        values = [
            {
                "batch": number,
                "kind": f.kind,
                "hour": f.hour,
                "rows": f.rows,
                "size": f.size,
                "state": FileState.STAGED,
                "staging_key": prefix + f.key,
                "staging_etag": f.etag,
            }
            for f in files
        ]
        if values:
            self._db.execute(sa.insert(s.files), values)

    def files(self, batch: int) -> tuple[LedgerFile, ...]:
        query = sa.select(s.files).where(s.files.c.batch == batch).order_by(s.files.c.id)
        return tuple(rows.file(row) for row in self._db.execute(query).mappings())

    def set_state(self, batch: int, old: BatchState, new: BatchState, *, reason: str | None = None) -> None:
        check_transition(old, new)
        b = s.batches
        committed_at = sa.func.clock_timestamp() if new is BatchState.COMMITTED else None
        done = self._db.execute(
            sa.update(b)
            .where(b.c.number == batch, b.c.state == old)
            .values(state=new, held_reason=reason, committed_at=committed_at)
        )
        if done.rowcount != 1:
            raise Conflict(f"batch {batch} is not {old} any more")

    def intend(self, intents: Iterable[Intent]) -> None:
        keys = {i.file: i.final_key for i in intents}
        if not keys:
            return
        f, given = s.files, _by_id(keys)
        self._db.execute(sa.update(f).where(f.c.id == given.c.id).values(final_key=given.c.value))

    def commit_files(
        self, dataset: str, batch: int, etags: Mapping[int, str], *, run_id: str | None = None
    ) -> int:
        sequence = self.next_sequence(dataset)
        self._db.execute(
            sa.insert(s.commits).values(
                dataset=dataset,
                sequence=sequence,
                batch=batch,
                committed_at=sa.func.clock_timestamp(),
                run_id=run_id,
            )
        )
        if etags:
            f, given = s.files, _by_id(etags)
            self._db.execute(
                sa.update(f)
                .where(f.c.id == given.c.id, f.c.state == FileState.STAGED)
                .values(state=FileState.LIVE, dataset=dataset, added=sequence, final_etag=given.c.value)
            )
        self._require_all_live(batch)
        return sequence

    def _require_all_live(self, batch: int) -> None:
        f = s.files
        query = sa.select(sa.func.count()).where(f.c.batch == batch, f.c.state != FileState.LIVE)
        if missing := self._db.execute(query).scalar_one():
            raise InvariantBroken(f"{missing} files of batch {batch} would not become live with it")

    # leases

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


def _by_id(values: Mapping[int, str]) -> sa.Values:
    """A table (id, value) to update from, of at least one row: one statement, however many there are."""
    columns = sa.column("id", sa.BigInteger), sa.column("value", sa.Text)
    return sa.values(*columns, name="given").data(list(values.items()))
