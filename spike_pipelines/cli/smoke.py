"""`spike smoke`: proves on this machine that faults lose and double nothing."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spike_pipelines.cli import ending
from spike_pipelines.cli.audit import table
from spike_pipelines.stack.smoke import Plan
from spike_pipelines.stack.smoke import smoke as run


def smoke(
    records: Annotated[int, typer.Option(min=1_000, help="Records to each topic.")] = 200_000,
    rate: Annotated[float, typer.Option(min=1, help="Records per second and topic.")] = 3_000.0,
    keep: Annotated[bool, typer.Option(help="Keep the scratch folder with its data and logs.")] = False,
) -> None:
    """Run everything on scratch data, kill a driver and the appender midway, and count every record."""
    ending.interrupt_once()
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="spike-smoke-"))
    summary = run(folder, Plan(records, rate), lambda line: console.print(line, highlight=False))
    console.print(table(summary.findings))
    console.print(summary.line(), highlight=False, soft_wrap=True)
    if not summary.ok or keep:
        console.print(f"data and logs are in {folder}", highlight=False)
        raise typer.Exit(0 if summary.ok else 1)
    shutil.rmtree(folder)


def register(app: typer.Typer) -> None:
    app.command()(smoke)
