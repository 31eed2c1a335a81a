"""Kill and freeze on real processes with children, the second driver, and who is aimed at."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from waiting import until

from spike_pipelines.domain.epochs import Epoch, EpochState
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.stack.chaos.aim import Aim, candidates
from spike_pipelines.stack.chaos.harm import AT_THE_DOOR, Freeze, Kill, Twin
from spike_pipelines.stack.chaos.kinds import Kind, schedule
from spike_pipelines.stack.chaos.sight import InFlight, Sight, SpikeSight
from spike_pipelines.stack.snapshot import PartSnapshot, PartState, StackSnapshot
from spike_pipelines.stack.state import StateDir

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARENT = (
    "import subprocess, time; subprocess.Popen(['sleep', '60']); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as started:
        started.stdout.readline()
        process = psutil.Process(started.pid)
        family = [process, *process.children()]
        yield process
        for member in family:
            if member.is_running():
                member.resume()
                member.kill()


def test_kill_takes_effect_once_the_process_and_its_children_are_gone(parent):
    child = parent.children()[0]
    harm = Kill("p", "p", parent)
    before = datetime.now(UTC)
    harm.begin()
    assert before <= until(harm.effect) <= datetime.now(UTC)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    harm.end()


def test_freeze_takes_effect_once_all_have_stopped_and_ends_with_all_going_on(parent):
    family = [parent, *parent.children()]
    harm = Freeze("p", "p", parent)
    harm.begin()
    assert until(harm.effect)
    assert {member.status() for member in family} == {psutil.STATUS_STOPPED}
    harm.end()
    until(lambda: psutil.STATUS_STOPPED not in {member.status() for member in family})


def test_freeze_of_what_was_killed_meanwhile_ends_without_an_error(parent):
    harm = Freeze("p", "p", parent)
    harm.begin()
    parent.kill()
    until(lambda: harm.effect() is None)
    harm.end()


class Cluster:
    def __init__(self, *drivers: ObservedDriver, log=()) -> None:
        self.known, self.log = list(drivers), list(log)

    def start(self, spike) -> ObservedDriver:
        self.known.append(driver("second"))
        return self.known[-1]

    def drivers(self):
        return tuple(self.known)

    def log_tail(self, driver, lines):
        return tuple(self.log)


def driver(name: str, pid: int = 1, state=DriverState.RUNNING) -> ObservedDriver:
    return ObservedDriver("s", name, state, NOW, pid=pid)


def test_second_driver_takes_effect_once_it_was_told_to_wait_beside_the_first():
    cluster = Cluster(driver("first"))
    harm = Twin("k", "w", cluster, SimpleNamespace(name="s"))
    harm.begin()
    assert harm.effect() is None
    cluster.log.append(f"INFO {AT_THE_DOOR}: driver first holds epoch 1")
    assert harm.effect() is not None
    cluster.known[0] = driver("first", state=DriverState.EXITED)
    assert harm.effect() is None


def test_what_drivers_log_while_they_wait_is_what_is_looked_for():
    from spike_pipelines.driver import session  # noqa: PLC0415

    assert AT_THE_DOOR in Path(session.__file__).read_text()


def fault(kind: Kind):
    return next(f for f in schedule(1, 40) if f.kind is kind)


def sight(run=None) -> Sight:
    epoch = Epoch("s", 1, "n", "first", EpochState.OPEN, NOW, NOW)
    return Sight(NOW, {"s": SpikeSight(epoch)}, run)


@pytest.fixture
def aim(tmp_path, parent):
    state = StateDir.at(tmp_path)
    me = parent.pid
    process = {"pid": me, "created": parent.create_time()}
    parts = (
        PartSnapshot(name="kafka", state=PartState.READY, process=process),
        PartSnapshot(name="s3", state=PartState.STARTING, process=process),
    )
    StackSnapshot(manager=process, started_at=NOW, ready=True, parts=parts).write(state.snapshot)
    cluster = Cluster(driver("other", pid=1), driver("first", pid=me))
    links = {name: SimpleNamespace(name=name) for name in ("kafka", "postgres", "s3", "appender")}
    return Aim(cluster, {"s": SimpleNamespace(name="s")}, state, links)


FLIGHTS = {"s": InFlight("s", frozenset({1})), "t": InFlight("t")}


def test_parts_are_hit_when_they_are_ready_and_not_under_a_fault(aim):
    hit = aim(fault(Kind.KILL_BROKER), sight(), FLIGHTS, frozenset())
    assert (type(hit.harm), hit.harm.key, hit.spikes) == (Kill, "kafka", {"s", "t"})
    assert aim(fault(Kind.KILL_BROKER), sight(), FLIGHTS, frozenset({"kafka"})) is None
    assert aim(fault(Kind.KILL_STORE), sight(), FLIGHTS, frozenset()) is None
    assert aim(fault(Kind.KILL_DATABASE), sight(), FLIGHTS, frozenset()) is None


def test_nothing_is_hit_while_nothing_is_in_flight(aim):
    idle = {"s": InFlight("s")}
    assert all(aim(fault(kind), sight("run pid 1"), idle, frozenset()) is None for kind in Kind)


def test_driver_that_is_hit_is_the_one_with_the_open_epoch(aim, parent):
    hit = aim(fault(Kind.FREEZE_DRIVER), sight(), FLIGHTS, frozenset())
    assert (type(hit.harm), hit.harm.process.pid, hit.spikes) == (Freeze, parent.pid, {"s"})
    assert isinstance(aim(fault(Kind.TWO_DRIVERS), sight(), FLIGHTS, frozenset()).harm, Twin)


def test_run_that_is_hit_is_the_holder_of_the_lease(aim, parent):
    hit = aim(fault(Kind.KILL_RUN), sight(f"run abc on host pid {parent.pid}"), FLIGHTS, frozenset())
    assert hit.harm.process.pid == parent.pid
    assert aim(fault(Kind.KILL_RUN), sight(None), FLIGHTS, frozenset()) is None


def test_driver_that_writes_is_preferred_to_one_whose_batch_waits():
    waits, writes = InFlight("a", frozenset({1})), InFlight("b", writing_since=NOW)
    flights = {"a": waits, "b": writes, "c": InFlight("c")}
    assert {candidates(flights, frozenset(), pick) for pick in (0.0, 0.5, 0.99)} == {"b"}
    assert candidates(flights, frozenset({"driver of b"}), 0.99) == "a"
    assert candidates({"c": flights["c"]}, frozenset(), 0.5) is None
