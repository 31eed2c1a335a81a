"""All definitions of one set of application files."""

import dagster as dg

from spike_pipelines.adapters.applications import Applications
from spike_pipelines.orchestration.appender import appender, appender_sensor
from spike_pipelines.orchestration.assets import asset_specs
from spike_pipelines.orchestration.backfill import backfill_job, dataset_assets
from spike_pipelines.orchestration.broken import broken_checks, broken_specs
from spike_pipelines.orchestration.checks import lag_checks, lag_sensor
from spike_pipelines.orchestration.closed import closed_specs
from spike_pipelines.orchestration.conserved import conserved_checks, conserved_sensor
from spike_pipelines.orchestration.deploy import deploy
from spike_pipelines.orchestration.failures import failure_sensor
from spike_pipelines.orchestration.reload import reload_sensor
from spike_pipelines.orchestration.resources import resources
from spike_pipelines.orchestration.retention import retention, retention_schedule
from spike_pipelines.orchestration.supervisor import recovery, supervisor_sensor
from spike_pipelines.settings import Settings


def build(applications: Applications, settings: Settings, loaded: str | None = None) -> dg.Definitions:
    """A broken application file is an asset with a failing check; it stops no other spike (I11). `loaded` is
    the fingerprint of the applications' folder."""
    spikes, broken = list(applications.spikes.values()), applications.broken
    return dg.Definitions(
        assets=[
            *asset_specs(spikes),
            *map(dataset_assets, spikes),
            *closed_specs(spikes),
            *broken_specs(broken),
        ],
        asset_checks=[lag_checks(spikes), conserved_checks(spikes), *broken_checks(broken)],
        jobs=[appender, recovery, retention, *map(backfill_job, spikes), *_of_kubernetes(settings)],
        schedules=[retention_schedule],
        sensors=[
            appender_sensor,
            supervisor_sensor,
            lag_sensor(),
            conserved_sensor(),
            failure_sensor,
            *([reload_sensor(settings, loaded)] if loaded and settings.dagster_url else []),
        ],
        resources=resources(settings),
        executor=dg.in_process_executor,
    )


def _of_kubernetes(settings: Settings) -> list[dg.JobDefinition]:
    """Elsewhere there is nothing to deploy into."""
    return [deploy] if settings.cluster == "kubernetes" else []
