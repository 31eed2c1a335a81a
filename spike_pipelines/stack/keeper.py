"""Keeps one part running: starts it once its needs are met, restarts it when it dies, obeys stop files.

Each `step` looks once and acts at most once; nothing here waits. `now` is the monotonic clock, seconds.
"""

import subprocess
from dataclasses import dataclass, field
from datetime import timedelta

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.domain.errors import SpikeError
from spike_pipelines.stack import process
from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.ports import check_free
from spike_pipelines.stack.snapshot import PartSnapshot, PartState
from spike_pipelines.stack.state import StateDir, rotate

BACK_OFF = BackOff(timedelta(seconds=1), timedelta(seconds=30))
STEADY_SECONDS = 60.0  # a part that ran this long starts again without delay


@dataclass(slots=True)
class Keeper:
    part: Part
    state_dir: StateDir
    state: PartState = PartState.WAITING
    problem: str | None = None
    restarts: int = 0
    was_ready: bool = False
    _failures: int = 0
    _since: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _identity: ProcessIdentity | None = field(default=None)

    def step(self, now: float, *, needs_ready: bool) -> None:
        """Raises what went wrong while the part has never been ready: then a person should look."""
        if self.state_dir.stop_request(self.part.name).exists():
            self._obey_stop()
        elif self._process is not None:
            self._watch(self._process, now)
        elif self.state is PartState.STOPPED:
            self._become(PartState.WAITING, now)
        elif needs_ready and self._is_due(now):
            self._launch(now)

    def end(self) -> None:
        """End the part's process, if it has one. Returns when it has ended."""
        if self._process is not None:
            process.end(self.part, self._process)
        self._process = None
        self._identity = None

    def snapshot(self) -> PartSnapshot:
        return PartSnapshot(
            name=self.part.name,
            state=self.state,
            process=self._identity,
            restarts=self.restarts,
            problem=self.problem,
        )

    def _obey_stop(self) -> None:
        if self.state is not PartState.STOPPED:
            self.end()
            self.state, self.problem, self._failures = PartState.STOPPED, None, 0

    def _is_due(self, now: float) -> bool:
        match self.state:
            case PartState.WAITING:
                return True
            case PartState.BACKING_OFF:
                return now - self._since >= BACK_OFF.after(self._failures).total_seconds()
            case _:
                return False

    def _launch(self, now: float) -> None:
        log = self.state_dir.log(self.part.name)
        rotate(log)
        try:
            check_free(self.part.name, self.part.ports, self.state_dir.ports)
            self._process = process.launch(self.part, log)
        except (SpikeError, OSError) as error:
            self._fail(error, now)
            return
        self._identity = ProcessIdentity.of(self._process.pid)
        self._become(PartState.STARTING, now)

    def _watch(self, running: subprocess.Popen[bytes], now: float) -> None:
        code = running.poll()
        if code is not None:
            self._ended(code, now)
        elif self.state is PartState.STARTING:
            self._try_ready(running, now)
        elif now - self._since > STEADY_SECONDS:
            self._failures = 0

    def _try_ready(self, running: subprocess.Popen[bytes], now: float) -> None:
        log = self.state_dir.log(self.part.name)
        try:
            self.problem = process.check_ready(self.part, running, log, now - self._since)
        except (SpikeError, OSError) as error:
            self.end()
            self._fail(error, now)
            return
        if self.problem is None:
            self.was_ready = True
            self._become(PartState.READY, now)

    def _ended(self, code: int, now: float) -> None:
        self._process = None
        self._identity = None
        if code == 0 and not self.part.restarts:
            self._become(PartState.ENDED, now)
            return
        log = self.state_dir.log(self.part.name)
        self._fail(PartFailed(process.ended_message(self.part, code, log)), now)

    def _fail(self, error: Exception, now: float) -> None:
        """Before it was ever ready a failure is for a person; later it is for us."""
        if not self.was_ready:
            raise error
        self._failures += 1
        self.restarts += 1
        self._become(PartState.BACKING_OFF, now)
        self.problem = str(error).partition("\n")[0]

    def _become(self, state: PartState, now: float) -> None:
        self.state, self._since = state, now
