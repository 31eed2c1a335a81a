"""Asset checks of every spike and dataset: told when they change, evaluated now from the UI."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.lag import LagReport
from spike_pipelines.domain.offsets import Break
from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import dataset_key, spike_key
from spike_pipelines.orchestration.closed import with_closed_hours
from spike_pipelines.orchestration.judgements import (
    DATASET_CHECKS,
    SPIKE_CHECKS,
    Grade,
    Judgement,
    Seen,
    Told,
    judgements,
    news,
)
from spike_pipelines.platform import Platform
from spike_pipelines.ports import DatasetState

LATELY = timedelta(minutes=10)  # ranges that a tick proves contiguous
LONGER = timedelta(days=1)  # the same for "Execute" in the UI


def check_keys(spikes: Iterable[Spike]) -> Mapping[dg.AssetCheckKey, tuple[Spike, str]]:
    """Every check, with its spike and the name it has in the table of judgements."""
    return {
        dg.AssetCheckKey(key, name): (spike, name)
        for spike in spikes
        for key, names in (
            (spike_key(spike), SPIKE_CHECKS),
            (dataset_key(spike.dataset.name), DATASET_CHECKS),
        )
        for name in names
    }


def lag_checks(spikes: Iterable[Spike]) -> dg.AssetChecksDefinition:
    """One definition for all checks: "Execute" in the UI looks once, however many are chosen."""
    by_key = check_keys(spikes)
    words = {name: text for name, (_, text) in (*SPIKE_CHECKS.items(), *DATASET_CHECKS.items())}
    specs = [dg.AssetCheckSpec(k.name, asset=k.asset_key, description=words[k.name]) for k in by_key]

    @dg.multi_asset_check(
        name="lag_checks", specs=specs, can_subset=True, required_resource_keys={"platform"}
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        platform = context.resources.platform
        chosen = {key: by_key[key] for key in sorted(context.selected_asset_check_keys)}
        yield from results(chosen, look(platform, platform.observer.lag(), LONGER))

    return check


def results(
    chosen: Mapping[dg.AssetCheckKey, tuple[Spike, str]], seen: Mapping[str, Seen]
) -> Iterator[dg.AssetCheckResult]:
    for key, (spike, name) in chosen.items():
        yield result(key, judgements(seen[spike.name])[name])


def look(platform: Platform, reports: Mapping[str, LagReport], since: timedelta) -> Mapping[str, Seen]:
    """The reports with what else checks ask of the ledger."""
    problem: str | None = None
    breaks: Mapping[str, tuple[Break, ...]] = {}
    datasets: Mapping[str, DatasetState] = {}
    try:
        datasets = {state.name: state for state in platform.ledger.datasets()}
        breaks = platform.ledger.recent_breaks(platform.ledger.now() - since)
    except Transient as error:
        problem = str(error)
    hours = platform.closer.look()
    return {
        name: Seen(
            spike, reports[name], breaks.get(name), datasets.get(spike.dataset.name), problem, hours.get(name)
        )
        for name, spike in platform.spikes.items()
    }


def lag_sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="lag_sensor",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"platform"},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Looks at all spikes, keeps it as history, tells checks that changed and hours that closed."""
        platform = context.resources.platform
        return with_closed_hours(platform, context.cursor, check_events, datetime.now(UTC))

    return sensor


def check_events(platform: Platform, cursor: str | None, now: datetime) -> dg.SensorResult:
    """The cursor has what was told last of each check, and when."""
    told: Told = json.loads(cursor) if cursor else {}
    by_key = check_keys(platform.spikes.values())
    seen = look(platform, platform.observer.watch(), LATELY)
    judged = {name: judgements(one) for name, one in seen.items()}
    found = {f"{spike.name}/{name}": (key, judged[spike.name][name]) for key, (spike, name) in by_key.items()}
    tell = news(told, {k: (j.grade, j.state) for k, (_, j) in found.items()}, now.timestamp())
    known = {key: state for key, state in told.items() if key in found}
    return dg.SensorResult(
        asset_events=[evaluation(*found[key]) for key in tell], cursor=json.dumps({**known, **tell})
    )


def result(key: dg.AssetCheckKey, judgement: Judgement) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=judgement.grade is Grade.PASSED,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=severity(judgement),
        description=judgement.sentence,
        metadata=dict(judgement.figures),
    )


def evaluation(key: dg.AssetCheckKey, judgement: Judgement) -> dg.AssetCheckEvaluation:
    """The same result as an event without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=judgement.grade is Grade.PASSED,
        severity=severity(judgement),
        description=judgement.sentence,
        metadata=dict(judgement.figures),
    )


def severity(judgement: Judgement) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.WARN if judgement.grade is Grade.WARN else dg.AssetCheckSeverity.ERROR
