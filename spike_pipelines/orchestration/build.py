"""All definitions of one set of application files."""

from collections.abc import Iterable

import dagster as dg

from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.appender import appender, appender_sensor
from spike_pipelines.orchestration.assets import asset_specs
from spike_pipelines.orchestration.checks import lag_checks, lag_sensor
from spike_pipelines.orchestration.failures import failure_sensor
from spike_pipelines.orchestration.resources import resources
from spike_pipelines.orchestration.retention import retention, retention_schedule
from spike_pipelines.orchestration.supervisor import recovery, supervisor_sensor
from spike_pipelines.settings import Settings


def build(spikes: Iterable[Spike], settings: Settings) -> dg.Definitions:
    spikes = list(spikes)
    return dg.Definitions(
        assets=asset_specs(spikes),
        asset_checks=[lag_checks(spikes)],
        jobs=[appender, recovery, retention],
        schedules=[retention_schedule],
        sensors=[appender_sensor, supervisor_sensor, lag_sensor(), failure_sensor],
        resources=resources(settings),
        executor=dg.in_process_executor,
    )
