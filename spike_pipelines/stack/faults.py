"""Faults on a running stack, for `spike smoke` and for tests: a process is killed and seen to be gone."""

from dataclasses import dataclass

import psutil

from spike_pipelines.domain.errors import Transient
from spike_pipelines.platform import Platform
from spike_pipelines.ports import DriverState
from spike_pipelines.services.drain import APPENDER_LEASE

GONE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Killed:
    """What was killed; its end was observed."""

    what: str
    pid: int


def kill_driver(platform: Platform, spike: str) -> Killed:
    """SIGKILL the driver that has the spike's open epoch, its JVM with it."""
    epoch = platform.ledger.epochs()[spike]
    running = {d.driver: d for d in platform.cluster.drivers() if d.state is DriverState.RUNNING}
    driver = running.get(epoch.driver)
    if driver is None or driver.pid is None:
        raise Transient(f"no driver of {spike} runs that could be killed")
    kill_tree(psutil.Process(driver.pid))
    return Killed(f"driver of {spike}", driver.pid)


def kill_appender_run(platform: Platform) -> Killed:
    """SIGKILL the process of the Dagster run that promotes now, as it named itself in its lease. A run that
    left nothing unfinished proves nothing: `Transient`, and another one is to be killed."""
    holder = platform.ledger.lease_holder(APPENDER_LEASE)
    if holder is None or not _unfinished(platform):
        raise Transient("no appender run is at work on a batch")
    pid = int(holder.rpartition(" ")[2])
    kill_tree(psutil.Process(pid))
    left = _unfinished(platform)
    if not left:
        raise Transient(f"appender run {pid} was killed with nothing left to do")
    return Killed(f"appender run with {left} unfinished batches", pid)


def _unfinished(platform: Platform) -> int:
    return sum(waiting.batches for waiting in platform.ledger.backlog())


def kill_tree(process: psutil.Process) -> None:
    """The process and its children, at once; returns when they are gone."""
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.kill()
    _, alive = psutil.wait_procs(family, GONE_SECONDS)
    if alive:
        raise Transient(f"process {alive[0].pid} does not end")
