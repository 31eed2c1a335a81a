"""Who has a state folder, and how a stack is ended whatever it is about."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner
from waiting import until

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.cli import ending
from spike_pipelines.cli.main import app
from spike_pipelines.stack import running
from spike_pipelines.stack.claim import claimed, end_orphans, holder
from spike_pipelines.stack.errors import AlreadyRuns, StackError, UnreadableSnapshot
from spike_pipelines.stack.snapshot import PartSnapshot, PartState, StackSnapshot
from spike_pipelines.stack.state import StateDir

ME = ProcessIdentity.of(os.getpid())
BEFORE_ME = ProcessIdentity(ME.pid, ME.created - 1)
WAIT = "import time; time.sleep(60)"
DEADLINE_SECONDS = 60
# `spike up` that never gets beyond assembling
ASSEMBLING = (
    "import pathlib, signal, time, sys\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where the tests run under `nohup`
    "from spike_pipelines.cli import up\n"
    "from spike_pipelines.cli.main import app\n"
    "def assemble(*_):\n"
    "    print('assembling', flush=True)\n"
    "    time.sleep(60)\n"
    "up.assemble = assemble\n"
    "app(['up'])"
)
# the lock was inherited, and who has it is said only after a while
LATE = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from spike_pipelines.stack.claim import claimed\n"
    "from spike_pipelines.stack.state import StateDir\n"
    "print('imported', flush=True)\n"
    "sys.stdin.readline()\n"
    "with claimed(StateDir.at(Path(sys.argv[1]))):\n"
    "    time.sleep(60)"
)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.at(tmp_path / "state")


@pytest.fixture
def signals() -> Iterator[None]:
    """What `spike up` does with them stays in the test."""
    before = {number: signal.getsignal(number) for number in ending.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def snapshot(manager: ProcessIdentity = BEFORE_ME, *parts: PartSnapshot) -> StackSnapshot:
    return StackSnapshot(manager=manager, started_at="2026-01-01T00:00:00Z", ready=True, parts=parts)


@contextmanager
def process(code: str, *arguments: str, **options) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **options) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_folder_that_is_claimed_says_who_has_it_before_there_is_any_part(state):
    with claimed(state):
        assert holder(state).pid == os.getpid()
        seen = StackSnapshot.read(state.snapshot)
        assert (seen.manager, seen.ready, seen.parts) == (ME, False, ())
        with pytest.raises(StackError, match="just starts"):
            running.find(state.root)
    assert holder(state) is None
    assert not state.snapshot.exists()


def test_a_second_claim_is_refused_and_changes_nothing(state):
    with claimed(state):
        before = {path: path.read_bytes() for path in state.root.rglob("*") if path.is_file()}
        with pytest.raises(AlreadyRuns, match="runs already"), claimed(state):
            pass
        assert {path: path.read_bytes() for path in state.root.rglob("*") if path.is_file()} == before


def test_what_a_dead_manager_said_of_itself_gives_nobody_the_folder(state):
    with claimed(state):
        lock = state.lock.read_text()
    state.lock.write_text(lock.replace(str(ME.created), str(BEFORE_ME.created)))
    assert holder(state) is None
    with claimed(state):
        pass


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_stack_that_is_told_to_end_while_it_starts_ends_and_leaves_the_folder(state, name):
    with process(ASSEMBLING, env=os.environ | {"SPIKE_STATE_DIR": str(state.root)}) as starting:
        assert starting.stdout.readline() == "assembling\n"
        starting.send_signal(getattr(signal, name))
        assert starting.wait(DEADLINE_SECONDS) != 0
    assert not state.snapshot.exists()
    assert holder(state) is None


def test_down_ends_a_stack_that_just_starts(state):
    with process(ASSEMBLING, env=os.environ | {"SPIKE_STATE_DIR": str(state.root)}) as starting:
        assert starting.stdout.readline() == "assembling\n"
        assert running.down(state.root) is None
        assert starting.poll() is not None
    assert not state.snapshot.exists()


def test_down_awaits_and_ends_a_holder_that_has_not_said_yet_who_it_is(state):
    """As when `spike up --detach` was killed just after it had started the manager."""
    ended = threading.Thread(target=running.down, args=(state.root,))
    with state.lock.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = os.environ | {"SPIKE_STACK_LOCK": str(lock.fileno())}
        late = process(LATE, str(state.root), env=env, pass_fds=(lock.fileno(),), stdin=subprocess.PIPE)
        manager = late.__enter__()
    try:
        assert manager.stdout.readline() == "imported\n"
        ended.start()
        assert manager.poll() is None
        manager.stdin.write("go on\n")
        manager.stdin.flush()
        until(lambda: not psutil.pid_exists(manager.pid))
    finally:
        late.__exit__(None, None, None)
        ended.join(DEADLINE_SECONDS)
    assert not ended.is_alive()


def test_a_claim_that_was_handed_over_stays_when_the_first_holder_ends(state):
    with process(LATE, str(state.root), stdin=subprocess.PIPE) as next_holder:
        with claimed(state) as claim:
            claim.hand_over(next_holder.pid)
        assert holder(state).pid == next_holder.pid
        assert StackSnapshot.read(state.snapshot).manager.pid == next_holder.pid


def test_parts_of_a_killed_manager_are_ended_and_others_are_not(state):
    """The record has two processes: one that was a part, and this test, under another start time."""
    orphan = subprocess.Popen([sys.executable, "-c", WAIT], start_new_session=True)
    snapshot(
        BEFORE_ME,
        PartSnapshot(name="orphan", state=PartState.READY, process=ProcessIdentity.of(orphan.pid)),
        PartSnapshot(name="stranger", state=PartState.READY, process=BEFORE_ME),
    ).write(state.snapshot)
    end_orphans(state)
    orphan.poll()
    assert not psutil.pid_exists(orphan.pid)
    assert not state.snapshot.exists()


UNREADABLE = {"empty": "", "foreign": '{"hello": 1}', "no JSON": "half a fi", "a list": "[]"}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.usefixtures("signals")
def test_a_snapshot_that_cannot_be_read_is_named_and_down_takes_it_away(state, monkeypatch, text):
    for name in [name for name in os.environ if name.startswith("SPIKE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPIKE_STATE_DIR", str(state.root))
    state.snapshot.write_text(text)
    with pytest.raises(UnreadableSnapshot, match=r"stack\.json is not what `spike up` writes"):
        StackSnapshot.read(state.snapshot)
    for command in ("status", "applications", "up"):
        done = CliRunner().invoke(app, [command])
        assert (done.exit_code, "stack.json is not what" in done.stderr) == (1, True)
    done = CliRunner().invoke(app, ["down"])
    assert (done.exit_code, "could not be read and is gone" in done.stderr) == (0, True)
    assert not state.snapshot.exists()


def test_down_ends_the_holder_of_the_lock_whatever_the_snapshot_has_become(state):
    with process(ASSEMBLING, env=os.environ | {"SPIKE_STATE_DIR": str(state.root)}) as starting:
        assert starting.stdout.readline() == "assembling\n"
        state.snapshot.write_text("")
        assert running.down(state.root) is None
        assert starting.poll() is not None


def test_down_ends_a_stack_of_a_version_that_did_not_name_itself_in_the_lock(state):
    with process(WAIT) as manager:
        snapshot(ProcessIdentity.of(manager.pid)).write(state.snapshot)
        running.down(state.root)
        assert manager.poll() is not None


def test_what_a_newer_version_adds_to_a_snapshot_is_ignored(state):
    text = snapshot(ME, PartSnapshot(name="p", state=PartState.READY)).model_dump_json()
    state.snapshot.write_text(
        text.replace('"name":', '"mood": "good", "name":').replace("{", '{"new": 1,', 1)
    )
    assert StackSnapshot.read(state.snapshot).parts[0].name == "p"
