"""A bounded Spark process of this machine: told by one JSON file, answers with another."""

import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from spike_pipelines.adapters.applications import application_path
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.ports import KeepAlive
from spike_pipelines.settings import Settings

END_SECONDS = 10.0
INVALID = 2  # the exit status for a spike whose schema or transform cannot be used
TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class SparkJob:
    """`command` is started with three paths: the application file, the order, and where the answer goes.
    Its log is `<state>/logs/<kind>/<spike>.log`. `look_seconds` lie between two signs of life."""

    kind: str
    settings: Settings
    environ: Mapping[str, str]
    command: Sequence[str]
    longest_seconds: float
    look_seconds: float

    def run(self, spike: str, order: str, keep_alive: KeepAlive) -> bytes:
        """Errors: `Transient`, `InvalidSpec`, and what `keep_alive` raises, which ends the process."""
        application, log = paths_of(self.settings, self.kind, spike)
        with tempfile.TemporaryDirectory(prefix=f"spike-{self.kind}-") as folder:
            told, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
            told.write_text(order)
            with log.open("w") as output:
                process = subprocess.Popen(
                    (*self.command, application, told, answer),
                    env=dict(self.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                try:
                    self._await(process, spike, keep_alive)
                finally:
                    end(process)
            check_ended(process.returncode, self.kind, spike, log)
            return answer.read_bytes()

    def _await(self, process: "subprocess.Popen[bytes]", spike: str, keep_alive: KeepAlive) -> None:
        until = monotonic() + self.longest_seconds
        while True:
            try:
                process.wait(self.look_seconds)
                return
            except subprocess.TimeoutExpired:
                keep_alive()
            if monotonic() > until:
                raise Transient(
                    f"the {self.kind} of {spike} has not ended after {self.longest_seconds:.0f} s: "
                    "choose fewer hours"
                )


def paths_of(settings: Settings, kind: str, spike: str) -> tuple[Path, Path]:
    """What a job of this kind reads, the application file, and the log it may write."""
    log = settings.state_dir.resolve() / "logs" / kind / f"{spike}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return application_path(settings.applications_dir, spike).resolve(), log


def check_ended(code: int, kind: str, spike: str, log: Path) -> None:
    """Raise `InvalidSpec` or `Transient`, with the end of the log, unless the status is 0."""
    if code == 0:
        return
    with log.open(errors="replace") as lines:
        tail = " | ".join(line.strip() for line in deque(lines, maxlen=TAIL_LINES))
    error = InvalidSpec if code == INVALID else Transient
    raise error(f"the {kind} job of {spike} ended with status {code}: {tail} (all of it: {log})")


def end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """Nothing of ours goes on after us."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
