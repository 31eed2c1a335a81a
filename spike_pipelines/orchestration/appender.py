"""The appender: a sensor that asks the ledger for unfinished work, and the run that does it."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from socket import gethostname

import dagster as dg

from spike_pipelines.domain.words import count_of
from spike_pipelines.orchestration.assets import dataset_key, partition_key
from spike_pipelines.orchestration.resources import DagsterPlatform
from spike_pipelines.platform import Platform
from spike_pipelines.ports import HourReport
from spike_pipelines.services.drain import APPENDER_LEASE, FailedTurn, Terms, needs_appender, orphans

_RETRY_SECONDS = 60  # a run that died before it took the lease is asked for again after as long


class AppenderConfig(dg.Config):
    """How long one run goes on: `idle_seconds` without work, `longest_seconds` in any case."""

    idle_seconds: float = 60.0
    longest_seconds: float = 600.0

    def terms(self) -> Terms:
        return Terms(
            idle=timedelta(seconds=self.idle_seconds), longest=timedelta(seconds=self.longest_seconds)
        )


@dg.op(required_resource_keys={"platform"})
def drain(context: dg.OpExecutionContext, config: AppenderConfig) -> None:
    """Promote what waits while work arrives; log what became visible."""
    failed = []
    for item in run_drain(context.resources.platform, context.run_id, config.terms()):
        if isinstance(item, FailedTurn):
            context.log.error("%s: %s", item.spike, item.message)
            failed += [item] if item.final else []
        else:
            context.log_event(materialization(item))
    fail_with(failed)


def run_drain(platform: Platform, run_id: str, terms: Terms) -> Iterator[HourReport | FailedTurn]:
    holder = f"run {run_id} on {gethostname()} pid {os.getpid()}"
    yield from platform.drain(holder, terms, run_id=run_id).run()


def materialization(report: HourReport) -> dg.AssetMaterialization:
    """The event of one hour of a dataset: what came, from which offsets, at which sequence number."""
    return dg.AssetMaterialization(
        dataset_key(report.dataset),
        partition=partition_key(report.hour),
        description=f"{count_of(report.rows, 'row')} and {count_of(report.dead_letters, 'dead letter')} at "
        f"#{report.sequence}",
        metadata={
            "rows": report.rows,
            "dead_letters": report.dead_letters,
            "bytes": report.size,
            "files": report.files,
            "sequence": report.sequence,
            "seconds_from_staged_to_committed": round(report.latency_seconds, 3),
            "batches": ", ".join(map(str, report.batches)),
            "offsets": dg.MetadataValue.md(offsets_table(report)),
        },
        tags={"spike/sequence": str(report.sequence)},
    )


def offsets_table(report: HourReport) -> str:
    lines = [f"| {r.partition} | {r.start} | {r.end} |" for r in report.ranges]
    return "\n".join(["| partition | start | end |", "| --- | --- | --- |", *lines])


def fail_with(failed: list[FailedTurn]) -> None:
    """Fail the run with every spike that needs a person; the others were served all the same."""
    if failed:
        sentences = "; ".join(f"{t.spike}: {t.message}" for t in failed)
        raise dg.Failure(f"not retried: {sentences}", allow_retries=False)


@dg.job(description="Promotes staged batches to final files and commits their offsets.")
def appender() -> None:
    drain()


@dg.sensor(
    job=appender,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    required_resource_keys={"platform"},
)
def appender_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Starts a run when batches wait and no appender run is alive."""
    return appender_request(context.resources.platform, datetime.now(UTC))


def appender_request(platform: DagsterPlatform, now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run key has the lease's token, which every run that works raises, and the attempt's minute."""
    reason = needs_appender(platform.ledger, platform.spikes)
    if reason is None:
        alone = [f"{name}: {why}" for name, why in orphans(platform.ledger, platform.spikes).items()]
        return dg.SkipReason("; ".join(["nothing waits, or an appender run is at work", *alone]))
    token, _ = platform.ledger.lease_state(APPENDER_LEASE)
    attempt = int(now.timestamp() // _RETRY_SECONDS)
    return dg.RunRequest(run_key=f"appender-{token}-{attempt}", tags={"spike/reason": reason[:200]})
