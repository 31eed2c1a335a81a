"""The supervisor: a sensor that compares what should run with what does, and the run that mends it."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from spike_pipelines.domain.supervision import Decision, Verdict
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.platform import Platform
from spike_pipelines.services.supervise import Recovered

DUTY = "supervisor"
SHOWN = 20
_RETRY_SECONDS = 60  # a recovery run that died before it acted is asked for again after as long

_SPIKES = "spike/names"
_UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class RecoverConfig(dg.Config):
    """Spikes to look at again; each is acted on only if that is still right."""

    spikes: list[str]


@dg.op(required_resource_keys={"platform"})
def recover(context: dg.OpExecutionContext, config: RecoverConfig) -> None:
    """Act on each spike, and log what was seen and done."""
    platform, left = context.resources.platform, set(config.spikes)
    for done in platform.supervisor.recover_all(config.spikes):
        left.discard(done.decision.spike)
        context.log_event(observation(platform, done))
    for name in sorted(left):
        context.log.info("%s: nothing to do any more", name)


def observation(platform: Platform, done: Recovered) -> dg.AssetObservation:
    decision = done.decision
    return dg.AssetObservation(
        spike_key(platform.spikes[decision.spike]),
        description=f"{done.action.noted}: {decision.cause}",
        metadata={
            "verdict": decision.verdict.value,
            "action": done.action.noted,
            "cause": decision.cause,
            "ended drivers": ", ".join(done.action.stop) or "none",
            "started driver": done.started or "none",
            "log tail": _lines(done.log_tail),
            **({"trouble": str(decision.trouble)} if decision.trouble else {}),
            **({"events": _lines(done.events)} if done.events else {}),
        },
    )


def _lines(lines: Iterable[str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md("```\n" + "\n".join(lines) + "\n```")


@dg.job(description="Starts, restarts or ends drivers, each for a cause that is logged.")
def recovery() -> None:
    recover()


@dg.sensor(
    job=recovery,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    required_resource_keys={"platform"},
)
def supervisor_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """At most one recovery run a tick, for all spikes that need one."""
    platform = context.resources.platform
    decisions = platform.supervisor.watch()
    platform.ledger.succeeded(DUTY)
    now = datetime.now(UTC)
    return recovery_request(decisions, now, busy=in_recovery(context.instance, now))


def in_recovery(instance: dg.DagsterInstance, now: datetime) -> frozenset[str]:
    """Spikes of runs that have not ended, unless these are so old that they may have died unseen."""
    after = now - timedelta(seconds=_RETRY_SECONDS)
    found = dg.RunsFilter(job_name=recovery.name, statuses=_UNDER_WAY, created_after=after)
    runs = [record.dagster_run for record in instance.get_run_records(found, limit=SHOWN)]
    return frozenset(name for run in runs for name in run.tags.get(_SPIKES, "").split(",") if name)


def in_short(decisions: Iterable[Decision]) -> str:
    """What there is to say of a fleet, those who are not well first; a tick is no place for a thousand."""
    order = sorted(decisions, key=lambda d: (d.verdict in {Verdict.RUNNING, Verdict.WAITING}, d.spike))
    said = "; ".join(f"{d.spike} {d.verdict}: {d.cause}" for d in order[:SHOWN])
    return f"{said}; and {len(order) - SHOWN} more" if len(order) > SHOWN else said


def recovery_request(
    decisions: Sequence[Decision], now: datetime, *, busy: Collection[str] = ()
) -> dg.RunRequest | dg.SkipReason:
    """The run key is what was seen, and the attempt's minute: seen twice in it, it is acted on once. For
    `busy` spikes a run is under way: another one would only wait behind it."""
    needed = [d for d in decisions if d.action and d.spike not in busy]
    if not needed:
        return dg.SkipReason(in_short(decisions))
    seen = [[d.spike, d.verdict, d.action and d.action.kind, d.action and d.action.stop] for d in needed]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
    attempt = int(now.timestamp() // _RETRY_SECONDS)
    config = RecoverConfig(spikes=[d.spike for d in needed])
    return dg.RunRequest(
        run_key=f"recovery-{digest}-{attempt}",
        run_config=dg.RunConfig(ops={"recover": config}),
        tags={
            _SPIKES: ",".join(config.spikes),
            "spike/cause": "; ".join(f"{d.spike}: {d.cause}" for d in needed)[:200],
        },
    )
