"""Drivers as local processes, beyond what every `Cluster` promises: small scripts in place of Spark."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from waiting import until

from spike_pipelines.adapters.driver_records import DriverRecord
from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.adapters.processes import KEPT, LocalProcesses
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Dataset, Location, Objectives, Resources, Spike, Start
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.settings import Settings

SPIKE = Spike(
    name="crt-payout-v1-1.0",
    description="",
    version="1",
    topic="crt.payout",
    start=Start.EARLIEST,
    schema="a INT",
    filter=None,
    transform=None,
    trigger=timedelta(seconds=1),
    max_offsets_per_trigger=1,
    max_staged_batches=1,
    driver=Resources(cores=1, memory="512m"),
    executor=Resources(cores=1, memory="512m"),
    staging=Location("b", "staging"),
    final=Location("b", "final"),
    dataset=Dataset("payout", datetime(2026, 1, 1, tzinfo=UTC)),
    objectives=Objectives(timedelta(1), timedelta(1), timedelta(1)),
)
WAITS = "import time; print('here', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
WITH_CHILD = (
    "import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']); "
    "print(child.pid, flush=True); time.sleep(60)"
)


@pytest.fixture
def cluster(tmp_path: Path):
    token = tmp_path / "secrets" / "tokens" / SPIKE.name
    token.parent.mkdir(parents=True)
    token.write_text("the-token\n")
    cluster = LocalProcesses(
        Settings(state_dir=tmp_path, applications_dir=tmp_path / "applications"), grace_seconds=1
    )
    yield cluster
    for driver in cluster.drivers():
        cluster.stop(driver.driver)


def running(cluster: LocalProcesses, script: str) -> LocalProcesses:
    return replace(cluster, command=(sys.executable, "-c", script))


def observed(cluster: LocalProcesses, driver: str) -> ObservedDriver:
    (found,) = [d for d in cluster.drivers() if d.driver == driver]
    return found


def started(cluster: LocalProcesses, script: str) -> ObservedDriver:
    """A driver that has written its first line."""
    driver = running(cluster, script).start(SPIKE).driver
    until(lambda: cluster.log_tail(driver, 1))
    return observed(cluster, driver)


def exited(cluster: LocalProcesses, driver: str) -> Callable[[], bool]:
    return lambda: observed(cluster, driver).exit_code is not None


def test_started_driver_is_running_under_its_own_identity(cluster):
    driver = started(cluster, WAITS)
    assert (driver.spike, driver.state, driver.exit_code) == (SPIKE.name, DriverState.RUNNING, None)
    assert driver.pid is not None
    assert psutil.pid_exists(driver.pid)


def test_driver_learns_its_identity_token_and_application_file(cluster):
    token = "open(os.environ['SPIKE_TOKEN_FILE']).read().strip()"
    script = f"import os, sys; print(os.environ['SPIKE_DRIVER_ID'], {token}, sys.argv[1])"
    driver = started(cluster, script)
    application = (cluster.settings.applications_dir / f"{SPIKE.name}.yaml").resolve()
    assert cluster.log_tail(driver.driver, 1) == (f"{driver.driver} the-token {application}",)


def test_only_what_drivers_need_is_inherited(cluster):
    environ = {
        "SPIKE_LEDGER_URL": "postgresql+psycopg2://spike_worker:secret@db/ledger",
        "SPIKE_LEDGER_ADMIN_URL": "postgresql+psycopg2://owner:secret@db/ledger",
        "SPIKE_CATALOG_URL": "postgresql+psycopg2://spike_catalog:secret@db/iceberg",
        "SPIKE_TOKEN": "of another spike",
        "SPIKE_S3_ENDPOINT": "e",
        "AWS_REGION": "r",
        "PYTHONPATH": "/elsewhere",
        "PATH": os.environ["PATH"],
    }
    script = "import os; print(sorted(n for n in os.environ if n != 'LC_CTYPE'))"
    driver = started(replace(cluster, environ=environ), script)
    kept = ["AWS_REGION", "PATH", "SPIKE_DRIVER_ID", "SPIKE_S3_ENDPOINT", "SPIKE_TOKEN_FILE"]
    assert cluster.log_tail(driver.driver, 1) == (str(kept),)


@pytest.mark.parametrize(("script", "code"), [("print(1)", 0), ("print(1); raise SystemExit(3)", 3)])
def test_exit_code_is_known_to_everybody(cluster, script, code):
    driver = started(cluster, script)
    until(exited(cluster, driver.driver))
    other_process = LocalProcesses(cluster.settings)
    assert observed(other_process, driver.driver).exit_code == code
    assert observed(other_process, driver.driver).state is DriverState.EXITED


def test_killed_driver_is_seen_as_killed_and_leaves_no_child(cluster):
    driver = started(cluster, WITH_CHILD)
    child = int(cluster.log_tail(driver.driver, 1)[0])
    os.kill(driver.pid, signal.SIGKILL)
    until(exited(cluster, driver.driver))
    assert observed(cluster, driver.driver).exit_code == -signal.SIGKILL
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_stopped_driver_has_ended_when_stop_returns_and_may_be_stopped_again(cluster):
    driver = started(cluster, WAITS)
    cluster.stop(driver.driver)
    assert observed(cluster, driver.driver).state is DriverState.EXITED
    cluster.stop(driver.driver)


@pytest.mark.parametrize("hang", [False, True])
def test_driver_that_does_not_end_by_itself_is_killed(cluster, hang):
    driver = started(cluster, DEAF)
    if hang:
        os.kill(driver.pid, signal.SIGSTOP)
    cluster.stop(driver.driver)
    assert observed(cluster, driver.driver).state is DriverState.EXITED


def test_driver_stopped_while_it_starts_never_runs(cluster):
    driver = running(cluster, WAITS).start(SPIKE).driver
    cluster.stop(driver)
    until(lambda: observed(cluster, driver).state is DriverState.EXITED)


def test_stopping_a_driver_nobody_knows_does_nothing(cluster):
    cluster.stop("0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4")


def test_two_drivers_of_a_spike_may_run_and_the_newest_is_last(cluster):
    first = started(cluster, WAITS)
    second = started(cluster, WAITS)
    assert [d.driver for d in cluster.drivers()] == [first.driver, second.driver]
    assert {d.state for d in cluster.drivers()} == {DriverState.RUNNING}


def test_log_tail_is_bounded_and_empty_without_a_log(cluster):
    driver = started(cluster, "print('\\n'.join(map(str, range(100))))")
    until(exited(cluster, driver.driver))
    assert cluster.log_tail(driver.driver, 2) == ("98", "99")
    assert cluster.log_tail("0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4", 2) == ()


def test_process_id_used_again_is_not_taken_for_the_driver(cluster):
    """The record names this very test process by its id, with the start time of another one."""
    stranger = ProcessIdentity(os.getpid(), psutil.Process().create_time() - 60)
    record = DriverRecord(
        spike=SPIKE.name,
        driver="0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4",
        started_at=datetime.now(UTC),
        process=stranger,
    )
    record.write(cluster._path(record))
    assert observed(cluster, record.driver).state is DriverState.EXITED
    cluster.stop(record.driver)  # and we are still here


def test_record_that_cannot_be_read_is_unknown_with_a_way_out_and_hides_no_other(cluster):
    driver = started(cluster, WAITS)
    path = cluster._path(driver)
    other = DriverRecord(
        spike="other",
        driver="0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4",
        started_at=datetime.now(UTC),
        exit_code=1,
    )
    other.write(cluster._path(other))
    whole = path.read_text()
    path.write_text("{")
    seen = {d.driver: d for d in cluster.drivers()}
    assert (seen[driver.driver].spike, seen[driver.driver].state) == (SPIKE.name, DriverState.UNKNOWN)
    assert str(path) in seen[driver.driver].problem
    assert seen[other.driver].state is DriverState.EXITED
    path.write_text(whole)


def test_spike_without_token_is_refused_and_that_is_known_before(cluster):
    other = replace(SPIKE, name="other")
    assert "no token for other" in cluster.obstacle(other)
    assert cluster.obstacle(SPIKE) is None
    with pytest.raises(InvalidSpec, match="no token for other"):
        cluster.start(other)


def test_ended_drivers_are_forgotten_beyond_a_bound(cluster):
    for minute in range(KEPT + 5):
        record = DriverRecord(
            spike=SPIKE.name,
            driver=f"00000000-0000-4000-8000-{minute:012d}",
            started_at=datetime(2026, 1, 1, 0, minute, tzinfo=UTC),
            exit_code=1,
        )
        record.write(cluster._path(record))
    newest = started(cluster, WAITS)
    known = [d.driver for d in cluster.drivers()]
    assert len(known) == KEPT
    assert known[-1] == newest.driver
