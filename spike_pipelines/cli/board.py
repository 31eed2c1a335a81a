"""What a person sees while the stack runs: a live table on a terminal, lines elsewhere."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from spike_pipelines.stack.snapshot import PartState, StackSnapshot
from spike_pipelines.stack.status import SpikeRow, StatusSource, table

REFRESH_SECONDS = 1.0


class Board:
    """Give `show` to the manager as its `on_tick`. The source is asked in a thread of its own, so that a
    slow answer delays neither the parts nor the table."""

    def __init__(self, console: Console, source: Callable[[], StatusSource], link: str) -> None:
        self._console = console
        self._make_source = source
        self._link = link
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._rows: tuple[SpikeRow, ...] = ()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="status", daemon=True)
        self._states: dict[str, PartState] = {}
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ready.set()
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: StackSnapshot) -> None:
        if self._live is None:
            self._print_changes(snapshot)
        elif time.monotonic() - self._shown_at >= REFRESH_SECONDS:
            self._shown_at = time.monotonic()
            shown = table(self._rows, snapshot.parts, link=self._link, brief=True, width=self._console.width)
            self._live.update(shown, refresh=True)
        if snapshot.ready and not self._ready.is_set():
            self._ready.set()
            self._console.print(f"ready: Dagster at {self._link}", highlight=False)

    def _print_changes(self, snapshot: StackSnapshot) -> None:
        for part in snapshot.parts:
            if self._states.get(part.name) != part.state:
                self._states[part.name] = part.state
                why = f": {part.problem}" if part.problem else ""
                self._console.print(f"{part.name} {part.state}{why}", highlight=False, markup=False)

    def _ask(self) -> None:
        """Once the stack is ready, as the source needs its parts."""
        self._ready.wait()
        if self._stop.is_set():
            return
        source = self._make_source()
        while not self._stop.is_set():
            self._rows = source.rows()
            self._stop.wait(REFRESH_SECONDS)
