"""Asset checks of every spike and dataset: told when they change, evaluated now from the UI."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.lag import LagReport
from spike_pipelines.domain.offsets import Break
from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import dataset_key, spike_key
from spike_pipelines.orchestration.closed import with_closed_hours
from spike_pipelines.orchestration.told import LONGER, STATE, Memory, by_hand
from spike_pipelines.platform import Platform
from spike_pipelines.ports import DatasetState
from spike_pipelines.services.judgements import (
    DATASET_CHECKS,
    SPIKE_CHECKS,
    Grade,
    Judgement,
    Seen,
    judgements,
    news,
)


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
        yield from results(chosen, look(platform, platform.observer.lag(), lambda now: now - LONGER))

    return check


def results(
    chosen: Mapping[dg.AssetCheckKey, tuple[Spike, str]], seen: Mapping[str, Seen]
) -> Iterator[dg.AssetCheckResult]:
    for key, (spike, name) in chosen.items():
        yield result(key, judgements(seen[spike.name])[name])


def look(
    platform: Platform,
    reports: Mapping[str, LagReport],
    since: Callable[[datetime], datetime],
    broken: Mapping[str, float] | None = None,
) -> Mapping[str, Seen]:
    """The reports with what else checks ask of the ledger: ranges committed since then, by its own time, and
    those of broken spikes since an earlier one."""
    problem: str | None = None
    breaks: Mapping[str, tuple[Break, ...]] = {}
    datasets: Mapping[str, DatasetState] = {}
    try:
        datasets = {state.name: state for state in platform.ledger.datasets()}
        breaks = platform.ledger.recent_breaks(since(platform.ledger.now()))
    except Transient as error:
        problem = str(error)
    again, unseen = _broken(platform, {n: at for n, at in (broken or {}).items() if n in platform.spikes})
    hours = platform.closer.look()
    return {
        name: Seen(
            spike,
            reports[name],
            again.get(name, breaks.get(name)),
            datasets.get(spike.dataset.name),
            problem or unseen.get(name),
            hours.get(name),
        )
        for name, spike in platform.spikes.items()
    }


def _broken(
    platform: Platform, broken: Mapping[str, float]
) -> tuple[Mapping[str, tuple[Break, ...]], Mapping[str, str]]:
    """Whether what was broken is whole: all of it is proven again, or there is a problem."""
    if not broken:
        return {}, {}
    since = datetime.fromtimestamp(min(broken.values()), UTC)
    try:
        return platform.ledger.recent_breaks(since, sorted(broken)), {}
    except Transient as error:
        return {}, dict.fromkeys(broken, str(error))


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
        tick = partial(check_events, instance=context.instance)
        return with_closed_hours(platform, context.cursor, tick, datetime.now(UTC))

    return sensor


def check_events(
    platform: Platform, cursor: str | None, now: datetime, instance: dg.DagsterInstance | None = None
) -> dg.SensorResult:
    """The cursor has what was told last of each check, and when, by the sensor or by hand."""
    by_key = check_keys(platform.spikes.values())
    names = {key: f"{spike.name}/{name}" for key, (spike, name) in by_key.items()}
    memory = Memory.read(cursor)
    if instance:
        memory = memory.corrected(*by_hand(instance, names, memory.seen))
    seen = look(platform, platform.observer.watch(), memory.since, memory.broken)
    judged = {name: judgements(one) for name, one in seen.items()}
    found = {names[key]: (key, judged[spike.name][name]) for key, (spike, name) in by_key.items()}
    tell = news(memory.checks, {k: (j.grade, j.state) for k, (_, j) in found.items()}, now.timestamp())
    known = {key: state for key, state in memory.checks.items() if key in found}
    broken = memory.judged({k: j for k, (_, j) in found.items()}, memory.since(now))
    kept = Memory({**known, **tell}, memory.seen, broken, now.timestamp())
    return dg.SensorResult(asset_events=[evaluation(*found[key]) for key in tell], cursor=kept.written())


def result(key: dg.AssetCheckKey, judgement: Judgement) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=judgement.grade is Grade.PASSED,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=severity(judgement),
        description=judgement.sentence,
        metadata={**judgement.figures, STATE: str(judgement.state)},
    )


def evaluation(key: dg.AssetCheckKey, judgement: Judgement) -> dg.AssetCheckEvaluation:
    """The same result as an event without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=judgement.grade is Grade.PASSED,
        severity=severity(judgement),
        description=judgement.sentence,
        metadata={**judgement.figures, STATE: str(judgement.state)},
    )


def severity(judgement: Judgement) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.WARN if judgement.grade is Grade.WARN else dg.AssetCheckSeverity.ERROR
