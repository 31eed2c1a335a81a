"""Runs a set of parts until told to stop: one step a tick over all of them, nothing waits for one."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.stack.errors import StackError
from spike_pipelines.stack.keeper import Keeper
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.snapshot import PartState, StackSnapshot
from spike_pipelines.stack.state import StateDir

TICK_SECONDS = 0.2
UP = frozenset({PartState.READY, PartState.ENDED})


class Manager:
    """`on_ready(name)` is called when a part has become ready the first time, before what needs it is
    started; `before_end(names)` at the end, before these parts are ended. So what depends on a part, and
    is none itself, starts and ends in time."""

    def __init__(
        self,
        parts: Sequence[Part],
        state_dir: StateDir,
        *,
        on_ready: Callable[[str], None] = lambda _: None,
        before_end: Callable[[frozenset[str]], None] = lambda _: None,
        on_tick: Callable[[StackSnapshot], None] = lambda _: None,
    ) -> None:
        self._parts = tuple(parts)
        self._keepers = tuple(Keeper(part, state_dir) for part in parts)
        self._state_dir = state_dir
        self._on_ready = on_ready
        self._before_end = before_end
        self._on_tick = on_tick
        self._started_at = datetime.now(UTC)
        self._ready = False
        self._announced: set[str] = set()
        self._written: StackSnapshot | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set, or a part fails that never was ready. Ends all it started, either way. The
        state folder is the caller's (`claimed`)."""
        try:
            while not stop.is_set():
                self._tick()
                stop.wait(TICK_SECONDS)
        finally:
            self._end_all()

    def _tick(self) -> None:
        for keeper in self._keepers:
            keeper.step(time.monotonic(), needs_ready=self._needs_ready(keeper))
            self._announce(keeper)
            self._publish()
        if not self._ready and all(keeper.state in UP for keeper in self._keepers):
            self._ready = True
            self._publish()
        self._on_tick(self._snapshot())

    def _announce(self, keeper: Keeper) -> None:
        name = keeper.part.name
        if keeper.state in UP and name not in self._announced:
            self._announced.add(name)
            self._on_ready(name)

    def _needs_ready(self, keeper: Keeper) -> bool:
        """A part that is not among ours is somebody else's matter."""
        return all(other.state in UP for other in self._keepers if other.part.name in keeper.part.needs)

    def _end_all(self) -> None:
        """Those first that no other needs; an error with one does not leave the others running."""
        problems: list[Exception] = []
        for wave in end_order(self._parts):
            try:
                self._before_end(wave)
            except Exception as error:  # noqa: BLE001 - told below, after everything has ended
                problems.append(error)
            keepers = [keeper for keeper in self._keepers if keeper.part.name in wave]
            with ThreadPoolExecutor(max_workers=len(keepers)) as pool:
                ends = [pool.submit(keeper.end) for keeper in keepers]
            problems += [failure for end in ends if isinstance(failure := end.exception(), Exception)]
        if problems:
            raise ExceptionGroup("while the stack was ended", problems)

    def _snapshot(self) -> StackSnapshot:
        me = ProcessIdentity.of(os.getpid())
        if me is None:
            raise StackError("this process has no entry in the process table")
        return StackSnapshot(
            manager=me,
            started_at=self._started_at,
            ready=self._ready,
            parts=tuple(keeper.snapshot() for keeper in self._keepers),
        )

    def _publish(self) -> None:
        snapshot = self._snapshot()
        if snapshot != self._written:
            snapshot.write(self._state_dir.snapshot)
            self._written = snapshot


def end_order(parts: Sequence[Part]) -> tuple[frozenset[str], ...]:
    """Names in waves: all of a wave are ended at the same time, and none before what needs it."""
    left = {part.name: part for part in parts}
    waves = []
    while left:
        needed = {name for part in left.values() for name in part.needs}
        wave = frozenset(left.keys() - needed)
        if not wave:
            raise StackError(f"parts need each other in a circle: {', '.join(left)}")
        waves.append(wave)
        left = {name: part for name, part in left.items() if name not in wave}
    return tuple(waves)
