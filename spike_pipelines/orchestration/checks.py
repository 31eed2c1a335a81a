"""The `lag` check of every spike: told when it changes, evaluated now from the UI."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.orchestration.resources import DagsterPlatform

CHECK = "lag"
_REPEAT_SECONDS = 600  # an unchanged verdict is told again after as long, so that plots have points
_GOOD = frozenset({LagVerdict.OK, LagVerdict.IDLE})
_WARNING = frozenset({LagVerdict.CATCHING_UP, LagVerdict.BACKPRESSURED, LagVerdict.UNKNOWN})


def evaluation(spike: Spike, report: LagReport) -> dg.AssetCheckResult:
    """The check's result; what is not good fails, as a warning where nothing is breached yet."""
    return dg.AssetCheckResult(
        passed=report.verdict in _GOOD,
        asset_key=spike_key(spike),
        check_name=CHECK,
        severity=dg.AssetCheckSeverity.WARN if report.verdict in _WARNING else dg.AssetCheckSeverity.ERROR,
        description=f"{report.verdict}: {report.sentence}",
        metadata={
            "verdict": report.verdict.value,
            "lag_records": report.lag,
            **({} if report.lag_seconds is None else {"lag_seconds": round(report.lag_seconds, 1)}),
            "lost_records": sum(p.lost for p in report.partitions),
            "objective_seconds": spike.objectives.lag.total_seconds(),
        },
    )


def lag_checks(spikes: Iterable[Spike]) -> dg.AssetChecksDefinition:
    """One definition for all spikes: "Execute" in the UI observes once, however many are chosen."""
    by_key = {spike_key(spike): spike for spike in spikes}
    specs = [
        dg.AssetCheckSpec(CHECK, asset=key, description="Committed lag within its objective")
        for key in by_key
    ]

    @dg.multi_asset_check(
        name="lag_checks", specs=specs, can_subset=True, required_resource_keys={"platform"}
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        reports = context.resources.platform.observer.lag()
        for selected in sorted(context.selected_asset_check_keys):
            spike = by_key[selected.asset_key]
            yield evaluation(spike, reports[spike.name])

    return check


def lag_sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="lag_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"platform"},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Observes all spikes, and writes down those whose verdict changed."""
        return lag_events(context.resources.platform, context.cursor, datetime.now(UTC))

    return sensor


def lag_events(platform: DagsterPlatform, cursor: str | None, now: datetime) -> dg.SensorResult:
    """The cursor has each spike's last told verdict and when that was."""
    told: Mapping[str, tuple[str, float]] = json.loads(cursor) if cursor else {}
    reports = platform.observer.lag()
    changed = news(told, {name: report.verdict for name, report in reports.items()}, now.timestamp())
    events = [evaluation_event(platform.spikes[name], reports[name]) for name in changed]
    return dg.SensorResult(asset_events=events, cursor=json.dumps({**told, **changed}))


def news(
    told: Mapping[str, tuple[str, float]], verdicts: Mapping[str, str], now: float
) -> dict[str, tuple[str, float]]:
    """The verdicts to tell: changed ones, and those last told long ago."""
    return {
        name: (verdict, now)
        for name, verdict in verdicts.items()
        if name not in told or told[name][0] != verdict or now - told[name][1] >= _REPEAT_SECONDS
    }


def evaluation_event(spike: Spike, report: LagReport) -> dg.AssetCheckEvaluation:
    """The same result as an event without a run."""
    result = evaluation(spike, report)
    return dg.AssetCheckEvaluation(
        asset_key=spike_key(spike),
        check_name=CHECK,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )
