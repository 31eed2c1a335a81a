"""The manager with small real processes in place of the parts."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.stack import keeper as keeping
from spike_pipelines.stack.claim import claimed
from spike_pipelines.stack.errors import PartFailed, PortTaken, StackError
from spike_pipelines.stack.keeper import BACK_OFF, Keeper
from spike_pipelines.stack.manager import Manager, end_order
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.parts.s3 import PORTS, S3, S3Ports
from spike_pipelines.stack.ports import find_free
from spike_pipelines.stack.snapshot import PartSnapshot, PartState, StackSnapshot
from spike_pipelines.stack.state import StateDir

READY, STOPPED, BACKING_OFF, ENDED = (
    PartState.READY,
    PartState.STOPPED,
    PartState.BACKING_OFF,
    PartState.ENDED,
)
WAIT = "import time; time.sleep(60)"
DEADLINE_SECONDS = 60


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.at(tmp_path / "state")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Back-off without the waiting."""
    monkeypatch.setattr(keeping, "BACK_OFF", BackOff(timedelta(seconds=0.05), BACK_OFF.longest))


def part(name: str, script: str = WAIT, **changes) -> Part:
    return Part(name=name, command=(sys.executable, "-c", script), cwd=Path("/"), **changes)


class Running:
    """A manager in a thread, and what it last said."""

    def __init__(self, state: StateDir, *parts: Part, **hooks) -> None:
        self.stop = threading.Event()
        self.last: StackSnapshot | None = None
        self.error: Exception | None = None
        self._state = state
        self._manager = Manager(parts, state, on_tick=self._hear, **hooks)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()

    def until(self, condition: Callable[[StackSnapshot], object]) -> StackSnapshot:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (self.last and condition(self.last)):
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"it did not come true: {self.last}"
            time.sleep(0.02)
        return self.last

    def until_part(self, name: str, condition: Callable[[PartSnapshot], object]) -> PartSnapshot:
        return find(self.until(lambda snapshot: condition(find(snapshot, name))), name)

    def _hear(self, snapshot: StackSnapshot) -> None:
        self.last = snapshot

    def _run(self) -> None:
        try:
            with claimed(self._state):
                self._manager.run(self.stop)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error


def find(snapshot: StackSnapshot, name: str) -> PartSnapshot:
    return next(part for part in snapshot.parts if part.name == name)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_part_is_started_only_when_what_it_needs_is_ready(state, tmp_path):
    order: list[str] = []
    gate = tmp_path / "gate"
    first = part(
        "first", ready=lambda: None if gate.exists() else "no gate", prepare=lambda: order.append("first")
    )
    second = part("second", needs=("first",), prepare=lambda: order.append("second"))
    with Running(state, second, first) as stack:
        stack.until_part("first", lambda p: p.state is PartState.STARTING)
        assert find(stack.last, "second").state is PartState.WAITING
        gate.touch()
        stack.until(lambda snapshot: snapshot.ready)
        assert order == ["first", "second"]


def test_what_was_ready_and_died_is_started_again_and_furnished_again(state):
    furnished: list[int] = []
    with Running(state, part("p", furnish=lambda: furnished.append(1))) as stack:
        first = stack.until_part("p", lambda p: p.state is READY).process.pid
        os.kill(first, signal.SIGKILL)
        again = stack.until_part("p", lambda p: p.state is READY and p.process.pid != first)
        assert again.restarts == 1
        assert furnished == [1, 1]


def test_part_that_never_was_ready_ends_the_stack_with_the_end_of_its_log(state):
    with Running(
        state, part("good"), part("bad", "import sys; sys.exit('no disk')", ready=lambda: "not yet")
    ) as stack:
        stack._thread.join(DEADLINE_SECONDS)
    assert isinstance(stack.error, PartFailed)
    assert "bad ended with exit code 1" in str(stack.error)
    assert "no disk" in str(stack.error)


def test_part_that_is_not_ready_in_time_ends_the_stack_and_says_why(state):
    with Running(state, part("slow", ready=lambda: "still thinking", ready_seconds=0.1)) as stack:
        stack._thread.join(DEADLINE_SECONDS)
    assert "slow is not ready after 0 s (still thinking)" in str(stack.error)


def test_part_that_did_its_work_is_not_started_again(state):
    with Running(state, part("once", "print('done')", restarts=False)) as stack:
        assert stack.until_part("once", lambda p: p.state is ENDED).restarts == 0
        assert stack.until(lambda snapshot: snapshot.ready)


def test_stop_file_stops_a_part_and_only_that_until_it_is_taken_away(state):
    with Running(state, part("p"), part("other")) as stack:
        pid = stack.until_part("p", lambda p: p.state is READY).process.pid
        state.stop_request("p").touch()
        stack.until_part("p", lambda p: p.state is STOPPED)
        assert gone(pid)
        assert find(stack.last, "other").state is READY
        state.stop_request("p").unlink()
        stack.until_part("p", lambda p: p.state is READY)


def test_end_leaves_no_process_behind_not_even_grandchildren(state):
    script = (
        "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    with Running(state, part("parent", script)) as stack:
        pid = stack.until_part("parent", lambda p: p.state is READY).process.pid
        stack.until(lambda _: state.log("parent").read_text().strip())
        child = int(state.log("parent").read_text())
    assert gone(pid)
    assert gone(child)
    assert not state.snapshot.exists()


def test_part_that_ignores_the_request_to_end_is_killed(state):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {WAIT}"
    with Running(state, part("deaf", deaf, stop_seconds=0.2)) as stack:
        pid = stack.until_part("deaf", lambda p: p.state is READY).process.pid
        stack.until(lambda _: state.log("deaf").read_text())
    assert gone(pid)


def test_hooks_are_called_once_a_part_is_ready_and_before_it_ends(state):
    calls: list[object] = []
    parts = (part("store"), part("user", needs=("store",)))
    with Running(state, *parts, on_ready=calls.append, before_end=calls.append) as stack:
        stack.until(lambda snapshot: snapshot.ready)
    assert calls == ["store", "user", frozenset({"user"}), frozenset({"store"})]


def test_failing_hook_does_not_keep_parts_running(state):
    def fail(_: frozenset[str]) -> None:
        raise ValueError("hook")

    with Running(state, part("p"), before_end=fail) as stack:
        pid = stack.until_part("p", lambda p: p.state is READY).process.pid
    assert gone(pid)
    assert isinstance(stack.error, ExceptionGroup)


def test_what_was_stopped_before_is_started_with_the_stack(state):
    state.stop_request("p").touch()
    with Running(state, part("p")) as stack:
        stack.until_part("p", lambda p: p.state is READY)


def test_order_of_the_end_takes_in_waves_what_nothing_else_needs():
    parts = [part("db"), part("api", needs=("db",)), part("ui", needs=("api",)), part("job", needs=("api",))]
    assert end_order(parts) == (frozenset({"ui", "job"}), frozenset({"api"}), frozenset({"db"}))


def test_parts_that_need_each_other_are_refused():
    with pytest.raises(StackError, match="circle"):
        end_order([part("a", needs=("b",)), part("b", needs=("a",))])


def test_delay_doubles_up_to_a_bound():
    assert [BACK_OFF.after(n).total_seconds() for n in (1, 2, 3, 5, 6, 1000)] == [1, 2, 4, 16, 30, 30]


def test_taken_port_is_an_error_that_names_the_holder_and_the_way_out(state, listener):
    keeper = Keeper(part("p", ports=(listener,)), state)
    with pytest.raises(
        PortTaken, match=rf"p needs port {listener}, and process {os.getpid()} .* delete .*ports.json"
    ):
        keeper.step(0.0, needs_ready=True)


def dead(name: str, port: int, folder: Path) -> Part:
    """A part whose server answers no more."""
    if name == "postgres":
        return Postgres(folder, port, "secret").part()
    return S3(folder, S3Ports.of(dict.fromkeys(PORTS, port)), "a", "b", ("lake",)).part()


@pytest.mark.parametrize("name", ["postgres", "s3"])
def test_a_server_that_dies_while_it_is_furnished_again_is_a_failure_like_any_other(state, tmp_path, name):
    furnish = dead(name, find_free(), tmp_path).furnish
    with pytest.raises(PartFailed, match=rf"{name}: .* cannot be created"):
        furnish()
    times = iter([lambda: None, furnish])

    def furnish_next() -> None:
        next(times, lambda: None)()

    with Running(state, part(name, furnish=furnish_next)) as stack:
        first = stack.until_part(name, lambda p: p.state is READY).process.pid
        os.kill(first, signal.SIGKILL)
        again = stack.until_part(name, lambda p: p.state is READY and p.process.pid != first)
        assert again.restarts == 2


@pytest.fixture
def listener():
    import socket  # noqa: PLC0415 - only here

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
