"""`spike batch`, `rewind`, `resume`, `operations`: what a person decides, audited with who and why."""

import secrets
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.shown import batches_table, describe, operations_table, wide
from spike_pipelines.domain.batch import BatchState, hour_text
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.operations import Author, Operation
from spike_pipelines.domain.rewind import parse_target
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.services.operate import Request, RewindPlan

Name = Annotated[str, typer.Argument(help="Of the spike.")]
Number = Annotated[int, typer.Argument(help="Of the batch: `spike batch list NAME` shows them.")]
Why = Annotated[str, typer.Option(help="Written down for ever.")]
Who = Annotated[str | None, typer.Option(help="Who decides this.", show_default="$USER@host")]


def register(app: typer.Typer) -> None:
    batch = typer.Typer(help="Look at batches, and decide on a held one.", no_args_is_help=True)
    batch.command("list")(list_batches)
    batch.command("show")(show)
    batch.command("release")(release)
    batch.command("discard")(discard)
    app.add_typer(batch, name="batch")
    app.command("rewind")(rewind)
    app.command("resume")(resume)
    app.command("operations")(operations)


def list_batches(name: Name, limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """The newest batches of a spike, newest first; a held one with its reason."""
    platform = Platform()
    known(platform.spikes, name)
    batches = platform.ledger.last_batches(name, limit)
    held = platform.ledger.held().get(name)
    if held and held.number not in {b.number for b in batches}:
        batches = (*batches, held)
    wide().print(batches_table(batches))
    if held:
        typer.echo(
            f"batch {held.number} is held: {held.held_reason}\nNext: spike batch show {name} {held.number}"
        )


def show(name: Name, number: Number) -> None:
    """All that is known of one batch, and what can be done about a held one."""
    platform = Platform()
    spike = known(platform.spikes, name)
    record = platform.ledger.record(number)
    if record is None or record.batch.spike != name:
        raise Refused(f"{name} has no batch {number}: `spike batch list {name}` shows those there are")
    typer.echo(describe(record, spike))
    if record.batch.state is BatchState.HELD:
        typer.echo(_ways_out(platform, spike, number))


def _ways_out(platform: Platform, spike: Spike, number: int) -> str:
    try:
        counts = platform.operator.count_again(spike, number).counts
        release = (
            f"  spike batch release {spike.name} {number} --why '…'\n"
            f"      promotes it with {counts.final:,} final and "
            f"{count_of(counts.dead_letter, 'dead-letter row')}, "
            f"{count_of(counts.unaccounted, 'record')} unaccounted for"
        )
    except Refused as problem:
        release = f"  (release is refused: {problem})"
    return (
        f"Next, one of:\n{release}\n  spike batch discard {spike.name} {number} --why '…'\n"
        "      gives it up with all that is staged behind it; the records are read again"
    )


def release(name: Name, number: Number, why: Why, who: Who = None) -> None:
    """Let a held batch be promoted as its files are; the difference is written down as unaccounted for."""
    platform = Platform()
    asked = request(who, why)
    _done(platform.operator.release(known(platform.spikes, name), number, asked))


def discard(name: Name, number: Number, why: Why, who: Who = None) -> None:
    """Give a held batch up, and all that is staged behind it: the records are read again."""
    platform = Platform()
    asked = request(who, why)
    _done(platform.operator.discard(known(platform.spikes, name), number, asked))


def rewind(
    name: Name,
    to: Annotated[
        str, typer.Option(help="earliest, a time (2026-11-22T21:00Z), or topic:partition:offset,…")
    ],
    why: Annotated[str | None, typer.Option(help="Written down for ever.")] = None,
    who: Who = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Take a spike back: what lies beyond is superseded, in one transaction, and read again."""
    if dry_run == (why is not None):
        raise InvalidSpec("spike rewind: give --dry-run to look, or --why to do it")
    target = parse_target(to)
    platform = Platform()
    spike = known(platform.spikes, name)
    if why is None:
        _print_plan(platform.operator.plan(spike, target))
        _print_swaps(platform, spike)
        return
    done = platform.operator.rewind(spike, target, request(who, why))
    if done is None:
        typer.echo(f"{name} is there already: nothing lies beyond {to}")
    else:
        _done(done)
        _print_swaps(platform, spike)


def _print_swaps(platform: Platform, spike: Spike) -> None:
    """Who rewinds waits for no backfill; and is told which ones that may cost."""
    for swap in platform.ledger.open_swaps(spike.name):
        hour = f" of {hour_text(swap.scope.since)}" if swap.scope.since else ""
        typer.echo(
            f"{swap}{hour} by {swap.who} is under way: it gives up if it replaces something of that; ask for "
            "it again afterwards"
        )


def resume(
    name: Name,
    why: Why,
    who: Who = None,
    *,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on behind what Kafka no longer has.")
    ] = False,
) -> None:
    """Free a blocked spike: what Kafka deleted before it was read, or with its topic, is declared lost."""
    if not accept_loss:
        raise InvalidSpec(
            "spike resume: say --accept-loss. Records that Kafka deleted are then declared lost, for ever"
        )
    platform = Platform()
    asked = request(who, why)
    _done(platform.operator.accept_loss(known(platform.spikes, name), asked))


def operations(
    name: Annotated[str | None, typer.Argument(help="Of the spike.", show_default="all")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
) -> None:
    """Who did what to the ledger, when and why, newest first."""
    ledger = Platform().ledger
    wide().print(operations_table(ledger.operations(name, limit), ledger.swaps(name, limit), limit))


def request(who: str | None, why: str) -> Request:
    author = Author(who or me(), why)
    return Request(f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}", author)


def _done(operation: Operation) -> None:
    typer.echo(f"operation {operation.id}: {operation.summary}")
    for move in operation.moves:
        typer.echo(f"  {move}")


def _print_plan(plan: RewindPlan) -> None:
    if not plan.moves:
        typer.echo("nothing lies beyond: a rewind would change nothing")
        return
    shown = Table()
    for heading in ("partition", "committed", "staged", "goes back to", "offsets read again"):
        shown.add_column(heading, justify="left" if heading == "partition" else "right")
    for m in plan.moves:
        again = max(m.staged_end, m.committed_end) - m.to
        shown.add_row(
            str(m.partition), f"{m.committed_end:,}", f"{m.staged_end:,}", f"{m.to:,}", f"{again:,}"
        )
    Console().print(shown)
    typer.echo(
        f"{len(plan.superseded)} committed batches would be superseded: readers miss their {plan.rows:,} "
        f"final rows until they are read again; {len(plan.aborted)} unfinished batches would be aborted"
    )
