"""What watching lag reads from the ledger and writes down in it: a projection, never part of a commit."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import live
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import translated
from spike_pipelines.domain.arrival import Watermarks
from spike_pipelines.domain.batch import LIVE_LANE, UNFINISHED, BatchState
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.fleet import FLEET
from spike_pipelines.domain.lag import LagReport, Loss, Waiting
from spike_pipelines.domain.lag_history import Ends, Sample
from spike_pipelines.domain.log_start import Look
from spike_pipelines.domain.losses import Missing, joined, latched, records, without
from spike_pipelines.domain.offsets import Break, Partition
from spike_pipelines.ports import LagView, Tally

# (step, slots): minutes for three hours, ten minutes for a week. At most so many rows a spike, for ever.
RINGS = ((60, 180), (600, 1008))
LATELY = timedelta(minutes=5)  # batches committed since count towards the appender's latency
MOST_LIVES = 50  # epochs of a spike that a look goes back to: a crash loop of an hour is one
FORGET = timedelta(days=8)  # a spike that nobody looks at any more
_REPORT = TypeAdapter(LagReport)
_ENDS = TypeAdapter(tuple[Ends, ...])
_WATERMARKS = TypeAdapter(tuple[Watermarks, ...])
_MISSING = TypeAdapter(tuple[Missing, ...])
_SAMPLE = tuple(field.name for field in fields(Sample))
_UNFINISHED = sorted(UNFINISHED)


class LagQueries(ABC):
    """The lag half of `SqlLedger`."""

    _engine: sa.Engine

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[sa.Connection]: ...

    def lag_view(self, history: timedelta, restarts: timedelta) -> LagView:
        t = s.lag_latest
        with self._snapshot() as db:
            now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            epochs = live.epochs(db)
            created = {
                r.name: r.created_at for r in db.execute(sa.select(s.spikes.c.name, s.spikes.c.created_at))
            }
            looks = (t.c.report[name].label(name) for name in ("ends", "watermarks"))
            latest = db.execute(sa.select(t.c.spike, t.c.mirrored, *looks)).all()
            return LagView(
                now=now,
                positions=live.positions(db),
                waiting=_waiting(db),
                epochs=epochs,
                read={name: epoch.read for name, epoch in epochs.items() if epoch.state is EpochState.OPEN},
                commits=live.commits(db),
                created=created,
                recoveries=live.recoveries(db, now - restarts),
                losses=_losses(db),
                history=_history(db, now - history),
                mirrored={r.spike: r.mirrored for r in latest if r.mirrored is not None},
                ends={r.spike: _ENDS.validate_python(r.ends) for r in latest if r.ends},
                watermarks={
                    r.spike: _WATERMARKS.validate_python(r.watermarks) for r in latest if r.watermarks
                },
                opened={row.spike: tuple(row.opened) for row in db.execute(_OPENED, {"most": MOST_LIVES})},
            )

    def log_starts(self, spikes: Collection[str], since: datetime) -> Mapping[str, tuple[Look, ...]]:
        parameters = {"spikes": sorted(spikes), "step": RINGS[-1][0], "since": since}
        found: dict[str, tuple[Look, ...]] = {}
        with self._read() as db:
            for row in db.execute(_LOG_STARTS, parameters):
                look = Look(row.at, row.topic_id, tuple(row.log_starts), tuple(row.staged_ends))
                found[row.spike] = (*found.get(row.spike, ()), look)
        return found

    def record_lag(self, reports: Mapping[str, LagReport]) -> None:
        with translated(), self._engine.begin() as db:
            at: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            timed = dict(sorted(reports.items()))
            if timed:
                before = _write_latest(db, timed, at)
                _write_history(db, timed, at)
                _write_losses(db, timed, before, at)
            _forget(db, at)

    def latest_lag(self) -> Mapping[str, LagReport]:
        t = s.lag_latest
        report = sa.type_coerce(t.c.report.op("-")("watermarks"), t.c.report.type).label("report")
        with self._read() as db:
            found = db.execute(sa.select(t.c.spike, report))
            return {row.spike: _REPORT.validate_python(row.report) for row in found}

    def lag_samples(self, spike: str, since: datetime) -> tuple[Sample, ...]:
        h = s.lag_history
        query = sa.select(h).where(h.c.spike == spike, h.c.at >= since).order_by(h.c.step_seconds, h.c.at)
        with self._read() as db:
            found = [(row["step_seconds"], _sample(row)) for row in db.execute(query).mappings()]
        minutes = [sample for step, sample in found if step == RINGS[0][0]]
        before = minutes[0].at if minutes else None
        coarse = [x for step, x in found if step != RINGS[0][0] and (before is None or x.at < before)]
        return (*coarse, *minutes)

    def mark_mirrored(self, sums: Mapping[str, int | None]) -> None:
        if not sums:
            return
        t = s.lag_latest
        with translated(), self._engine.begin() as db:
            db.execute(
                sa.update(t).where(t.c.spike == sa.bindparam("name_")).values(mirrored=sa.bindparam("sum_")),
                [{"name_": name, "sum_": total} for name, total in sums.items()],
            )

    def acknowledge_loss(self, spike: str, who: str, why: str) -> Loss | None:
        t = s.losses
        query = (
            sa.update(t)
            .where(t.c.spike == spike, t.c.acknowledged_at.is_(None))
            .values(acknowledged_at=sa.func.clock_timestamp(), acknowledged_by=who, why=why)
            .returning(*t.c)
        )
        with translated(), self._engine.begin() as db:
            row = db.execute(query).mappings().one_or_none()
        return _loss(row) if row else None

    def recent_breaks(
        self, since: datetime, spikes: Collection[str] | None = None
    ) -> Mapping[str, tuple[Break, ...]]:
        chosen = {"since": since, "lane": LIVE_LANE, "spikes": None if spikes is None else sorted(spikes)}
        with self._snapshot() as db:
            found: dict[str, tuple[Break, ...]] = {}
            for row in db.execute(_BREAKS, chosen).mappings():
                found.setdefault(row["spike"], ())
                if row["expected"] is not None and row["expected"] != row["found"]:
                    partition = Partition(row["topic"], row["topic_id"], row["partition"])
                    found[row["spike"]] += (Break(partition, row["expected"], row["found"]),)
            return found

    def tally(self) -> Tally:
        b, f, r, d = s.batches, s.files, s.recoveries, s.datasets
        batches = (
            sa.select(b.c.spike, b.c.state, sa.func.count())
            .where(b.c.state.in_(_UNFINISHED))
            .group_by(b.c.spike, b.c.state)
        )
        files = (
            sa.select(b.c.spike, f.c.state, sa.func.count())
            .select_from(b.join(f, f.c.batch == b.c.number))
            .where(b.c.state.in_(_UNFINISHED))
            .group_by(b.c.spike, f.c.state)
        )
        recoveries = sa.select(r.c.spike, r.c.verdict, sa.func.count()).group_by(r.c.spike, r.c.verdict)
        incident = sa.select(r.c.verdict, r.c.at).where(r.c.spike == FLEET).order_by(r.c.at.desc()).limit(1)
        committed = sa.select(d.c.spike, sa.func.sum(d.c.sequence)).group_by(d.c.spike)
        with self._snapshot() as db:
            return Tally(
                at=db.execute(sa.select(sa.func.clock_timestamp())).scalar_one(),
                batches={(spike, state): n for spike, state, n in db.execute(batches)},
                files={(spike, state): n for spike, state, n in db.execute(files)},
                committed={spike: int(n) for spike, n in db.execute(committed)},
                recoveries={(spike, verdict): n for spike, verdict, n in db.execute(recoveries)},
                duties={row.name: row.succeeded_at for row in db.execute(sa.select(s.duties))},
                latencies={
                    row.spike: (row.median, row.longest)
                    for row in db.execute(_LATENCIES, {"lane": LIVE_LANE, "lately": LATELY})
                },
                rows={(table, state): n for table, state, n in db.execute(_ROWS)},
                incident=next(((row.verdict, row.at) for row in db.execute(incident)), None),
            )

    def succeeded(self, duty: str) -> None:
        now = sa.func.clock_timestamp()
        query = (
            insert(s.duties)
            .values(name=duty, succeeded_at=now)
            .on_conflict_do_update(index_elements=[s.duties.c.name], set_={"succeeded_at": now})
        )
        with translated(), self._engine.begin() as db:
            db.execute(query)


# For each range that was committed since then: where the one before it in the same partition ended, however
# long ago that was committed (where there is none: the baseline), and for the newest one where the committed
# end is. Superseded ranges are not live and do not count.
_BREAKS = sa.text(
    """
    WITH recent AS (
        SELECT r.spike, r.topic, r.topic_id, r.partition, r.start_offset, r.end_offset,
               lag(r.end_offset) OVER w AS before, lead(r.start_offset) OVER w AS after
        FROM batches b JOIN batch_ranges r ON r.batch = b.number
        WHERE b.committed_at >= :since AND b.lane = :lane AND b.state = 'committed' AND r.live
              AND (CAST(:spikes AS text[]) IS NULL OR b.spike = ANY(CAST(:spikes AS text[])))
        WINDOW w AS (PARTITION BY r.spike, r.topic_id, r.partition ORDER BY r.start_offset)
    )
    SELECT recent.spike, recent.topic, recent.topic_id, recent.partition,
           coalesce(recent.before, earlier.end_offset, p.baseline) AS expected, recent.start_offset AS found
    FROM recent
    LEFT JOIN LATERAL (
        SELECT r.end_offset FROM batch_ranges r JOIN batches b ON b.number = r.batch
        WHERE recent.before IS NULL AND r.spike = recent.spike AND r.lane = :lane
              AND r.topic_id = recent.topic_id AND r.partition = recent.partition
              AND r.start_offset < recent.start_offset AND r.live AND b.state = 'committed'
        ORDER BY r.start_offset DESC LIMIT 1
    ) AS earlier ON true
    LEFT JOIN positions p ON p.spike = recent.spike AND p.lane = :lane
         AND p.topic_id = recent.topic_id AND p.partition = recent.partition
    UNION ALL
    SELECT recent.spike, recent.topic, recent.topic_id, recent.partition,
           recent.end_offset, p.committed_end
    FROM recent JOIN positions p ON p.spike = recent.spike AND p.lane = :lane
         AND p.topic_id = recent.topic_id AND p.partition = recent.partition
    WHERE recent.after IS NULL
    """
)


_OPENED = sa.text(
    """
    SELECT s.name AS spike, array_agg(e.opened_at) AS opened
    FROM spikes s CROSS JOIN LATERAL (
        SELECT opened_at FROM epochs WHERE spike = s.name ORDER BY number DESC LIMIT :most
    ) AS e
    GROUP BY s.name
    """
)


# The last look before each step of a log's start and the first one after it, and the ends of the history.
_LOG_STARTS = sa.text(
    """
    SELECT spike, at, topic_id, log_starts, staged_ends
    FROM (
        SELECT spike, at, topic_id, log_starts, staged_ends, log_start,
               lag(log_start) OVER looks AS before, lead(log_start) OVER looks AS after
        FROM lag_history
        WHERE spike = ANY(:spikes) AND step_seconds = :step AND at >= :since AND topic_id IS NOT NULL
        WINDOW looks AS (PARTITION BY spike ORDER BY at)
    ) AS looks
    WHERE log_starts <> '{}'
          AND (log_start IS DISTINCT FROM before OR log_start IS DISTINCT FROM after)
    ORDER BY spike, at
    """
)


# One look into the index of (spike, committed_at) for each spike, however long the table is.
_LATENCIES = sa.text(
    """
    SELECT s.name AS spike, found.median, found.longest
    FROM spikes s CROSS JOIN LATERAL (
        SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median, max(seconds) AS longest
        FROM (
            SELECT extract(epoch FROM b.committed_at - b.staged_at)::float8 AS seconds
            FROM batches b
            WHERE b.spike = s.name AND b.committed_at >= clock_timestamp() - :lately AND b.lane = :lane
        ) AS batches_lately
    ) AS found
    WHERE found.median IS NOT NULL
    """
)


# What the planner knows, in the catalog alone: a count would read every row of a table that is never emptied.
# The states of each table are few, so they are all among its most common values unless one is very rare.
_ROWS = sa.text(
    """
    SELECT p.tablename, common.state, round(c.reltuples * common.share)::bigint
    FROM pg_stats p
    JOIN pg_class c ON c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass
    CROSS JOIN LATERAL unnest(p.most_common_vals::text::text[], p.most_common_freqs) AS common (state, share)
    WHERE p.schemaname = current_schema() AND p.tablename IN ('batches', 'files') AND p.attname = 'state'
          AND c.reltuples >= 0
    """
)


def _waiting(db: sa.Connection) -> Mapping[str, Waiting]:
    b = s.batches
    query = (
        sa.select(
            b.c.spike,
            sa.func.count().label("batches"),
            sa.func.min(b.c.staged_at).label("oldest"),
            sa.func.max(b.c.staged_at).label("newest"),
            sa.func.array_agg(sa.dialects.postgresql.aggregate_order_by(b.c.state, b.c.number)).label(
                "states"
            ),
            sa.func.array_agg(sa.dialects.postgresql.aggregate_order_by(b.c.held_reason, b.c.number)).label(
                "why"
            ),
        )
        .where(b.c.state.in_(_UNFINISHED), b.c.lane == LIVE_LANE)
        .group_by(b.c.spike)
    )
    return {
        row.spike: Waiting(
            row.batches,
            row.oldest,
            row.newest,
            (row.why[0] or "no reason noted") if row.states[0] == BatchState.HELD else None,
        )
        for row in db.execute(query)
    }


def _losses(db: sa.Connection) -> Mapping[str, Loss]:
    t = s.losses
    query = sa.select(t).where(t.c.acknowledged_at.is_(None))
    return {row["spike"]: _loss(row) for row in db.execute(query).mappings()}


def _loss(row: sa.RowMapping) -> Loss:
    ranges = _MISSING.validate_python(row["ranges"])
    return Loss(row["seen_at"], row["records"], row["detail"], ranges)


def _history(db: sa.Connection, since: datetime) -> Mapping[str, tuple[Sample, ...]]:
    h = s.lag_history
    query = sa.select(h).where(h.c.step_seconds == RINGS[0][0], h.c.at >= since).order_by(h.c.at)
    found: dict[str, list[Sample]] = defaultdict(list)
    for row in db.execute(query).mappings():
        found[row["spike"]].append(_sample(row))
    return {name: tuple(mine) for name, mine in found.items()}


def _sample(row: sa.RowMapping) -> Sample:
    lists = {"log_starts": tuple(row["log_starts"]), "staged_ends": tuple(row["staged_ends"])}
    return Sample(**{name: row[name] for name in _SAMPLE} | lists)


def _write_latest(
    db: sa.Connection, reports: Mapping[str, LagReport], at: datetime
) -> Mapping[str, LagReport]:
    """Answers the reports of before of those spikes whose log seems cut off: nobody else asks for them.

    The first look of a day (UTC) forgets what the consumer group has, so that it is written again: Kafka
    itself forgets a group without members after a while, and a person may have deleted it."""
    t, query = s.lag_latest, insert(s.lag_latest)
    today = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    doubtful = sorted(name for name, r in reports.items() if any(p.cut_off for p in r.partitions))
    known = sa.select(t.c.spike, t.c.report).where(t.c.spike.in_(doubtful)).with_for_update()
    before = db.execute(known).all() if doubtful else ()
    db.execute(
        query.on_conflict_do_update(
            index_elements=[t.c.spike],
            set_={
                "observed_at": query.excluded.observed_at,
                "report": query.excluded.report,
                "mirrored": sa.case((t.c.observed_at >= today, t.c.mirrored)),
            },
        ),
        [
            {"spike": name, "observed_at": at, "report": _REPORT.dump_python(report, mode="json")}
            for name, report in reports.items()
        ],
    )
    return {row.spike: _REPORT.validate_python(row.report) for row in before}


def _write_history(db: sa.Connection, reports: Mapping[str, LagReport], at: datetime) -> None:
    values = [
        {"spike": name, "step_seconds": step, "slot": int(at.timestamp()) // step % slots} | sample
        for name, report in reports.items()
        for sample in (_row(report.sample(at)),)
        for step, slots in RINGS
    ]
    query = insert(s.lag_history)
    keys = ("spike", "step_seconds", "slot")
    db.execute(
        query.on_conflict_do_update(
            index_elements=list(keys), set_={name: query.excluded[name] for name in _SAMPLE}
        ),
        values,
    )


def _row(sample: Sample) -> dict[str, Any]:
    return asdict(sample) | {name: list(getattr(sample, name)) for name in ("log_starts", "staged_ends")}


def _write_losses(
    db: sa.Connection, reports: Mapping[str, LagReport], before: Mapping[str, LagReport], at: datetime
) -> None:
    """One open loss a spike; it keeps when it was first seen, and all that was missing since. Who writes the
    same spike's look waits for us at its newest report, who acknowledges the loss at its row: a look from
    before that does not know of it, and what was acknowledged is not lost again."""
    seen = {
        name: latched(gone, before[name].missing if name in before else ())
        for name, report in reports.items()
        if (gone := report.missing)
    }
    if not seen:
        return
    t = s.losses
    standing = (
        sa.select(t.c.spike, t.c.records, t.c.ranges)
        .where(t.c.spike.in_(sorted(seen)), t.c.acknowledged_at.is_(None))
        .with_for_update()
    )
    known = {row.spike: (row.records, _MISSING.validate_python(row.ranges)) for row in db.execute(standing)}
    acknowledged = _acknowledged(db, {name: reports[name].at for name in seen})
    values = []
    for name, gone in seen.items():
        most, standing_ = known.get(name, (0, ()))
        total = joined(standing_, without(gone, acknowledged.get(name, ())))
        if not total:
            continue
        values.append(
            {
                "spike": name,
                "seen_at": at,
                "records": max(records(total), most),
                "detail": ", ".join(map(str, total))[:2000],
                "ranges": _MISSING.dump_python(total, mode="json"),
            }
        )
    if not values:
        return
    query = insert(t)
    db.execute(
        query.on_conflict_do_update(
            index_elements=[t.c.spike],
            index_where=t.c.acknowledged_at.is_(None),
            set_={name: query.excluded[name] for name in ("records", "detail", "ranges")},
            where=query.excluded.ranges != t.c.ranges,
        ),
        values,
    )


def _acknowledged(
    db: sa.Connection, looks: Mapping[str, datetime | None]
) -> Mapping[str, tuple[Missing, ...]]:
    """What was acknowledged of these spikes since they were looked at."""
    t = s.losses
    since = min((at for at in looks.values() if at), default=None)
    if since is None:
        return {}
    query = sa.select(t.c.spike, t.c.acknowledged_at, t.c.ranges).where(
        t.c.spike.in_(sorted(looks)), t.c.acknowledged_at >= since
    )
    found: dict[str, tuple[Missing, ...]] = {}
    for row in db.execute(query):
        if (at := looks[row.spike]) and row.acknowledged_at >= at:
            found[row.spike] = joined(found.get(row.spike, ()), _MISSING.validate_python(row.ranges))
    return found


def _forget(db: sa.Connection, at: datetime) -> None:
    t, h = s.lag_latest, s.lag_history
    query = sa.delete(t).where(t.c.observed_at < at - FORGET).returning(t.c.spike)
    names = list(db.execute(query).scalars())
    if names:
        db.execute(sa.delete(h).where(h.c.spike.in_(names)))
