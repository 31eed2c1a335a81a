"""`spike chaos`: faults by the hundred on scratch data, and the proof that they broke nothing."""

import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spike_pipelines.cli import ending
from spike_pipelines.cli.audit import table
from spike_pipelines.stack.chaos.report import faults_table, records_table
from spike_pipelines.stack.chaos.run import Plan
from spike_pipelines.stack.chaos.run import chaos as run

SHOWN = 30  # breaches; the JSON report has all
WIDTH = 110


def chaos(  # noqa: PLR0917  # each is an option; typer passes them by name
    seed: Annotated[int, typer.Option(help="The same seed throws the same faults in the same order.")] = 1,
    faults: Annotated[int, typer.Option(min=1, help="Faults to throw; 510 are 30 of each kind.")] = 510,
    spikes: Annotated[int, typer.Option(min=1, help="How many of the application files.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Records per second and topic.")] = 100.0,
    pace: Annotated[float, typer.Option(min=0.5, help="Seconds between two faults, at least.")] = 3.0,
    report: Annotated[Path | None, typer.Option(help="Write everything there as JSON.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the scratch folder with its data and logs.")] = False,
) -> None:
    """Kill, freeze, delay and cut every part of a scratch stack in turn, and hold every record to account."""
    ending.interrupt_once()
    console = Console()
    console.width = max(console.width, WIDTH)
    folder = Path(tempfile.mkdtemp(prefix="spike-chaos-"))
    done = run(folder, Plan(seed, faults, spikes, rate, pace), lambda line: _tell(console, line))
    if report is not None:
        done.write(report)
    console.print(table(done.findings))
    console.print(records_table(done))
    console.print(faults_table(done))
    for breach in done.breaches[:SHOWN]:
        console.print(breach, style="red", highlight=False, markup=False, soft_wrap=True)
    if done.breaches or keep:
        console.print(f"data and logs are in {folder}", highlight=False)
    else:
        shutil.rmtree(folder)
    console.print(done.sentence(), highlight=False, soft_wrap=True)
    raise typer.Exit(1 if done.breaches else 0)


def _tell(console: Console, line: str) -> None:
    now = datetime.now().astimezone()
    console.print(f"{now:%H:%M:%S} {line}", highlight=False, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    app.command()(chaos)
