"""The code location follows its application files: loaded again once the folder is another one.

A deployment changes a ConfigMap, and the kubelet brings it to the mount a minute later: who reloads at once
loads what was there before. So the location itself looks, whoever changed the files.
"""

import dagster as dg

from spike_pipelines.adapters.applications import fingerprint
from spike_pipelines.adapters.dagster_reload import reload_location
from spike_pipelines.settings import Settings

LOOK_SECONDS = 30


def reload_sensor(settings: Settings, loaded: str) -> dg.SensorDefinition:
    """`loaded` is the fingerprint of the folder that these definitions were made of."""
    url, folder = settings.dagster_url, settings.applications_dir

    @dg.sensor(
        name="reload_sensor",
        target=[],
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the code location loaded again when its application files have changed.",
    )
    def sensor() -> dg.SkipReason:
        if url is None or fingerprint(folder) == loaded:
            return dg.SkipReason("the application files are those that were loaded")
        problem = reload_location(url)
        return dg.SkipReason(problem or "the application files have changed: the location is loaded again")

    return sensor
