"""Starting one part, waiting until it serves, and ending it."""

import contextlib
import os
import subprocess
import time
from collections import deque
from pathlib import Path

import psutil

from spike_pipelines.stack import loopback
from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.part import Part

POLL_SECONDS = 0.1
TAIL_LINES = 20
LEFT_BEHIND_SECONDS = 10.0
INHERITED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "XDG_CACHE_HOME"),
    *loopback.NAMES,
)
"""What a part gets of our environment; all else it is told on purpose, so that a shell's leftovers
(`PYTHONPATH`, `AWS_PROFILE`, `DAGSTER_HOME` of another project) cannot change what it does."""


def environment(part: Part) -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(part.env)


def launch(part: Part, log: Path) -> subprocess.Popen[bytes]:
    """Prepare and start the part in a session of its own, so that a Ctrl-C here does not reach it."""
    part.prepare()
    part.cwd.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            part.command,
            cwd=part.cwd,
            env=environment(part),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def await_ready(part: Part, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the part serves and is furnished. Raises `PartFailed` with the end of its log."""
    start = time.monotonic()
    while check_ready(part, process, log, time.monotonic() - start) is not None:
        time.sleep(POLL_SECONDS)


def check_ready(part: Part, process: subprocess.Popen[bytes], log: Path, waited_seconds: float) -> str | None:
    """None once the part serves and is furnished, else why not yet.

    Raises `PartFailed` with the end of its log if it has ended, or takes longer than it may.
    """
    reason = part.ready()
    if process.poll() is not None:
        raise PartFailed(ended_message(part, process.returncode, log))
    if reason is None:
        part.furnish()
    elif waited_seconds > part.ready_seconds:
        raise PartFailed(
            f"{part.name} is not ready after {part.ready_seconds:.0f} s ({reason}).{_tail_of(log)}"
        )
    return reason


def ended_message(part: Part, code: int, log: Path) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{part.name} {how}.{_tail_of(log)}"


def end(part: Part, process: subprocess.Popen[bytes]) -> int:
    """Ask the part to end, wait its grace time, kill it; then what it had started and left behind (a
    Dagster run, say) in the same way. Returns the exit code."""
    started = _descendants(process.pid)
    if process.poll() is None:
        process.send_signal(part.stop_signal)
    try:
        code = process.wait(part.stop_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    _end_all(started)
    return code


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end_all(processes: list[psutil.Process]) -> None:
    """psutil compares start times, so an id that was used again is not touched."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=LEFT_BEHIND_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def tail(log: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; empty where there is none."""
    if not log.exists():
        return ()
    with log.open(errors="replace") as text:
        return tuple(line.rstrip("\n") for line in deque(text, maxlen=lines))


def _tail_of(log: Path) -> str:
    return f" The end of {log}:\n  " + "\n  ".join(tail(log) or ("(empty)",))
