"""What the stack knows of one process: how to prepare, start, ask and stop it."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Probe = Callable[[], str | None]
"""None once the part serves; else in a few words why not yet. Answers within a few seconds, never raises."""


def nothing() -> None:
    """For parts that need nothing done before or after their start."""


def always_ready() -> str | None:
    """For parts that nobody connects to."""
    return None


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the embedded stack.

    `prepare` runs before each start (initialise a data directory, migrate a schema), `furnish` each time
    the part has become ready (create databases, buckets, topics); both may run any number of times.
    `needs` names parts that must be ready before. `ports` is what it listens on, for the error that
    names who holds one. `stop_signal` asks for an orderly end; `ready_seconds` and `stop_seconds` bound
    the waits. A part that has `restarts` False is left alone when it has ended (with exit code 0).
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    prepare: Callable[[], None] = nothing
    ready: Probe = always_ready
    furnish: Callable[[], None] = nothing
    stop_signal: signal.Signals = signal.SIGTERM
    ready_seconds: float = 60
    stop_seconds: float = 20
    restarts: bool = True
