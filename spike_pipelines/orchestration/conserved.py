"""The `conserved` check of every spike: it fails, with the reason, while a batch is held (I8).

While the ledger does not answer it fails as a warning: the last answer is no answer (I12).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from spike_pipelines.domain.batch import Batch
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.orchestration.resources import DagsterPlatform
from spike_pipelines.ports import Ledger
from spike_pipelines.services.judgements import Grade, news

CHECK = "conserved"


@dataclass(frozen=True, slots=True)
class Holds:
    """Held batches by spike; `problem` is why that is not known."""

    held: Mapping[str, Batch]
    problem: str | None = None

    def state(self, spike: str) -> tuple[Grade, str]:
        if self.problem is not None:
            return Grade.WARN, "UNKNOWN"
        batch = self.held.get(spike)
        return (Grade.PASSED, "") if batch is None else (Grade.ERROR, str(batch.number))


def look(ledger: Ledger) -> Holds:
    try:
        return Holds(ledger.held())
    except Transient as error:
        return Holds({}, str(error))


def evaluation(spike: Spike, holds: Holds) -> dg.AssetCheckEvaluation:
    held = holds.held.get(spike.name)
    if holds.problem is not None:
        return dg.AssetCheckEvaluation(
            asset_key=spike_key(spike),
            check_name=CHECK,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"not observed: {holds.problem}",
        )
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
        holds = look(context.resources.platform.ledger)
        for selected in sorted(context.selected_asset_check_keys):
            yield as_result(evaluation(by_key[selected.asset_key], holds))

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
    holds = look(platform.ledger)
    changed = news(told, {name: holds.state(name) for name in platform.spikes}, now.timestamp())
    known = {name: state for name, state in told.items() if name in platform.spikes}
    events = [evaluation(platform.spikes[name], holds) for name in changed]
    return dg.SensorResult(asset_events=events, cursor=json.dumps({**known, **changed}))
