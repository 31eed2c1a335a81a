"""A killed appender run is a fault only if it left something to be recovered."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from spike_pipelines.domain.errors import Transient
from spike_pipelines.stack.faults import kill_appender_run


@pytest.fixture
def run():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def platform(run, *waiting, holder=True):
    """`waiting` are the numbers of unfinished batches, look by look."""
    looks = iter(waiting)
    return SimpleNamespace(
        ledger=SimpleNamespace(
            lease_holder=lambda _: f"run r on host pid {run.pid}" if holder else None,
            backlog=lambda: [SimpleNamespace(batches=n) for n in [next(looks)] if n],
        )
    )


def test_a_run_at_work_is_killed_and_what_it_left_is_said(run):
    killed = kill_appender_run(platform(run, 3, 2))
    assert (killed.what, killed.pid) == ("appender run with 2 unfinished batches", run.pid)
    assert not psutil.pid_exists(run.pid)


@pytest.mark.parametrize(("waiting", "holder"), [((0,), True), ((3,), False)])
def test_a_run_without_work_is_left_alone(run, waiting, holder):
    with pytest.raises(Transient, match="no appender run is at work on a batch"):
        kill_appender_run(platform(run, *waiting, holder=holder))
    assert psutil.Process(run.pid).is_running()
    assert run.poll() is None


def test_a_run_that_finished_in_that_moment_does_not_count(run):
    with pytest.raises(Transient, match="nothing left"):
        kill_appender_run(platform(run, 1, 0))
