"""`spike retain`: delete what nobody can need any more, as the hourly schedule does."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spike_pipelines.domain.retention import Removal
from spike_pipelines.platform import Platform

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def retain(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")] = False
) -> None:
    """Remove orphaned staging, superseded files, copies of aborted intents and old snapshots.

    Backfills and replays whose process died are brought to their end first, or given up.
    """
    found, platform = [], Platform()
    if not dry_run:
        for swap in platform.swapper.finish_left(platform.spikes.values()):
            typer.echo(f"{swap}: {swap.state}", err=True)
    for removal in platform.retainer.run(dry_run=dry_run):
        found.append(removal)
        typer.echo(f"{removal.spike}: {removal.kind}: {removal.objects:,}", err=True)
    Console().print(table(found, dry_run=dry_run))


def table(found: Iterable[Removal], *, dry_run: bool) -> Table:
    shown = Table(caption="would be removed" if dry_run else "removed")
    for column in ("spike", "what", "objects", "bytes", "stay"):
        shown.add_column(column, justify="left" if column in ("spike", "what") else "right")
    for r in found:
        shown.add_row(r.spike, r.kind, f"{r.objects:,}", size(r.size), f"{r.kept:,}" if r.kept else "")
    return shown


def size(count: int) -> str:
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:,.0f} {UNITS[unit]}"


def register(app: typer.Typer) -> None:
    app.command()(retain)
