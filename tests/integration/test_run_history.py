"""Dagster's old runs go; what its UI needs of them stays. On a real instance with SQLite."""

import tempfile
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from uuid import uuid4

import dagster as dg
import pytest

from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.retention import Kind, Removal
from spike_pipelines.orchestration import run_history
from spike_pipelines.orchestration.retention import retention
from spike_pipelines.orchestration.run_history import Pruned, prune_runs
from spike_pipelines.settings import Settings

HOURS = dg.AssetKey(["dataset", "payouts"])
SPIKE = dg.AssetKey(["spike", "payouts"])
LATER = datetime.now(UTC) + timedelta(days=31)
KEEP = timedelta(days=30)
QUIET = {"telemetry": {"enabled": False}}


@pytest.fixture
def instance():
    with (
        tempfile.TemporaryDirectory() as folder,
        dg.DagsterInstance.local_temp(folder, overrides=QUIET) as instance,
    ):
        yield instance


def ran(instance, *events, fails=False):
    """A run that logged these events; answers its id."""

    @dg.op
    def work(context):
        for event in events:
            context.log_event(event)
        if fails:
            raise RuntimeError("no")

    @dg.job
    def appender():
        work()

    return appender.execute_in_process(instance=instance, raise_on_error=False).run_id


def hour(name):
    return dg.AssetMaterialization(HOURS, partition=f"2026-11-22-{name}:00")


def prune(instance, **how):
    return prune_runs(instance, KEEP, now=how.pop("now", LATER), **how)


def runs(instance):
    return {run.run_id for run in instance.get_runs()}


def test_old_runs_go_with_their_events_and_young_ones_stay(instance):
    old = ran(instance), ran(instance, fails=True)
    assert prune(instance, now=datetime.now(UTC)) == Pruned()
    assert runs(instance) == set(old)
    assert prune(instance) == Pruned(deleted=2)
    assert runs(instance) == set()
    assert not instance.get_records_for_run(old[0]).records


def test_a_run_with_the_newest_materialization_of_a_partition_stays(instance):
    older = ran(instance, hour("20"), hour("21"))
    newest = ran(instance, hour("21"))
    assert prune(instance) == Pruned(kept=2), "hour 20 is only in the older one"
    newer = ran(instance, hour("20"))
    assert prune(instance) == Pruned(deleted=1, kept=2)
    assert runs(instance) == {newest, newer}
    assert older not in runs(instance)
    assert instance.get_materialized_partitions(HOURS) == {"2026-11-22-20:00", "2026-11-22-21:00"}


def test_the_newest_observation_of_an_asset_stays(instance):
    ran(instance, dg.AssetObservation(SPIKE))
    newest = ran(instance, dg.AssetObservation(SPIKE))
    assert prune(instance) == Pruned(deleted=1, kept=1)
    assert runs(instance) == {newest}


def test_a_run_that_has_not_ended_is_never_deleted(instance):
    for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
        instance.add_run(dg.DagsterRun(job_name="appender", run_id=str(uuid4()), status=status))
    assert prune(instance) == Pruned()
    assert len(runs(instance)) == 2


def test_a_dry_run_counts_and_deletes_nothing(instance):
    ran(instance)
    assert prune(instance, dry_run=True) == Pruned(deleted=1)
    assert len(runs(instance)) == 1


def test_pages_are_bounded_and_the_next_pass_goes_on_behind_what_stays(instance, monkeypatch):
    monkeypatch.setattr(run_history, "PAGE", 2)
    monkeypatch.setattr(run_history, "MOST_PAGES", 1)
    kept = [ran(instance, hour(f"{h:02}")) for h in range(3)]
    free = [ran(instance) for _ in range(3)]
    assert prune(instance) == Pruned(kept=2)
    assert prune(instance) == Pruned(kept=1, deleted=1)
    assert prune(instance) == Pruned(deleted=2)
    assert runs(instance) == set(kept)
    assert not set(free) & runs(instance)


def test_a_cursor_whose_run_was_deleted_by_hand_begins_again(instance, monkeypatch):
    monkeypatch.setattr(run_history, "PAGE", 1)
    monkeypatch.setattr(run_history, "MOST_PAGES", 1)
    kept = ran(instance, hour("20"))
    assert prune(instance) == Pruned(kept=1)
    instance.delete_run(kept)
    free = ran(instance)
    assert prune(instance) == Pruned(deleted=1)
    assert free not in runs(instance)


class Platform:
    """One removal, and runs kept for 30 days."""

    settings = Settings()

    spikes: ClassVar = {}

    @property
    def retainer(self):
        return self

    @property
    def swapper(self):
        return self

    def finish_left(self, spikes):
        return iter(spikes)

    def run(self, *, dry_run):
        yield Removal("payouts", Kind.STAGING, 0 if dry_run else 2, 5)


def test_the_hourly_job_reports_what_went_as_metadata_of_its_run(instance):
    done = retention.execute_in_process(instance=instance, resources={"platform": Platform()})
    assert done.success
    told = {
        name: value.value
        for event in done.all_events
        if event.event_type_value == "STEP_OUTPUT"
        for name, value in event.step_output_data.metadata.items()
    }
    assert (told["objects"], told["bytes"], told["deleted runs"]) == (2, 5, 0)
    assert "| payouts | orphaned staging | 2 | 5 | 0 |" in told["by kind"]


def test_data_that_cannot_be_retained_does_not_keep_old_runs(instance):
    class Down(Platform):
        def run(self, *, dry_run):
            raise Transient("the store is down")
            yield

    done = retention.execute_in_process(
        instance=instance, resources={"platform": Down()}, raise_on_error=False
    )
    assert not done.success
    assert {e.step_key for e in done.all_events if e.is_step_success} == {"finish_swaps", "prune"}
