"""One place that hears of every failed run."""

import logging

import dagster as dg

log = logging.getLogger("spike_pipelines")


@dg.run_failure_sensor(name="failure_sensor", default_status=dg.DefaultSensorStatus.RUNNING)
def failure_sensor(context: dg.RunFailureSensorContext) -> None:
    """Say in one line what failed and why; alerting hooks listen to this log."""
    run = context.dagster_run
    log.error("run %s of %s failed: %s", run.run_id, run.job_name, why(context))


def why(context: dg.RunFailureSensorContext) -> str:
    """Each failed step with the error that its code raised; without a step (the process was killed, say),
    what Dagster says of the run. One line."""
    steps = [f"{event.step_key}: {_raised(event)}" for event in context.get_step_failure_events()]
    return " ".join(("; ".join(steps) or context.failure_event.message or "no reason is known").split())


def _raised(event: dg.DagsterEvent) -> str:
    """Dagster's own error is around it; what is below it was translated for people."""
    error = event.step_failure_data.error
    if error is None:
        return event.message or "no error was recorded"
    return (error.cause or error).message
