"""The faults themselves. Each is begun, seen to work or not, and ended; none of it waits.

An effect's time is the moment the signal was sent or the link did its first harm; it counts once it was
seen: every process gone or stopped, bytes held up, connections cut, the second driver at the door.
"""

import contextlib
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import psutil

from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Cluster, DriverState
from spike_pipelines.stack.proxy import Link

AT_THE_DOOR = "waiting for the spike"  # what a driver logs that the appender told to wait


class Harm(Protocol):
    """`key` names what is hit: nothing is hit twice at a time. `what` is for people."""

    @property
    def key(self) -> str: ...

    @property
    def what(self) -> str: ...

    def begin(self) -> None:
        """Raises `Transient` where there is nothing to hit any more."""

    def effect(self) -> datetime | None:
        """When it took effect, once that was seen."""

    def end(self) -> None:
        """Heal what can be healed. May be called again, and whatever happened."""


def _now() -> datetime:
    return datetime.now(UTC)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _status(process: psutil.Process) -> str | None:
    """None if it has ended, waited for or not."""
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return None
    return None if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else status


@dataclass(slots=True)
class Kill:
    """SIGKILL to a process and all that it started."""

    key: str
    what: str
    process: psutil.Process
    _family: list[psutil.Process] = field(default_factory=list)
    _at: datetime | None = None

    def begin(self) -> None:
        self._family = [self.process, *_children(self.process)]
        self._at = _now()
        for member in self._family:
            _signal(member, signal.SIGKILL)

    def effect(self) -> datetime | None:
        return None if any(_status(member) for member in self._family) else self._at

    def end(self) -> None:
        """Nobody wakes the dead: the stack starts another."""


@dataclass(slots=True)
class Freeze:
    """SIGSTOP to a process, then to all that it started; SIGCONT at the end."""

    key: str
    what: str
    process: psutil.Process
    _family: list[psutil.Process] = field(default_factory=list)
    _at: datetime | None = None

    def begin(self) -> None:
        self._at = _now()
        self._family = [self.process]
        _signal(self.process, signal.SIGSTOP)
        self._family += _children(self.process)
        for member in self._family[1:]:
            _signal(member, signal.SIGSTOP)

    def effect(self) -> datetime | None:
        """A child may have ended just before it was stopped; the process itself must not."""
        still = (psutil.STATUS_STOPPED, None)
        stopped = _status(self.process) == psutil.STATUS_STOPPED
        return self._at if stopped and all(_status(member) in still for member in self._family) else None

    def end(self) -> None:
        for member in reversed(self._family):
            _signal(member, signal.SIGCONT)


@dataclass(slots=True)
class Delay:
    """A link that holds each piece of data up."""

    key: str
    what: str
    link: Link
    seconds: float

    def begin(self) -> None:
        self.link.delay(self.seconds)

    def effect(self) -> datetime | None:
        harm = self.link.harm
        return harm.since if harm.delayed_bytes else None

    def end(self) -> None:
        self.link.heal()


@dataclass(slots=True)
class Cut:
    """A link that resets every connection."""

    key: str
    what: str
    link: Link

    def begin(self) -> None:
        self.link.cut()

    def effect(self) -> datetime | None:
        harm = self.link.harm
        return harm.since if harm.cut_connections else None

    def end(self) -> None:
        self.link.heal()


@dataclass(slots=True)
class Twin:
    """A second driver, started by the same command as the first. The supervisor ends one of them."""

    key: str
    what: str
    cluster: Cluster
    spike: Spike
    _second: str | None = None

    def begin(self) -> None:
        self._second = self.cluster.start(self.spike).driver

    def effect(self) -> datetime | None:
        """Once two run, and the second was told to wait."""
        mine = [d for d in self.cluster.drivers() if d.spike == self.spike.name]
        running = {d.driver for d in mine if d.state is DriverState.RUNNING}
        if self._second not in running or len(running) < 2:
            return None
        told = self.cluster.log_tail(self._second, 50)
        return _now() if any(AT_THE_DOOR in line for line in told) else None

    def end(self) -> None:
        """Whoever is one too many is the supervisor's matter."""
