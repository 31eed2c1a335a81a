"""Parses dead letters again in a bounded Spark process of this machine (port `Reparser`)."""

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from spike_pipelines.adapters.replay_files import AnswerFile, OrderFile
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.ports import Reparsed, ReplayOrder
from spike_pipelines.settings import Settings

COMMAND = (sys.executable, "-m", "spike_pipelines.spark.replay")
LOOK_SECONDS = 5.0  # between two signs of life
LONGEST_SECONDS = 3600.0
END_SECONDS = 10.0
INVALID = 2  # the exit status for a spike whose schema or transform cannot be used
TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class SparkReparser:
    """`command` is started with three paths: the application file, the order, and where the answer goes.
    Its log is `<state>/logs/replay/<spike>.log`."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    command: Sequence[str] = COMMAND
    longest_seconds: float = LONGEST_SECONDS
    look_seconds: float = LOOK_SECONDS

    def reparse(self, order: ReplayOrder, keep_alive: Callable[[], None]) -> Reparsed:
        application = (self.settings.applications_dir / f"{order.spike}.yaml").resolve()
        log = self.settings.state_dir.resolve() / "logs" / "replay" / f"{order.spike}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="spike-replay-") as folder:
            told, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
            told.write_text(OrderFile.of(order).model_dump_json())
            with log.open("w") as output:
                process = subprocess.Popen(
                    (*self.command, application, told, answer),
                    env=dict(self.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                try:
                    self._await(process, order, keep_alive)
                finally:
                    _end(process)
            _check(process.returncode, order, log)
            return AnswerFile.model_validate_json(answer.read_bytes()).reparsed()

    def _await(
        self, process: "subprocess.Popen[bytes]", order: ReplayOrder, keep_alive: Callable[[], None]
    ) -> None:
        until = monotonic() + self.longest_seconds
        while True:
            try:
                process.wait(self.look_seconds)
                return
            except subprocess.TimeoutExpired:
                keep_alive()
            if monotonic() > until:
                raise Transient(
                    f"the replay of {order.spike} has not ended after {self.longest_seconds:.0f} s: "
                    "choose fewer hours"
                )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Nothing of ours goes on after us."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check(code: int, order: ReplayOrder, log: Path) -> None:
    if code == 0:
        return
    with log.open(errors="replace") as lines:
        tail = " | ".join(line.strip() for line in deque(lines, maxlen=TAIL_LINES))
    kind = InvalidSpec if code == INVALID else Transient
    raise kind(f"the replay job of {order.spike} ended with status {code}: {tail} (all of it: {log})")
