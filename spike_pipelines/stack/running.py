"""A stack that runs (or ran), as others see it: through its state folder."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import psutil

from spike_pipelines.adapters.processes import LocalProcesses
from spike_pipelines.settings import Settings
from spike_pipelines.stack.claim import end_orphans, holder, locked
from spike_pipelines.stack.drivers import stop_all
from spike_pipelines.stack.errors import AlreadyRuns, StackError, UnreadableSnapshot
from spike_pipelines.stack.probes import LOOPBACK
from spike_pipelines.stack.snapshot import StackSnapshot
from spike_pipelines.stack.state import StateDir, write_private

DOWN_SECONDS = 180.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RunningStack:
    state_dir: StateDir
    snapshot: StackSnapshot
    environment: dict[str, str]

    @property
    def link(self) -> str:
        """Where Dagster's UI is."""
        return f"http://{LOOPBACK}:{json.loads(self.state_dir.ports.read_text())['dagster']}"


def write_environment(state_dir: StateDir, environment: dict[str, str]) -> None:
    write_private(state_dir.environment, json.dumps(environment, indent=2) + "\n")


def find(root: Path) -> RunningStack:
    """Raises `StackError` if no stack runs there, or it is not known yet of what parts it is."""
    snapshot = StackSnapshot.read(root / "stack.json") if root.is_dir() else None
    if snapshot is None or not snapshot.is_running():
        raise StackError(
            f"no stack runs in {root.resolve()}: start one with `spike up`, or set SPIKE_STATE_DIR"
        )
    if not snapshot.parts:
        raise StackError(f"the stack in {root.resolve()} just starts: ask again, or `spike down` ends it")
    state_dir = StateDir.at(root)
    return RunningStack(state_dir, snapshot, json.loads(state_dir.environment.read_text()))


def adopt(root: Path) -> None:
    """A command without settings of its own means the stack that runs here, with its addresses and
    credentials. Nothing happens if there is none: the command then says which setting it lacks."""
    if "SPIKE_LEDGER_URL" in os.environ or not root.is_dir():
        return
    snapshot = StackSnapshot.read(root / "stack.json")
    environment = StateDir.at(root).environment
    if snapshot is not None and snapshot.is_running() and environment.exists():
        os.environ.update(json.loads(environment.read_text()))


def down(root: Path) -> str | None:
    """End the stack, also one that just starts, and return when it has ended. If its manager was killed, end
    what that left. Answers with what a person should know of that."""
    if not root.is_dir():
        raise StackError(f"{root.resolve()} is no state folder: no stack ever ran there")
    state_dir = StateDir.at(root)
    deadline = time.monotonic() + DOWN_SECONDS
    while True:
        manager = holder(state_dir) or _told(state_dir)
        if manager is not None:
            _end_manager(manager, state_dir)
        try:
            with locked(state_dir):
                return _clean(state_dir)
        except AlreadyRuns:  # it was handed over just now: the next holder is about to say who it is
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _told(state_dir: StateDir) -> psutil.Process | None:
    """The manager of a snapshot that can be read."""
    try:
        snapshot = StackSnapshot.read(state_dir.snapshot)
    except UnreadableSnapshot:
        return None  # told by `_clean`, if the file is still there then
    return snapshot.manager.find() if snapshot else None


def _clean(state_dir: StateDir) -> str | None:
    stop_all(LocalProcesses(Settings(state_dir=state_dir.root)))
    try:
        end_orphans(state_dir)
    except UnreadableSnapshot:
        state_dir.snapshot.unlink()
        return (
            f"{state_dir.snapshot} could not be read and is gone: parts of which only it knew may still run"
        )
    return None


def _end_manager(manager: psutil.Process, state_dir: StateDir) -> None:
    manager.send_signal(SIGTERM)
    try:
        manager.wait(DOWN_SECONDS)
    except psutil.TimeoutExpired as error:
        raise StackError(
            f"the stack (process {manager.pid}) has not ended after {DOWN_SECONDS:.0f} s: "
            f"see {state_dir.logs}"
        ) from error
