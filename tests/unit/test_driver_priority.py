"""A local driver that has committed gives way to one that starts: itself, its JVM, and nobody else."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from spike_pipelines.driver.priority import NICE

DRIVER = """
import subprocess, sys, threading
from spike_pipelines.driver.priority import give_way

thread = threading.Thread(target=sys.stdin.read)
thread.start()
jvm = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
give_way()
give_way()
print(jvm.pid, thread.native_id, flush=True)
thread.join()
jvm.wait()
"""


@pytest.fixture
def lower():
    """Starts a process that gives way, of a session of its own or not; its pid and those it answers."""
    started = []

    def start(*, alone: bool) -> tuple[int, int, int]:
        made = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=alone,
        )
        started.append(made)
        jvm, thread = map(int, made.stdout.readline().split())
        return made.pid, jvm, thread

    yield start
    for made in started:
        made.communicate(timeout=10)


def nice(pid: int, thread: int) -> int:
    """proc_pid_stat(5): the 19th field; the name before it may have spaces."""
    stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text(encoding="ascii")
    return int(stat.rpartition(")")[2].split()[16])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_all_threads_of_a_driver_and_of_its_jvm_are_lowered_however_often(lower):
    pid, jvm, thread = lower(alone=True)
    assert [nice(pid, pid), nice(pid, thread), nice(jvm, jvm)] == [NICE] * 3
    group = Path(f"/proc/{pid}/autogroup")
    assert not group.exists() or group.read_text(encoding="ascii").endswith(f"nice {NICE}\n")


def test_neighbours_of_a_process_without_a_session_of_its_own_are_left_alone(lower):
    before = psutil.Process().nice()
    pid, jvm, _ = lower(alone=False)
    assert psutil.Process(pid).nice() == psutil.Process(jvm).nice() == psutil.Process().nice() == before
