"""A Spark process of this machine that does one order after the other: a session costs more than most hours.

It is told on its standard input, a line for each order with the paths of order and answer, and ends when that
is closed: at the latest with the process that started it. `serve` is its side of this.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from spike_pipelines.adapters.spark_job import END_SECONDS, check_ended, end, paths_of
from spike_pipelines.domain.errors import Transient
from spike_pipelines.ports import KeepAlive
from spike_pipelines.settings import Settings

log = logging.getLogger(__name__)

TELL_SECONDS = 3.0
SO_FAR = ".so-far"
_ANSWER_SECONDS = 0.05  # between two looks for an answer


@dataclass(slots=True)
class SparkWorker:
    """`command` is started with the application file's path, its log is `<state>/logs/<kind>/<spike>.log`.
    `look_seconds` lie between two signs of life; an order takes `longest_seconds` at most. For one thread."""

    kind: str
    settings: Settings
    environ: Mapping[str, str]
    command: Sequence[str]
    longest_seconds: float
    look_seconds: float
    _running: "_Running | None" = field(default=None, init=False)

    def do(self, spike: str, order: str, keep_alive: KeepAlive) -> bytes:
        """The answer. Errors: `Transient`, `InvalidSpec`, and what `keep_alive` raises; each ends the
        process, and the next order starts another one."""
        try:
            running = self._of(spike)
            told, answer = running.tell(order)
            self._await(running, answer, keep_alive)
            body = answer.read_bytes()
        except BaseException:
            self.close()
            raise
        for path in (told, answer, answer.with_suffix(SO_FAR)):
            path.unlink(missing_ok=True)
        return body

    def close(self) -> None:
        """Nothing of ours goes on after us."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def _of(self, spike: str) -> "_Running":
        if self._running is not None and (self._running.spike != spike or not self._running.alive):
            self.close()
        if self._running is None:
            self._running = self._start(spike)
        return self._running

    def _start(self, spike: str) -> "_Running":
        application, log = paths_of(self.settings, self.kind, spike)
        with log.open("w") as output:
            process = subprocess.Popen(
                (*self.command, application),
                env=dict(self.environ),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return _Running(spike, process, log, tempfile.TemporaryDirectory(prefix=f"spike-{self.kind}-"))

    def _await(self, running: "_Running", answer: Path, keep_alive: KeepAlive) -> None:
        began = looked = monotonic()
        pause = Event()
        while not answer.exists():
            if not running.alive:
                if answer.exists():
                    return
                check_ended(running.process.returncode, self.kind, running.spike, running.log)
                raise Transient(
                    f"the {self.kind} job of {running.spike} ended without an answer: {running.log}"
                )
            pause.wait(_ANSWER_SECONDS)
            if monotonic() > looked + self.look_seconds:
                told = _so_far(answer)
                keep_alive() if told is None else keep_alive(told)
                looked = monotonic()
            if monotonic() > began + self.longest_seconds:
                raise Transient(
                    f"the {self.kind} of {running.spike} has not ended after {self.longest_seconds:.0f} s: "
                    "choose fewer hours"
                )


@dataclass(slots=True)
class _Running:
    spike: str
    process: "subprocess.Popen[str]"
    log: Path
    folder: "tempfile.TemporaryDirectory[str]"
    orders: int = 0

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tell(self, order: str) -> tuple[Path, Path]:
        """Paths of the order and of its answer, which is there once it is whole."""
        self.orders += 1
        told, answer = (Path(self.folder.name) / f"{name}-{self.orders}.json" for name in ("order", "answer"))
        told.write_text(order)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: who waits for the answer says why
            self.process.stdin.write(json.dumps([str(told), str(answer)]) + "\n")
            self.process.stdin.flush()
        return told, answer

    def close(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # what was written is of no use any more
            self.process.stdin.close()
        end(self.process)
        self.folder.cleanup()


def _so_far(answer: Path) -> int | None:
    """What the process last told of the order that has no answer yet."""
    path = answer.with_suffix(SO_FAR)
    return int(path.read_text()) if path.exists() else None


def serve(answer: Callable[[bytes], str], so_far: Callable[[], int] | None = None) -> None:
    """The process's own side: answer orders until standard input is closed. What `answer` raises ends it;
    while it works, `so_far` is asked how far it is."""
    lines: SimpleQueue[str | None] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True, name="orders").start()
    while (line := lines.get()) is not None:
        told, path = map(Path, json.loads(line))
        with telling(so_far, partial(_put_whole, path.with_suffix(SO_FAR))):
            answered = answer(told.read_bytes())
        _put_whole(path, answered)


def _put_whole(path: Path, text: str) -> None:
    whole = path.with_suffix(f"{path.suffix}.part")
    whole.write_text(text)
    whole.rename(path)


@contextmanager
def telling(so_far: Callable[[], int] | None, tell: Callable[[str], object]) -> Iterator[None]:
    """Tell every few seconds of the block how far its work is. Who does not hear it once hears it later."""
    if so_far is None:
        yield
        return
    done, ask = Event(), so_far

    def run() -> None:
        while not done.wait(TELL_SECONDS):
            try:
                tell(str(ask()))
            except (OSError, Transient) as problem:
                log.warning("how far it is could not be told: %s", problem)

    thread = Thread(target=run, daemon=True, name="so far")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _listen(lines: "SimpleQueue[str | None]") -> None:
    """Whoever gave the orders is gone when there are no more lines: one at work is of no use to anyone."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    Event().wait(END_SECONDS)
    os._exit(1)
