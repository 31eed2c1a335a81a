"""What the failure sensor says of a run that failed, by a real run in an instance of its own."""

import logging

import dagster as dg
import pytest

from spike_pipelines.domain.errors import Transient
from spike_pipelines.orchestration.failures import failure_sensor


@dg.op
def copies() -> None:
    raise Transient("copy s3://lake/a was denied: check the role") from KeyError("403")


@dg.op
def gives_up() -> None:
    raise dg.Failure("payouts: 3 batches wait,\nsee its log")


@dg.job
def appender_like() -> None:
    copies()
    gives_up()


def heard(caplog, run, event, instance) -> str:
    context = dg.build_run_status_sensor_context(
        sensor_name="failure_sensor", dagster_instance=instance, dagster_run=run, dagster_event=event
    )
    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="spike_pipelines"):
        failure_sensor(context.for_run_failure())
    (record,) = [record for record in caplog.records if record.name == "spike_pipelines"]
    return record.getMessage()


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_a_failed_run_is_told_in_one_line_with_the_error_of_each_step(caplog, instance):
    done = appender_like.execute_in_process(instance=instance, raise_on_error=False)
    said = heard(caplog, done.dagster_run, done.get_run_failure_event(), instance)
    assert said.startswith(f"run {done.run_id} of appender_like failed: ")
    assert (
        "copies: spike_pipelines.domain.errors.Transient: copy s3://lake/a was denied: check the role" in said
    )
    assert "gives_up: dagster._core.definitions.events.Failure: payouts: 3 batches wait, see its log" in said
    assert "\n" not in said


def test_a_run_that_failed_without_a_step_is_told_with_dagsters_words(caplog, instance):
    """As when its process was killed."""
    run = instance.create_run_for_job(appender_like)
    event = instance.report_run_failed(run, message="the process of this run was not found")
    said = heard(caplog, run, event, instance)
    assert said == f"run {run.run_id} of appender_like failed: the process of this run was not found"
