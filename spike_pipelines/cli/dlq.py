"""`spike dlq …`: records that could not be read, and reading them again."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.read import HOUR_FORMATS
from spike_pipelines.domain.batch import hour_of, hour_text
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.swap import Scope
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.services.replay import Replayed

HourOption = Annotated[
    datetime | None,
    typer.Option(formats=list(HOUR_FORMATS), help="UTC hour, as 2026-11-22T21; alone: this hour only."),
]
ToOption = Annotated[
    datetime | None, typer.Option(formats=list(HOUR_FORMATS), help="Up to this UTC hour, it included.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Only dead letters of this reason.")]


def list_(
    name: Annotated[str, typer.Argument(help="Name of the spike.")],
    hour: HourOption = None,
    to: ToOption = None,
    reason: ReasonOption = None,
) -> None:
    """Dead letters by hour and reason, with one of each."""
    platform = Platform()
    groups = platform.replayer.groups(known(platform.spikes, name), scope(hour, to, reason))
    table = Table(caption=f"dead letters: {sum(g.records for g in groups):,}")
    for column in ("hour (UTC)", "reason", "records", "detail of one", "bytes of one"):
        table.add_column(column, overflow="fold" if column == "detail of one" else "ellipsis")
    for g in groups:
        sample = "null" if g.sample.sample is None else g.sample.sample.decode(errors="backslashreplace")
        cells = (hour_text(g.hour), g.reason, f"{g.records:,}", g.sample.detail or "", sample)
        table.add_row(*map(Text, cells))
    Console().print(table)


def replay(
    name: Annotated[str, typer.Argument(help="Name of the spike.")],
    hour: HourOption = None,
    to: ToOption = None,
    reason: ReasonOption = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")
    ] = False,
    why: Annotated[str | None, typer.Option(help="What was mended; it is kept with the swap.")] = None,
    who: Annotated[str | None, typer.Option(help="Who asks.", show_default="you@this-host")] = None,
) -> None:
    """Parse dead letters again with the application file as it is now, and swap the outcome in."""
    platform = Platform()
    spike, chosen = known(platform.spikes, name), scope(hour, to, reason)
    if dry_run:
        tell(platform.replayer.rehearse(spike, chosen), "would become")
        return
    if not why:
        raise InvalidSpec("say what was mended with --why …, or look first with --dry-run")
    done = platform.replayer.replay(spike, chosen, who=who or me(), why=why)
    tell(done, "became")
    if why_not := platform.publisher.show(spike):
        typer.echo(f"committed; the next appender run shows it to readers: {why_not}")


def tell(done: Replayed | None, verb: str) -> None:
    if done is None:
        typer.echo("there are no such dead letters")
        return
    for swap in done.resumed:
        typer.echo(f"found {swap} unfinished: {swap.state}" + (f", {swap.problem}" if swap.problem else ""))
    still = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.still.items()))
    typer.echo(
        f"{count_of(done.read, 'dead letter')} {verb} {count_of(done.final, 'row')}, "
        f"{done.filtered:,} filtered, {count_of(sum(done.still.values()), 'dead letter')}"
        + (f" ({still})" if still else "")
    )
    if done.swap is not None:
        typer.echo(f"swap {done.swap.number}, batch {done.swap.batch}, {done.swap.state}")


def scope(hour: datetime | None, to: datetime | None, reason: str | None) -> Scope:
    """One hour, or those from `hour` to `to`, both included. Raises `InvalidSpec`."""
    since = None if hour is None else _utc(hour)
    last = since if to is None else _utc(to)
    if since is not None and last is not None and last < since:
        raise InvalidSpec(f"--to {hour_text(last)} is before --hour {hour_text(since)}")
    return Scope(since, None if last is None else last + timedelta(hours=1), reason)


def _utc(hour: datetime) -> datetime:
    return hour_of(hour.replace(tzinfo=UTC))


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Dead letters: look at them, parse them again.", no_args_is_help=True)
    commands.command("list")(list_)
    commands.command("replay")(replay)
    app.add_typer(commands, name="dlq")
