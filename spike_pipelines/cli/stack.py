"""`spike status`, `spike env` and `spike stack …`: looking at a running stack, and trying faults on it."""

import json
import os
import shlex
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spike_pipelines.cli.shown import wide
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings
from spike_pipelines.stack import loopback, running
from spike_pipelines.stack.errors import StackError
from spike_pipelines.stack.faults import kill_driver
from spike_pipelines.stack.snapshot import PartSnapshot, PartState, StackSnapshot
from spike_pipelines.stack.source import LiveStatus, platform_source
from spike_pipelines.stack.status import table

OBEYED_SECONDS = 150.0
POLL_SECONDS = 0.1
LEGEND = """\
verdict: what the driver does (MISSING, STARTING, WAITING, …) or, while it simply runs, the lag verdict that
`spike lag` shows of every spike; docs/lag.md has both side by side"""


PartName = Annotated[str, typer.Argument(metavar="PART", help="As in `spike status`: kafka, s3, postgres …")]


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def status(output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE) -> None:
    """How every spike and every part is, once. With SPIKE_CLUSTER=kubernetes the cluster's spikes, with what
    the supervisor makes of each and the overlays that lie over it; no stack is needed for that."""
    settings = Settings.from_env()
    if settings.cluster == "kubernetes":
        rows, link = LiveStatus(Platform(settings)).rows(), settings.dagster_url
        parts: tuple[PartSnapshot, ...] = ()
    else:
        stack = running.find(settings.state_dir)
        rows, link = platform_source(stack.environment).rows(), stack.link
        parts = stack.snapshot.parts
    if output is Output.JSON:
        spikes = [asdict(row) for row in rows]
        shown = [part.model_dump(mode="json") for part in parts]
        print(json.dumps({"spikes": spikes, "parts": shown}, indent=2))
    else:
        console = wide()
        console.print(table(rows, parts, link=link, width=console.width))
        console.print(LEGEND, style="dim")


def env() -> None:
    """Shell commands that make plain `dagster` and `spike` act on the running stack: eval "$(spike env)".

    What it prints has the stack's passwords.
    """
    stack = running.find(Settings.from_env().state_dir)
    direct = {name: os.environ[name] for name in loopback.NAMES if name in os.environ}
    for name, value in sorted((stack.environment | direct).items()):
        print(f"export {name}={shlex.quote(value)}")
    print(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")


def kill(spike: Annotated[str, typer.Argument(help="Whose driver.")]) -> None:
    """Kill the driver of a spike with SIGKILL; the supervisor starts another one."""
    platform = platform_source(running.find(Settings.from_env().state_dir).environment).platform
    if spike not in platform.spikes:
        raise InvalidSpec(f"no spike is called {spike!r}: there are {', '.join(platform.spikes)}")
    killed = kill_driver(platform, spike)
    print(f"killed process {killed.pid}, the {killed.what}; `spike status` shows how it comes back")


def stop(part: PartName) -> None:
    """Stop one part and keep it stopped, as if it had failed; the others go on."""
    stack = _with_part(part)
    stack.state_dir.stop_request(part).touch()
    _await_state(stack, part, stopped=True)


def start(part: PartName) -> None:
    """Start a part that was stopped."""
    stack = _with_part(part)
    stack.state_dir.stop_request(part).unlink(missing_ok=True)
    _await_state(stack, part, stopped=False)


def _with_part(part: str) -> running.RunningStack:
    stack = running.find(Settings.from_env().state_dir)
    names = [known.name for known in stack.snapshot.parts]
    if part not in names:
        raise InvalidSpec(f"no part is called {part!r}: there are {', '.join(names)}")
    return stack


def _await_state(stack: running.RunningStack, name: str, *, stopped: bool) -> None:
    """Until the manager has obeyed: it stopped, or it is ready again."""
    wanted = PartState.STOPPED if stopped else PartState.READY
    deadline = time.monotonic() + OBEYED_SECONDS
    while (state := _state(stack, name)) not in (wanted, PartState.ENDED):
        if time.monotonic() > deadline:
            raise StackError(
                f"{name} is {state} after {OBEYED_SECONDS:.0f} s: see {stack.state_dir.log(name)}"
            )
        time.sleep(POLL_SECONDS)
    print(f"{name} {state}")


def _state(stack: running.RunningStack, name: str) -> PartState:
    snapshot = StackSnapshot.read(stack.state_dir.snapshot)
    if snapshot is None:
        raise StackError("the stack ended meanwhile")
    return next(part.state for part in snapshot.parts if part.name == name)


def register(app: typer.Typer) -> None:
    app.command("status")(status)
    app.command("env")(env)
    faults = typer.Typer(help="Break single parts, to see what the pipeline makes of it.")
    faults.command("stop")(stop)
    faults.command("start")(start)
    faults.command("kill")(kill)
    app.add_typer(faults, name="stack")
