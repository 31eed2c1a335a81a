"""`spike applications` lists the application files, `spike new` makes another one."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from spike_pipelines.adapters.application_copy import copy_application
from spike_pipelines.adapters.applications import SUFFIX, load_application, read_applications
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Spike
from spike_pipelines.producer.events import MAKERS
from spike_pipelines.settings import Settings

PIPED_WIDTH = 160  # names stay in one piece for grep


def register(app: typer.Typer) -> None:
    app.command("applications")(applications)
    app.command("new")(new)


def applications() -> None:
    """List the application files, or say what is wrong with them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    found = read_applications(Settings.from_env().applications_dir)
    console.print(table(tuple(found.spikes.values())))
    if found.broken:
        raise InvalidSpec("\n".join(found.broken[name] for name in sorted(found.broken)))


def new(
    name: Annotated[str, typer.Argument(help="As in crt-refund-v1-1.0.")],
    like: Annotated[str, typer.Option("--from", help="The application to copy.")],
    topic: Annotated[
        str | None, typer.Option(help="Its topic.", show_default="the name without -v…, dotted")
    ] = None,
) -> None:
    """Make an application file from an existing one, with a topic and a dataset of its own."""
    directory = Settings.from_env().applications_dir
    path = copy_application(directory, name=name, like=like, topic=topic)
    source = load_application(directory / f"{like}{SUFFIX}")
    print(next_steps(path, load_application(path), source.topic))


def table(spikes: tuple[Spike, ...]) -> Table:
    shown = Table(box=box.SIMPLE)
    shown.add_column("spike", no_wrap=True)
    for heading in ("topic", "dataset", "trigger", "version"):
        shown.add_column(heading, overflow="fold")
    for spike in spikes:
        trigger = f"{spike.trigger.total_seconds():g}s"
        shown.add_row(spike.name, spike.topic, spike.dataset.name, trigger, spike.version)
    return shown


def next_steps(path: Path, spike: Spike, source_topic: str) -> str:
    events = f"--replay FILE.jsonl --topic {spike.topic}"
    if source_topic in MAKERS:
        like = spike.topic if spike.topic == source_topic else f"{spike.topic}={source_topic}"
        events = f"--topics {like} --records 1000   (your own: {events})"
    return (
        f"wrote {path}: topic {spike.topic}, dataset {spike.dataset.name}\n"
        "Next:\n"
        f"  1. edit {path}: comments, description, schema, filter\n"
        "  2. spike applications   (checks every file)\n"
        f"  3. spike produce {events}\n"
        "  4. spike down && spike up   (starts a driver for it)"
    )
