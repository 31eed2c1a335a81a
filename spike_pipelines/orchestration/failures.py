"""One place that hears of every failed run."""

import logging

import dagster as dg

log = logging.getLogger("spike_pipelines")


@dg.run_failure_sensor(name="failure_sensor", default_status=dg.DefaultSensorStatus.RUNNING)
def failure_sensor(context: dg.RunFailureSensorContext) -> None:
    """Say in one line what failed and why; alerting hooks listen to this log."""
    run = context.dagster_run
    log.error("run %s of %s failed: %s", run.run_id, run.job_name, context.failure_event.message)
