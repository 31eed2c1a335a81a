"""The supervisor: a sensor that compares what should run with what does, and the run that mends it."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg

from spike_pipelines.domain.supervision import Decision
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.platform import Platform
from spike_pipelines.services.supervise import Recovered

DUTY = "supervisor"
_RETRY_SECONDS = 60  # a recovery run that died before it acted is asked for again after as long


class RecoverConfig(dg.Config):
    """Spikes to look at again; each is acted on only if that is still right."""

    spikes: list[str]


@dg.op(required_resource_keys={"platform"})
def recover(context: dg.OpExecutionContext, config: RecoverConfig) -> None:
    """Act on each spike, and log what was seen and done."""
    for name in config.spikes:
        done = context.resources.platform.supervisor.recover(name)
        if done is None:
            context.log.info("%s: nothing to do any more", name)
        else:
            context.log_event(observation(context.resources.platform, done))


def observation(platform: Platform, done: Recovered) -> dg.AssetObservation:
    decision = done.decision
    return dg.AssetObservation(
        spike_key(platform.spikes[decision.spike]),
        description=f"{done.action.kind}: {decision.cause}",
        metadata={
            "verdict": decision.verdict.value,
            "action": done.action.kind.value,
            "cause": decision.cause,
            "ended drivers": ", ".join(done.action.stop) or "none",
            "started driver": done.started or "none",
            "log tail": dg.MetadataValue.md("```\n" + "\n".join(done.log_tail) + "\n```"),
        },
    )


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
    decisions = platform.supervisor.look()
    platform.ledger.succeeded(DUTY)
    return recovery_request(decisions, datetime.now(UTC))


def recovery_request(decisions: Iterable[Decision], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run key is what was seen, and the attempt's minute: seen twice in it, it is acted on once."""
    needed = [d for d in decisions if d.action]
    if not needed:
        return dg.SkipReason("; ".join(f"{d.spike} {d.verdict}: {d.cause}" for d in decisions))
    seen = [[d.spike, d.verdict, d.action and d.action.kind, d.action and d.action.stop] for d in needed]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
    attempt = int(now.timestamp() // _RETRY_SECONDS)
    config = RecoverConfig(spikes=[d.spike for d in needed])
    return dg.RunRequest(
        run_key=f"recovery-{digest}-{attempt}",
        run_config=dg.RunConfig(ops={"recover": config}),
        tags={"spike/cause": "; ".join(f"{d.spike}: {d.cause}" for d in needed)[:200]},
    )
