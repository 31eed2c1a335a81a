"""Batches and their files: the part of `SqlTransaction` that takes them from staged to committed."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
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
from spike_pipelines.domain.errors import Conflict, InvariantBroken
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import Intent, LedgerFile
from spike_pipelines.domain.words import count_of

_UNFINISHED = sorted(UNFINISHED)


class BatchStatements:
    _db: sa.Connection

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
        insert_ranges(self._db, row, ranges)
        self._insert_hours(number, batch.hours)
        self._insert_files(number, prefix, batch.files)
        return rows.batch(row, ranges)

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

    def next_sequence(self, dataset: str, *, above: int = 0) -> int:
        d = s.datasets
        sequence: int = self._db.execute(
            sa.update(d)
            .where(d.c.name == dataset)
            .values(sequence=sa.func.greatest(d.c.sequence, above) + 1)
            .returning(d.c.sequence)
        ).scalar_one()
        return sequence

    def _require_all_live(self, batch: int) -> None:
        f = s.files
        query = sa.select(sa.func.count()).where(f.c.batch == batch, f.c.state != FileState.LIVE)
        if missing := self._db.execute(query).scalar_one():
            raise InvariantBroken(
                f"{count_of(missing, 'file')} of batch {batch} would not become live with it"
            )


def _by_id(values: Mapping[int, str]) -> sa.Values:
    """A table (id, value) to update from, of at least one row: one statement, however many there are."""
    columns = sa.column("id", sa.BigInteger), sa.column("value", sa.Text)
    return sa.values(*columns, name="given").data(list(values.items()))


def insert_ranges(db: sa.Connection, batch: sa.RowMapping, ranges: Iterable[OffsetRange]) -> None:
    """The ranges of a batch that was just inserted."""
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
        db.execute(sa.insert(s.batch_ranges), values)
