"""`spike up` and `spike down`."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spike_pipelines.cli import ending
from spike_pipelines.cli.board import Board
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.settings import Settings
from spike_pipelines.stack import process, running
from spike_pipelines.stack.assembly import PROXIED, Options
from spike_pipelines.stack.claim import INHERITED_LOCK, Claim, claimed
from spike_pipelines.stack.errors import StackError
from spike_pipelines.stack.manager import UP
from spike_pipelines.stack.snapshot import StackSnapshot
from spike_pipelines.stack.source import platform_source
from spike_pipelines.stack.state import StateDir, rotate
from spike_pipelines.stack.up import assemble, run

DETACH_SECONDS = 600.0
STOPPING = "stopping: the drivers first, then what they need; this can take a minute"


def up(
    *,
    rate: Annotated[float, typer.Option(min=0, help="Records per second and topic.")] = 100.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same events.")] = 1,
    records: Annotated[
        int | None, typer.Option(min=1, help="Stop producing after so many per topic.", show_default="never")
    ] = None,
    producer: Annotated[bool, typer.Option(help="Send made-up events.")] = True,
    drivers: Annotated[
        bool, typer.Option(help="Start all drivers at once; else the supervisor does.")
    ] = True,
    applications: Annotated[
        Path | None,
        typer.Option(help="Folder of application files.", show_default="SPIKE_APPLICATIONS_DIR"),
    ] = None,
    only: Annotated[str, typer.Option(help="Comma-separated: only these parts.", show_default="all")] = "",
    via: Annotated[
        str, typer.Option(help="PART=PORT,…: where clients reach kafka, postgres, s3, appender (a proxy).")
    ] = "",
    detach: Annotated[bool, typer.Option(help="Return once all is ready; `spike down` ends it.")] = False,
) -> None:
    """Run the whole pipeline on this machine: every part real, on loopback, kept in SPIKE_STATE_DIR."""
    settings = Settings.from_env()
    options = Options(
        applications=applications or settings.applications_dir,
        rate=rate,
        seed=seed,
        records=records,
        producer=producer,
        drivers=drivers,
        only=tuple(name for name in only.split(",") if name),
        via=_ports(via),
    )
    ending.interrupt_once()  # while nothing runs that would have to be ended in order
    state_dir = StateDir.at(settings.state_dir)
    if detach:
        _detached(state_dir, options)
    else:
        _attached(state_dir, options)


def _ports(text: str) -> dict[str, int]:
    found = {}
    for pair in text.split(",") if text else ():
        name, _, port = pair.partition("=")
        if name not in PROXIED or not port.isdigit():
            raise InvalidSpec(f"--via: '{pair}' is not PART=PORT with a part of {', '.join(PROXIED)}")
        found[name] = int(port)
    return found


def down() -> None:
    """End the stack that runs in SPIKE_STATE_DIR, or starts there. Its data stays."""
    folder = Settings.from_env().state_dir
    with Console(stderr=True).status(STOPPING):
        note = running.down(folder)
    if note is not None:
        typer.echo(note, err=True)
    typer.echo(f"nothing runs any more; the data is in {folder}")


def _attached(state_dir: StateDir, options: Options) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end it in order. A second one is no faster: the parts have their
    time to end."""
    stop, console = threading.Event(), Console()

    def end(number: int, _: object) -> None:
        first = not stop.is_set()
        stop.set()
        if number == signal.SIGHUP:
            console.file = Path(os.devnull).open("w")  # noqa: SIM115  # the terminal is gone
        elif first:
            console.print(STOPPING)

    with claimed(state_dir):
        assembly = assemble(state_dir, options)
        ending.on_end(end)
        with Board(console, lambda: platform_source(assembly.environment()), assembly.dagster_url) as board:
            run(assembly, stop, board.show)
    console.print(f"stopped; the data is in {state_dir.root}", highlight=False)


def _detached(state_dir: StateDir, options: Options) -> None:
    """The same command again in a session of its own, with its output in a log."""
    log = state_dir.log("stack")
    with claimed(state_dir) as claim:
        assembly = assemble(state_dir, options)  # also here, where its progress is seen
        rotate(log)
        manager = _launch(claim, log)
        claim.hand_over(manager.pid)
    with Console(stderr=True).status("starting") as status:
        deadline = time.monotonic() + DETACH_SECONDS
        while not (snapshot := _Seen.of(state_dir, manager.pid)).ready:
            status.update(f"starting {snapshot.waiting_for}")
            if manager.poll() is not None:
                raise StackError("\n".join(process.tail(log)) or f"the stack ended at once: see {log}")
            if time.monotonic() > deadline:
                raise StackError(f"the stack is not ready after {DETACH_SECONDS:.0f} s: see {log}")
            time.sleep(process.POLL_SECONDS)
    print(f"ready: Dagster at {assembly.dagster_url}; `spike status` shows the spikes, `spike down` ends it")


def _launch(claim: Claim, log: Path) -> subprocess.Popen[bytes]:
    """With the lock: at no moment is the folder nobody's."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    lock = claim.lock.fileno()
    with log.open("ab") as output:
        return subprocess.Popen(
            (sys.executable, "-m", "spike_pipelines.cli.main", *arguments),
            env=os.environ | {INHERITED_LOCK: str(lock)},
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    ready: bool
    waiting_for: str

    @classmethod
    def of(cls, state_dir: StateDir, manager: int) -> "_Seen":
        snapshot = StackSnapshot.read(state_dir.snapshot)
        if snapshot is None or snapshot.manager.pid != manager:
            return cls(False, "the manager")
        if not snapshot.parts:
            return cls(False, "the manager")
        names = (part.name for part in snapshot.parts if part.state not in UP)
        return cls(snapshot.ready, ", ".join(names) or "drivers")


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("down")(down)
