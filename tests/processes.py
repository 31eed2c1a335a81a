"""Processes that stop before each effect until somebody says what becomes of it.

A process is a greenlet that runs real services over ports that hand each call to `Process.effect`. So two
of them interleave in any order, and each can be killed before, after or long before an effect happens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from builders import SameThread
from greenlet import greenlet

from spike_pipelines.domain.errors import Transient
from spike_pipelines.services.drain import Drain


class Killed(BaseException):
    """The process ends here: nothing catches it, and nothing it does afterwards has an effect."""


class Fault(StrEnum):
    """What becomes of one effect."""

    NONE = "none"
    BEFORE = "killed before it"
    AFTER = "killed after it"
    LATE = "killed, and the request arrives later"  # a database forgets it: its connection is gone
    FAILED = "refused, without an effect"
    UNANSWERED = "done, and the answer is lost"


DEADLY = frozenset({Fault.BEFORE, Fault.AFTER, Fault.LATE})


class Process:
    """One process. `waits_for` names the effect it stands before; None once it has ended."""

    def __init__(self, name: str, body: Callable[["Process"], None]) -> None:
        self.name = name
        self.effects = 0
        self.late: list[Callable[[], object]] = []
        self.disturbed = False  # an effect of it failed, or its answer was lost
        self._killed = False
        self._inside = False  # a transaction: what it asks others for belongs to that one effect
        self._greenlet = greenlet(self._run)
        self._body = body
        self.waits_for: str | None = self._greenlet.switch()

    def step(self, fault: Fault = Fault.NONE) -> None:
        """Let the effect happen, or not. What the services do not expect comes out here."""
        if self.waits_for is not None:
            self.waits_for = self._greenlet.switch(fault)

    def finish(self) -> None:
        for _ in range(2_000):
            if self.waits_for is None:
                return
            self.step()
        raise AssertionError(f"{self.name} has no bound: it still waits for {self.waits_for}")

    def reach(self, effect: str, nth: int = 1) -> bool:
        """Go on up to the `nth` effect of that name, without it; False if the process ends before."""
        for _ in range(2_000):
            nth -= self.waits_for == effect
            if nth == 0 or self.waits_for is None:
                return nth == 0
            self.step()
        raise AssertionError(f"{self.name} has no bound: it still waits for {self.waits_for}")

    def kill(self) -> None:
        if self.waits_for is not None:
            self.step(Fault.BEFORE)

    def effect(self, name: str, call: Callable[[], object]) -> object:
        if self._inside:
            return call()
        fault = self._ask(name)
        if fault is Fault.LATE:
            self.late.append(call)
            self._die()
        answer = call()
        self._lose_answer(fault)
        return answer

    @contextmanager
    def transaction(self, begin: Callable[[], object]) -> Iterator[object]:
        """A transaction is one effect: its commit."""
        fault = self._ask("ledger.begin")
        if fault is Fault.LATE:
            self._die()
        self._inside = True
        try:
            with begin() as tx:
                yield tx
        finally:
            self._inside = False
        self._lose_answer(fault)

    def _ask(self, name: str) -> Fault:
        if self._killed:
            raise Killed
        self.effects += 1
        fault = self._greenlet.parent.switch(name)
        self.disturbed |= fault in {Fault.FAILED, Fault.UNANSWERED}
        if fault is Fault.BEFORE:
            self._die()
        if fault is Fault.FAILED:
            raise Transient(f"{name} failed")
        return fault

    def _lose_answer(self, fault: Fault) -> None:
        if fault is Fault.AFTER:
            self._die()
        if fault is Fault.UNANSWERED:
            raise Transient("no answer")

    def _die(self) -> None:
        self._killed = True
        raise Killed

    def _run(self) -> None:
        try:
            self._body(self)
        except Killed:
            return


class Port:
    """A port of a process: every call is an effect. `prefix` says which port it is."""

    def __init__(self, process: Process, prefix: str, inner: object) -> None:
        self._process, self._prefix, self._inner = process, prefix, inner

    def __getattr__(self, name: str) -> Callable[..., object]:
        call = getattr(self._inner, name)

        def effect(*arguments: object, **named: object) -> object:
            return self._process.effect(f"{self._prefix}.{name}", partial(call, *arguments, **named))

        return effect

    def begin(self) -> object:
        return self._process.transaction(self._inner.begin)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteppedDrain(Drain):
    """An appender run in one thread whose pauses somebody decides on."""

    pause: Callable[[], None]

    def _pool(self) -> SameThread:
        return SameThread()

    def _pause(self) -> None:
        self.pause()
