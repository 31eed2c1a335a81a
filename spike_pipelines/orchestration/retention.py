"""Retention, hourly: data nobody can need any more, and Dagster's own old runs."""

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

from spike_pipelines.domain.retention import Removal
from spike_pipelines.orchestration.run_history import Pruned, prune_runs


class RetainConfig(dg.Config):
    """`dry_run` reports what would go, and deletes nothing."""

    dry_run: bool = False


@dg.op(required_resource_keys={"platform"}, out=dg.Out(dg.Nothing))
def retain(context: dg.OpExecutionContext, config: RetainConfig) -> None:
    """Delete orphaned staging, superseded files, tombstones and old snapshots."""
    found = []
    for removal in context.resources.platform.retainer.run(dry_run=config.dry_run):
        context.log.info("%s: %s: %d objects", removal.spike, removal.kind, removal.objects)
        found.append(removal)
    context.add_output_metadata(retention_metadata(found))


@dg.op(required_resource_keys={"platform"}, out=dg.Out(dg.Nothing))
def finish_swaps(context: dg.OpExecutionContext, config: RetainConfig) -> None:
    """Bring backfills and replays whose process died to their end, or give them up."""
    if config.dry_run:
        return
    platform = context.resources.platform
    for swap in platform.swapper.finish_left(platform.spikes.values()):
        context.log.info("%s is %s%s", swap, swap.state, f": {swap.problem}" if swap.problem else "")


@dg.op(required_resource_keys={"platform"}, out=dg.Out(dg.Nothing))
def prune(context: dg.OpExecutionContext, config: RetainConfig) -> None:
    """Delete Dagster's runs that are older than their objective and that no partition needs."""
    keep = timedelta(days=context.resources.platform.settings.retention_run_days)
    done = prune_runs(context.instance, keep, dry_run=config.dry_run)
    context.log.info("%d runs deleted, %d kept for their assets", done.deleted, done.kept)
    context.add_output_metadata(pruned_metadata(done))


def retention_metadata(found: Iterable[Removal]) -> dict[str, dg.MetadataValue | int]:
    found = list(found)
    lines = [f"| {r.spike} | {r.kind} | {r.objects} | {r.size} | {r.kept} |" for r in found]
    header = ["| spike | what | objects | bytes | stay |", "| --- | --- | --- | --- | --- |"]
    return {
        "objects": sum(r.objects for r in found),
        "bytes": sum(r.size for r in found),
        "by kind": dg.MetadataValue.md("\n".join([*header, *lines])),
    }


def pruned_metadata(done: Pruned) -> dict[str, int]:
    return {"deleted runs": done.deleted, "runs kept for their assets": done.kept}


@dg.job(
    description="Ends what a dead process left open; deletes what no reader, driver or run can need any more."
)
def retention() -> None:
    finish_swaps()
    retain()
    prune()


retention_schedule = dg.ScheduleDefinition(
    name="retention_schedule",
    job=retention,
    cron_schedule="17 * * * *",  # beside the full hour, when everybody else's jobs start
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
