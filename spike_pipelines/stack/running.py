"""A stack that runs (or ran), as others see it: through its state folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import psutil

from spike_pipelines.adapters.processes import LocalProcesses
from spike_pipelines.settings import Settings
from spike_pipelines.stack.drivers import stop_all
from spike_pipelines.stack.errors import StackError
from spike_pipelines.stack.manager import end_orphans
from spike_pipelines.stack.probes import LOOPBACK
from spike_pipelines.stack.snapshot import StackSnapshot
from spike_pipelines.stack.state import StateDir, write_private

DOWN_SECONDS = 180.0


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
    """Raises `StackError` if no stack runs there."""
    snapshot = StackSnapshot.read(root / "stack.json") if root.is_dir() else None
    if snapshot is None or not snapshot.is_running():
        raise StackError(
            f"no stack runs in {root.resolve()}: start one with `spike up`, or set SPIKE_STATE_DIR"
        )
    state_dir = StateDir.at(root)
    return RunningStack(state_dir, snapshot, json.loads(state_dir.environment.read_text()))


def adopt(root: Path) -> None:
    """A command without settings of its own means the stack that runs here, with its addresses and
    credentials. Nothing happens if there is none: the command then says which setting it lacks."""
    if "SPIKE_LEDGER_URL" in os.environ or not root.is_dir():
        return
    snapshot = StackSnapshot.read(root / "stack.json")
    if snapshot is not None and snapshot.is_running():
        os.environ.update(json.loads(StateDir.at(root).environment.read_text()))


def down(root: Path) -> None:
    """End the stack and return when it has ended. If its manager was killed, end what that left."""
    if not root.is_dir():
        raise StackError(f"{root.resolve()} is no state folder: no stack ever ran there")
    state_dir = StateDir.at(root)
    snapshot = StackSnapshot.read(state_dir.snapshot)
    manager = snapshot.manager.find() if snapshot else None
    if manager is not None:
        _end_manager(manager, state_dir)
    else:
        stop_all(LocalProcesses(Settings(state_dir=root)))
        end_orphans(state_dir)


def _end_manager(manager: psutil.Process, state_dir: StateDir) -> None:
    manager.send_signal(SIGTERM)
    try:
        manager.wait(DOWN_SECONDS)
    except psutil.TimeoutExpired as error:
        raise StackError(
            f"the stack (process {manager.pid}) has not ended after {DOWN_SECONDS:.0f} s: "
            f"see {state_dir.logs}"
        ) from error
