"""Closed hours in Dagster: an external asset `closed/<dataset>`, an event for each hour that is closed.

It is materialized again when a closed hour changes: late files, a backfill, a rewind. Whoever depends on it
with `ON_CLOSED_HOURS` runs for each hour that is complete, and again for each that changed.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import dagster as dg

from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.closed import Closing
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.orchestration.assets import dataset_key, partition_key
from spike_pipelines.platform import Platform
from spike_pipelines.ports import HourBook

log = logging.getLogger(__name__)

MOST_TOLD = 200  # hours in a tick that were never told; the rest follows in the next ticks

# `eager` for every hour (a closed one is never the latest), and a change counts as handled only by a request
# that came after it: `eager` forgets one that is told in the tick after a request, or while its run is at
# work, which may have read the hour before. A run that failed is asked for again, once an hour.
_FIRST_LOOK = dg.AutomationCondition.initial_evaluation()
_CHANGED = (
    dg.AutomationCondition.any_deps_updated()
    | (dg.AutomationCondition.newly_missing() & ~_FIRST_LOOK)
    | (
        dg.AutomationCondition.cron_tick_passed("0 * * * *", "UTC")
        & dg.AutomationCondition.execution_failed()
    )
)
ON_CLOSED_HOURS = (
    ~(dg.AutomationCondition.newly_requested() | _FIRST_LOOK).since(_CHANGED)
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("on closed hours")

LagTick = Callable[[Platform, str | None, datetime], dg.SensorResult]
Told = Mapping[int, int]  # closing id → sequence number, as the last tick told it


def closed_key(dataset: str) -> dg.AssetKey:
    return dg.AssetKey(["closed", dataset])


def closed_hours(spike: Spike) -> dg.HourlyPartitionsDefinition:
    """Of the asset, and of what is made from it: completed hours only."""
    return dg.HourlyPartitionsDefinition(start_date=hour_of(spike.dataset.start), timezone="UTC")


def closed_specs(spikes: Iterable[Spike]) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            closed_key(spike.dataset.name),
            deps=[dataset_key(spike.dataset.name)],
            group_name="closed_hours",
            kinds={"iceberg"},
            partitions_def=closed_hours(spike),
            description=f"Hours of `{spike.dataset.name}` in which all is committed that had arrived "
            f"{spike.dataset.lateness} after their end. Materialized again when such an hour changes.",
            metadata={"spike": spike.name, "lateness": str(spike.dataset.lateness)},
        )
        for spike in spikes
    ]


def with_closed_hours(platform: Platform, cursor: str | None, lag: LagTick, now: datetime) -> dg.SensorResult:
    """The lag tick, and what closed meanwhile. The ledger hears that an hour was told in the tick after the
    one that told it: then Dagster has both the event and the cursor. Killed in between: told twice."""
    lag_cursor, told = unpacked(cursor)
    books, told = _to_tell(platform, told)
    done = lag(platform, lag_cursor, now)
    return dg.SensorResult(
        asset_events=[*map(materialization, books), *done.asset_events], cursor=packed(done.cursor, told)
    )


def _to_tell(platform: Platform, told: Told) -> tuple[tuple[HourBook, ...], Told]:
    """What is told now, and what the ledger is to hear of in the next tick. Without a ledger nothing is told
    and nothing forgotten; lag's own checks say that it does not answer."""
    platform.closer.close()
    try:
        platform.ledger.mark_told(told)
        books = platform.ledger.untold_hours(MOST_TOLD)
    except Transient as error:
        log.warning("closed hours are told later: %s", error)
        return (), told
    return books, {b.closing.id: b.sequence for b in books if b.closing}


def packed(lag_cursor: str | None, telling: Told) -> str:
    return json.dumps({"lag": lag_cursor, "told": {str(i): n for i, n in telling.items()}})


def unpacked(cursor: str | None) -> tuple[str | None, Told]:
    """A cursor from before there were closed hours is lag's own."""
    found = json.loads(cursor) if cursor else {}
    if set(found) != {"lag", "told"}:
        return cursor, {}
    return found["lag"], {int(i): n for i, n in found["told"].items()}


def materialization(book: HourBook) -> dg.AssetMaterialization:
    assert book.closing is not None  # only closed hours are told
    late = f", {book.late_records:,} of them late" if book.late_records else ""
    return dg.AssetMaterialization(
        closed_key(book.dataset),
        partition=partition_key(book.hour),
        description=f"{count_of(book.rows, 'row')} and {count_of(book.dead_letters, 'dead letter')}{late}, "
        f"at #{book.sequence}",
        metadata={
            "rows": book.rows,
            "dead_letters": book.dead_letters,
            "files": book.files,
            "bytes": book.size,
            "late_files": book.late_files,
            "late_records": book.late_records,
            "sequence": book.sequence,
            "evidence": dg.MetadataValue.md(evidence(book.closing)),
        },
        tags={"spike/sequence": str(book.sequence)},
    )


def evidence(closing: Closing) -> str:
    lines = [f"| {p} | {end} |" for p, end in sorted(closing.ends.items())]
    seen = f"every partition had committed up to the log end of {closing.observed_at:%Y-%m-%d %H:%M:%S} UTC"
    header = [f"Closed {closing.closed_at:%Y-%m-%d %H:%M:%S} UTC: {seen}.", ""]
    return "\n".join([*header, "| partition | log end |", "| --- | --- |", *lines])
