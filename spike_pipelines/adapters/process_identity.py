"""Processes of this machine, named so that a process id used again is never taken for the old one."""

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

START_TOLERANCE_SECONDS = 0.02  # the kernel's clock ticks, turned into a float and back


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """`created` is the process's start in seconds since the epoch, as psutil gives it."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Who has this id now; None if nobody."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def find(self) -> psutil.Process | None:
        """The process, if it still runs. One that ended and was not waited for (a zombie) does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) <= START_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def end(self, ask: signal.Signals, grace_seconds: float) -> None:
        """Ask it to end; after the grace time kill it and its process group. Ended already: nothing."""
        process = self.find()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(ask)
        try:
            process.wait(grace_seconds)
        except psutil.TimeoutExpired:
            self.kill_group()

    def kill_group(self) -> None:
        """Kill it, and what it started if it leads a process group."""
        process = self.find()
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            process.kill()
            process.wait(10)
