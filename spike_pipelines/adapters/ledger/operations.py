"""Audited operations inside one transaction: what a person's decision changes, as SQL."""

import secrets
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.batches import insert_ranges
from spike_pipelines.adapters.ledger.hours import EARLIER_LANES
from spike_pipelines.domain.batch import UNFINISHED, Batch, BatchState, FileKind, FileState, identity
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Conflict, Refused
from spike_pipelines.domain.held import Recount
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.domain.operations import NewOperation, Operation
from spike_pipelines.domain.swap import SwapState
from spike_pipelines.domain.words import count_of

_UNFINISHED = sorted(UNFINISHED)
_LONG_MS = str(10 * 60 * 1000)


class OperationStatements:
    """The half of `SqlTransaction` that only audited operations use."""

    _db: sa.Connection

    def revoke_lease(self, resource: str) -> None:
        """End whoever's lease, and keep others from acting under one until this transaction ends."""
        t = s.leases
        now = sa.func.clock_timestamp()
        self._db.execute(
            insert(t)
            .values(resource=resource, token=1, holder="", expires_at=now)
            .on_conflict_do_update(
                index_elements=[t.c.resource], set_={"token": t.c.token + 1, "expires_at": now}
            )
        )

    def bump_epoch(self, spike: str, by: str) -> int:
        """A newer epoch that nobody has: every driver of before is fenced, the next one gets the next."""
        e = s.epochs
        newest = self._db.execute(
            sa.select(sa.func.coalesce(sa.func.max(e.c.number), 0)).where(e.c.spike == spike)
        ).scalar_one()
        self._db.execute(
            sa.update(e)
            .where(e.c.spike == spike, e.c.state == EpochState.OPEN)
            .values(state=EpochState.SUPERSEDED)
        )
        now = sa.func.clock_timestamp()
        self._db.execute(
            sa.insert(e).values(
                spike=spike,
                number=newest + 1,
                nonce=secrets.token_hex(16),
                driver=by,
                state=EpochState.RETIRED,
                opened_at=now,
                heartbeat_at=now,
                application_version="none",
            )
        )
        return int(newest) + 1

    def add_operation(self, new: NewOperation) -> int:
        moves = [
            [m.partition.topic, m.partition.topic_id, m.partition.index, m.staged_end, m.committed_end, m.to]
            for m in new.moves
        ]
        number: int = self._db.execute(
            sa.insert(s.operations)
            .values(
                request=new.request,
                spike=new.spike,
                kind=new.kind,
                who=new.author.who,
                why=new.author.why,
                summary=new.summary,
                batch=new.batch,
                epoch=new.epoch,
                sequence=new.sequence,
                moves=moves,
            )
            .returning(s.operations.c.id)
        ).scalar_one()
        return number

    def find_operation(self, request: str) -> Operation | None:
        query = sa.select(s.operations).where(s.operations.c.request == request)
        row = self._db.execute(query).mappings().one_or_none()
        return rows.operation(row) if row else None

    def unfinished_batches(self, spike: str, lane: str) -> tuple[Batch, ...]:
        b = s.batches
        query = (
            sa.select(b)
            .where(b.c.spike == spike, b.c.lane == lane, b.c.state.in_(_UNFINISHED))
            .order_by(b.c.number)
        )
        return rows.load_batches(self._db, query)

    def committed_beyond(
        self, spike: str, lane: str, points: Mapping[Partition, int], *, since: int | None = None
    ) -> tuple[Batch, ...]:
        """Live committed batches, oldest first, from the first one on that reaches beyond a point."""
        if not points:
            return ()
        self._take_time()
        b, r = s.batches, s.batch_ranges
        at = _offsets_of(points)
        first = (
            sa.select(sa.func.min(r.c.batch))
            .select_from(
                r.join(b, b.c.number == r.c.batch).join(
                    at, sa.and_(r.c.topic_id == at.c.topic_id, r.c.partition == at.c.partition)
                )
            )
            .where(
                r.c.spike == spike,
                r.c.lane == lane,
                r.c.live,
                r.c.end_offset > at.c.at_offset,
                b.c.state == BatchState.COMMITTED,
            )
            .scalar_subquery()
        )
        query = (
            sa.select(b)
            .where(
                b.c.spike == spike,
                b.c.lane == lane,
                b.c.state == BatchState.COMMITTED,
                b.c.removed.is_(None),
                b.c.number >= (first if since is None else sa.func.least(first, since)),
            )
            .order_by(b.c.number)
        )
        return rows.load_batches(self._db, query)

    def earlier_batches(self, spike: str) -> tuple[Batch, ...]:
        b = s.batches
        query = sa.select(b).where(
            b.c.spike == spike,
            b.c.lane.like(EARLIER_LANES),
            b.c.state == BatchState.COMMITTED,
            b.c.removed.is_(None),
        )
        return rows.load_batches(self._db, query.order_by(b.c.number))

    def abort(self, batches: Collection[int], operation: int) -> None:
        """Give unfinished batches up: their offsets may be read again, their final keys stay known."""
        self._take_time()
        b, f = s.batches, s.files
        done = self._db.execute(
            sa.update(b)
            .where(b.c.number == sa.any_(rows.array(batches)), b.c.state.in_(_UNFINISHED))
            .values(state=BatchState.ABORTED, operation=operation)
        )
        if done.rowcount != len(batches):
            raise Conflict(f"of batches {sorted(batches)} some are not unfinished any more")
        self._db.execute(
            sa.update(f).where(f.c.batch == sa.any_(rows.array(batches))).values(state=FileState.ABORTED)
        )
        self._free_ranges(batches)

    def supersede(self, batches: Collection[int], sequence: int, operation: int) -> None:
        """Take committed batches and their files out of the dataset at `sequence`."""
        self._take_time()
        self._require_unreplaced(batches)
        b, f = s.batches, s.files
        done = self._db.execute(
            sa.update(b)
            .where(
                b.c.number == sa.any_(rows.array(batches)),
                b.c.state == BatchState.COMMITTED,
                b.c.removed.is_(None),
            )
            .values(removed=sequence, operation=operation)
        )
        if done.rowcount != len(batches):
            raise Conflict(
                f"of {count_of(len(batches), 'batch', 'batches')} only {done.rowcount} committed and live"
            )
        self._db.execute(
            sa.update(f)
            .where(f.c.batch == sa.any_(rows.array(batches)), f.c.state == FileState.LIVE)
            .values(state=FileState.SUPERSEDED, removed=sequence)
        )
        self._free_ranges(batches)

    def _require_unreplaced(self, batches: Collection[int]) -> None:
        """A file that a swap replaced has its records in the swap's batch, which must go with it; and so
        have the batches that a backfill read again."""
        f, x, w, y = s.files, s.swap_files, s.swaps, s.swap_sources
        gone = rows.array(batches)
        stays = (w.c.state == SwapState.SWAPPED) & (w.c.batch != sa.all_(gone))
        query = sa.union(
            sa.select(f.c.batch)
            .select_from(f.join(x, x.c.file == f.c.id).join(w, w.c.number == x.c.swap))
            .where(f.c.batch == sa.any_(gone), stays),
            sa.select(y.c.batch)
            .select_from(y.join(w, w.c.number == y.c.swap))
            .where(y.c.batch == sa.any_(gone), stays),
        )
        if replaced := sorted(set(self._db.execute(query).scalars())):
            raise Refused(
                f"files of batches {replaced[:5]} were replaced by a swap: superseding these batches alone "
                "would leave their records in the files that replaced them"
            )

    def _take_time(self) -> None:
        """For the rest of the transaction a statement may take minutes: it may be about every file of a
        spike. Nobody else can decide on the spike meanwhile, and drivers' requests are told to come again."""
        self._db.execute(sa.select(sa.func.set_config("statement_timeout", _LONG_MS, True)))

    def _free_ranges(self, batches: Collection[int]) -> None:
        r = s.batch_ranges
        self._db.execute(sa.update(r).where(r.c.batch == sa.any_(rows.array(batches))).values(live=False))

    def move_ends(self, spike: str, lane: str, points: Mapping[Partition, int]) -> None:
        """Set staged and committed end to the points, and the baseline where it lies beyond."""
        if not points:
            return
        p, at = s.positions, _offsets_of(points)
        done = self._db.execute(
            sa.update(p)
            .where(
                p.c.spike == spike,
                p.c.lane == lane,
                p.c.topic_id == at.c.topic_id,
                p.c.partition == at.c.partition,
            )
            .values(
                staged_end=at.c.at_offset,
                committed_end=at.c.at_offset,
                baseline=sa.func.least(p.c.baseline, at.c.at_offset),
            )
        )
        if done.rowcount != len(points):
            raise Conflict(f"{spike}: not every partition of {len(points)} has a position")

    def close_positions(self, spike: str, lane: str, topic_ids: Iterable[str], operation: int) -> None:
        """Read nothing more of these incarnations; what is staged of them is still committed."""
        p = s.positions
        self._db.execute(
            sa.update(p)
            .where(p.c.spike == spike, p.c.lane == lane, p.c.topic_id.in_(list(topic_ids)))
            .values(closed_by=operation)
        )

    def add_lost(
        self, spike: str, lane: str, ranges: Iterable[OffsetRange], *, epoch: int, operation: int
    ) -> Batch:
        """A batch without records, committed in its turn: behind what is staged before it."""
        ranges = tuple(ranges)
        b = s.batches
        row = (
            self._db.execute(
                sa.insert(b)
                .values(
                    identity=identity(spike, lane, epoch, ranges),
                    spike=spike,
                    lane=lane,
                    epoch=epoch,
                    state=BatchState.STAGED,
                    records_read=0,
                    records_final=0,
                    records_dead_letter=0,
                    records_filtered=0,
                    application_version="none",
                    staged_at=sa.func.clock_timestamp(),
                    lost=True,
                    operation=operation,
                )
                .returning(*b.c)
            )
            .mappings()
            .one()
        )
        insert_ranges(self._db, row, ranges)
        return rows.batch(row, ranges)

    def release_batch(self, batch: int, counted: Recount, operation: int) -> None:
        """A held batch goes back to be promoted, with the counts that the appender found."""
        b, f, counts = s.batches, s.files, counted.counts
        done = self._db.execute(
            sa.update(b)
            .where(b.c.number == batch, b.c.state == BatchState.HELD)
            .values(
                state=BatchState.STAGED,
                held_reason=None,
                records_read=counts.read,
                records_final=counts.final,
                records_dead_letter=counts.dead_letter,
                records_filtered=counts.filtered,
                records_unaccounted=counts.unaccounted,
                operation=operation,
            )
        )
        if done.rowcount != 1:
            raise Conflict(f"batch {batch} is not held any more")
        values = [{"id_": file, "rows_": found} for file, found in counted.rows.items()]
        if values:
            self._db.execute(
                sa.update(f).where(f.c.id == sa.bindparam("id_")).values(rows=sa.bindparam("rows_")), values
            )
        self._count_hours_again(batch)

    def _count_hours_again(self, batch: int) -> None:
        """From its files: what a backfill of the hour must find."""
        f, h = s.files, s.batch_hours

        def rows_of(kind: FileKind) -> sa.ScalarSelect[int]:
            rows_there = sa.func.coalesce(sa.func.sum(f.c.rows), 0)
            of_hour = (f.c.batch == h.c.batch) & (f.c.hour == h.c.hour) & (f.c.kind == kind)
            return sa.select(rows_there).where(of_hour).correlate(h).scalar_subquery()

        final, dead = rows_of(FileKind.FINAL), rows_of(FileKind.DEAD_LETTER)
        changed = {"records_final": final, "records_dead_letter": dead}
        self._db.execute(sa.update(h).where(h.c.batch == batch).values(**changed))


def _offsets_of(points: Mapping[Partition, int]) -> sa.Values:
    return sa.values(
        sa.column("topic_id", sa.Text),
        sa.column("partition", sa.Integer),
        sa.column("at_offset", sa.BigInteger),
        name="points",
    ).data([(p.topic_id, p.index, offset) for p, offset in points.items()])
