"""The `conserved` check of every spike: it fails, with the reason, while a batch is held (I8)."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import dagster as dg

from spike_pipelines.domain.batch import Batch
from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.orchestration.judgements import Grade, news
from spike_pipelines.orchestration.resources import DagsterPlatform

CHECK = "conserved"


def evaluation(spike: Spike, held: Batch | None) -> dg.AssetCheckEvaluation:
    if held is None:
        return dg.AssetCheckEvaluation(
            asset_key=spike_key(spike), check_name=CHECK, passed=True, description="no batch is held"
        )
    return dg.AssetCheckEvaluation(
        asset_key=spike_key(spike),
        check_name=CHECK,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"batch {held.number} is held: {held.held_reason}",
        metadata={"batch": held.number, "next": f"spike batch show {spike.name} {held.number}"},
    )


def conserved_checks(spikes: Iterable[Spike]) -> dg.AssetChecksDefinition:
    """ "Execute" in the UI asks the ledger once, however many are chosen."""
    by_key = {spike_key(spike): spike for spike in spikes}
    specs = [
        dg.AssetCheckSpec(
            CHECK, asset=key, description="No batch is held: all that was read is accounted for"
        )
        for key in by_key
    ]

    @dg.multi_asset_check(
        name="conserved_checks", specs=specs, can_subset=True, required_resource_keys={"platform"}
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        held = context.resources.platform.ledger.held()
        for selected in sorted(context.selected_asset_check_keys):
            spike = by_key[selected.asset_key]
            yield as_result(evaluation(spike, held.get(spike.name)))

    return check


def as_result(found: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=found.passed,
        asset_key=found.asset_key,
        check_name=found.check_name,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )


def conserved_sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="conserved_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"platform"},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Writes down which spikes have a held batch, when that changes."""
        return held_events(context.resources.platform, context.cursor, datetime.now(UTC))

    return sensor


def held_events(platform: DagsterPlatform, cursor: str | None, now: datetime) -> dg.SensorResult:
    """The cursor has what was last told of each spike, and when."""
    told = json.loads(cursor) if cursor else {}
    held = platform.ledger.held()
    seen = {
        name: (Grade.ERROR, str(held[name].number)) if name in held else (Grade.PASSED, "")
        for name in platform.spikes
    }
    changed = news(told, seen, now.timestamp())
    events = [evaluation(platform.spikes[name], held.get(name)) for name in changed]
    return dg.SensorResult(asset_events=events, cursor=json.dumps({**told, **changed}))
