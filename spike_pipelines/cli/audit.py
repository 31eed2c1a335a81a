"""`spike audit`: every invariant with its figure; exit status 1 on any breach or anything not observed."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from spike_pipelines.platform import Platform
from spike_pipelines.services.audit import Finding

SHOWN = 10  # breaches of one invariant in the table; JSON has all


def audit(
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o")] = "table",
    deep: Annotated[bool, typer.Option(help="Also read every record's partition and offset.")] = False,
) -> None:
    """Recompute the invariants from Kafka, S3, Iceberg and the ledger."""
    platform = Platform()
    findings = list(platform.auditor.run())
    if deep:
        findings += platform.deep_auditor.run()
    if output == "json":
        typer.echo(json.dumps([asdict(f) | {"ok": f.ok} for f in findings], indent=2))
    else:
        Console().print(table(findings))
        typer.echo(summary(findings))
    raise typer.Exit(0 if all(f.ok for f in findings) else 1)


def table(findings: list[Finding]) -> Table:
    shown = Table()
    for name in ("", "promise", "figure", "verdict"):
        shown.add_column(name)
    for f in findings:
        verdict = "[green]ok[/]" if f.ok else "[red]BROKEN[/]" if f.observed else "[yellow]UNKNOWN[/]"
        shown.add_row(f.invariant, f.promise, f.figure, verdict)
        for breach in f.breaches[:SHOWN]:
            shown.add_row("", f"[red]{breach}[/]", "", "")
        if len(f.breaches) > SHOWN:
            shown.add_row("", f"[red]and {len(f.breaches) - SHOWN} more[/]", "", "")
    return shown


def summary(findings: list[Finding]) -> str:
    broken = [f.invariant for f in findings if f.breaches]
    unknown = [f.invariant for f in findings if not f.observed]
    if broken:
        return f"BROKEN: {', '.join(broken)}"
    return f"not observed: {', '.join(unknown)}" if unknown else "all invariants hold"


def register(app: typer.Typer) -> None:
    app.command()(audit)
