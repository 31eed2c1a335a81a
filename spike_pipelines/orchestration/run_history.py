"""Dagster's own history: its `retention` covers ticks, so old runs are deleted here.

Deleting a run deletes its events, its materializations too, and a partition without one looks as if it were
never made. So a run stays as long as it holds the newest materialization of a partition, or the newest
observation of an asset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

PAGE = 100
MOST_PAGES = 50  # of one run of ours; the next one goes on where it stopped
MOST_EVENTS = 1_000  # asset events of one run that are looked at; with more, it stays
CURSOR = "spike-pipelines/pruned-runs"

_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_KINDS = (DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION)


@dataclass(frozen=True, slots=True)
class Pruned:
    deleted: int = 0
    kept: int = 0


def prune_runs(
    instance: dg.DagsterInstance, keep: timedelta, *, dry_run: bool = False, now: datetime | None = None
) -> Pruned:
    """Delete ended runs not updated for `keep`, oldest first, but for those that an asset needs. Starts
    behind the last one that stayed, and begins again at the oldest when it has come to the end."""
    before = (now or datetime.now(UTC)) - keep
    cursor = _cursor(instance)
    deleted = kept = 0
    for _ in range(MOST_PAGES):
        page = _page(instance, before, cursor)
        for run_id in page:
            if _needed(instance, run_id):
                cursor, kept = run_id, kept + 1
            else:
                deleted += 1
                if not dry_run:
                    _delete(instance, run_id)
        if len(page) < PAGE or dry_run:
            cursor = None
            break
    instance.run_storage.set_cursor_values({CURSOR: cursor or ""})
    return Pruned(deleted, kept)


def _cursor(instance: dg.DagsterInstance) -> str | None:
    """The run to go on behind, if it still exists: it does, unless somebody deleted it by hand."""
    run_id = instance.run_storage.get_cursor_values({CURSOR}).get(CURSOR)
    return run_id if run_id and instance.has_run(run_id) else None


def _page(instance: dg.DagsterInstance, before: datetime, cursor: str | None) -> Sequence[str]:
    wanted = RunsFilter(statuses=_ENDED, updated_before=before)
    found = instance.get_run_records(wanted, limit=PAGE, ascending=True, cursor=cursor)
    return [record.dagster_run.run_id for record in found]


def _needed(instance: dg.DagsterInstance, run_id: str) -> bool:
    found = instance.get_records_for_run(run_id, of_type=set(_KINDS), limit=MOST_EVENTS + 1)
    if len(found.records) > MOST_EVENTS:
        return True
    places = {_place(record) for record in found.records}
    return any(_newest_run(instance, *place) == run_id for place in places if place is not None)


_Place = tuple[DagsterEventType, dg.AssetKey, str | None]


def _place(record: dg.EventLogRecord) -> _Place | None:
    event = record.event_log_entry.dagster_event
    if event is None or event.asset_key is None:
        return None
    return event.event_type, event.asset_key, event.partition


def _newest_run(
    instance: dg.DagsterInstance, kind: DagsterEventType, key: dg.AssetKey, partition: str | None
) -> str | None:
    """The run that logged the newest event there. Asked by run: storage ids of a run's events and of the
    index are not the same everywhere."""
    partitions = None if partition is None else [partition]
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
    materialized = kind is DagsterEventType.ASSET_MATERIALIZATION
    fetch = instance.fetch_materializations if materialized else instance.fetch_observations
    newest = fetch(wanted, limit=1).records
    return newest[0].run_id if newest else None


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """Its logs first: without the run nobody would find them again. A run that went on meanwhile stays."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.status not in _ENDED:
        return
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
