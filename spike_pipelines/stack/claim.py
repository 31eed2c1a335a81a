"""One stack for a state folder: a lock that ends with the process that holds it, and in it who that is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGTERM
from typing import TextIO

import psutil
from pydantic import TypeAdapter, ValidationError

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.stack.errors import AlreadyRuns, StackError
from spike_pipelines.stack.snapshot import StackSnapshot
from spike_pipelines.stack.state import StateDir

ORPHAN_SECONDS = 20.0
INHERITED_LOCK = "SPIKE_STACK_LOCK"  # the descriptor, for the process that the folder is handed to
_IDENTITY = TypeAdapter(ProcessIdentity)


@dataclass(slots=True)
class Claim:
    """A state folder that is ours. Others see who has it, and that a stack starts there."""

    state_dir: StateDir
    lock: TextIO
    _handed_over: bool = False

    def hold(self, pid: int) -> None:
        """Raises `StackError` if there is no such process."""
        holder = ProcessIdentity.of(pid)
        if holder is None:
            raise StackError(f"process {pid} ended before it had {self.state_dir.root}")
        self.lock.truncate(0)
        self.lock.write(_IDENTITY.dump_json(holder).decode())
        self.lock.flush()
        starting = StackSnapshot(manager=holder, started_at=datetime.now(UTC), ready=False, parts=())
        starting.write(self.state_dir.snapshot)

    def hand_over(self, pid: int) -> None:
        """To a process that was started with the lock (`INHERITED_LOCK`): from now on it is the holder."""
        self.hold(pid)
        self._handed_over = True

    def release(self) -> None:
        if not self._handed_over:
            self.state_dir.snapshot.unlink(missing_ok=True)
            self.lock.truncate(0)


@contextmanager
def claimed(state_dir: StateDir) -> Iterator[Claim]:
    """From here on others see that a stack starts in the folder; only then is anything there written over.
    What a killed manager left is ended; what was stopped by hand then is not kept stopped now.

    Raises `AlreadyRuns`.
    """
    with locked(state_dir) as lock:
        end_orphans(state_dir)
        for request in state_dir.control.glob("*.stop"):
            request.unlink(missing_ok=True)
        claim = Claim(state_dir, lock)
        claim.hold(os.getpid())
        try:
            yield claim
        finally:
            claim.release()


@contextmanager
def locked(state_dir: StateDir) -> Iterator[TextIO]:
    """Alone in the folder. Raises `AlreadyRuns`."""
    with _opened(state_dir.lock) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRuns(
                f"a stack runs already in {state_dir.root}: `spike status` shows it, `spike down` ends it; "
                "another one needs another folder (SPIKE_STATE_DIR)"
            ) from error
        yield lock


def _opened(path: Path) -> TextIO:
    inherited = os.environ.pop(INHERITED_LOCK, None)
    return path.open("a+") if inherited is None else os.fdopen(int(inherited), "a+")


def holder(state_dir: StateDir) -> psutil.Process | None:
    """Who has the folder, as it says in the lock; None if that process has ended, or let it go."""
    try:
        return _IDENTITY.validate_json(state_dir.lock.read_bytes()).find()
    except (FileNotFoundError, ValidationError):
        return None


def end_orphans(state_dir: StateDir) -> None:
    """End parts of a manager that was killed. Only processes with the start time on record are touched."""
    before = StackSnapshot.read(state_dir.snapshot)
    if before is None or before.is_running():
        return
    for part in reversed(before.parts):
        if part.process is not None:
            part.process.end(SIGTERM, ORPHAN_SECONDS)
    state_dir.snapshot.unlink(missing_ok=True)
