"""`spike lag` and `spike ack`: how far behind, over time, and the one alarm that a person must put out."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Literal

import plotext
import typer
from pydantic import TypeAdapter
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.shown import wide
from spike_pipelines.domain.lag import LagReport, human
from spike_pipelines.domain.lag_history import Sample
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.services.judgements import Grade, Seen
from spike_pipelines.services.judgements import lag as grade
from spike_pipelines.stack.fitting import Columns, hidden

REFRESH_SECONDS = 5.0
MOST_PARTITIONS = 24
PLOT_LINES = 12
_REPORTS = TypeAdapter(Mapping[str, LagReport])
FLEET = Columns(
    (
        "spike",
        "verdict",
        "lag",
        "unstaged",
        "unread",
        "behind",
        "in/s",
        "out/s",
        "caught up",
        "loss in",
        "commit",
    ),
    words=frozenset({"spike", "verdict"}),
    spare=("commit", "unread", "unstaged", "in/s", "out/s", "caught up", "lag"),
)
PARTITIONS = Columns(
    ("partition", "start", "committed", "staged", "end", "lag", "behind", "lost", "loss in"),
    spare=("staged", "start", "end", "committed"),
)
_COLOURS = {Grade.PASSED: "green", Grade.WARN: "yellow", Grade.ERROR: "red"}


def lag(
    name: Annotated[str | None, typer.Argument(help="One spike: with its partitions and a plot.")] = None,
    *,
    watch: Annotated[bool, typer.Option(help="Look again every few seconds until Ctrl-C.")] = False,
    hours: Annotated[float, typer.Option(min=0.1, max=168, help="How far back the plot goes.")] = 1.0,
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o")] = "table",
) -> None:
    """How far behind every spike is, why, and when records will be lost."""
    platform = Platform()
    if name is not None:
        known(platform.spikes, name)
    if output == "json":
        typer.echo(as_json(look(platform, name)))
        return
    console = wide()
    if not watch:
        console.print(shown(platform, name, hours, console.width))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            live.update(shown(platform, name, hours, console.width), refresh=True)
            time.sleep(REFRESH_SECONDS)


def ack(
    name: str,
    *,
    why: Annotated[str, typer.Option(help="What is known of the loss, for whoever reads it later.")],
    who: Annotated[str | None, typer.Option(help="Who says so.", show_default="you@this host")] = None,
) -> None:
    """Acknowledge that records were lost, so that the verdict may be something else than LOST again."""
    platform = Platform()
    known(platform.spikes, name)
    loss = platform.ledger.acknowledge_loss(name, who or me(), why)
    if loss is None:
        print(f"{name}: no loss stands open")
        return
    lost = count_of(loss.records, "record")
    print(f"{name}: acknowledged the loss of {lost}, first seen {loss.seen_at:%F %T}Z")
    print(f"  {loss.detail}")
    seen = look(platform, name)[name].partitions
    if any(p.lost for p in seen):
        print("  The log still starts beyond what was read, so it is LOST until `spike resume`.")
    if any(p.cut_off for p in seen):
        print("  The log still ends below what is staged, so it is LOST until `spike rewind`.")


def look(platform: Platform, name: str | None) -> Mapping[str, LagReport]:
    reports = platform.observer.lag()
    return reports if name is None else {name: reports[name]}


def as_json(reports: Mapping[str, LagReport]) -> str:
    return json.dumps(_REPORTS.dump_python(reports, mode="json"), indent=2)


def shown(platform: Platform, name: str | None, hours: float, width: int) -> Group:
    reports = look(platform, name)
    coloured = {n: _COLOURS[grade(Seen(platform.spikes[n], r)).grade] for n, r in reports.items()}
    if name is None:
        return Group(*fleet(reports, coloured, width), sentences(reports, coloured))
    since = (reports[name].at or platform.ledger.now()) - timedelta(hours=hours)
    samples = platform.ledger.lag_samples(name, since)
    return Group(
        *fleet(reports, coloured, width),
        sentences(reports, coloured, good=True),
        *partitions(reports[name], width),
        Text.from_ansi(plot(samples, width)),
    )


def fleet(
    reports: Mapping[str, LagReport], coloured: Mapping[str, str], width: int | None = None
) -> tuple[Table, Text]:
    """One line a spike, the nearest to loss first; below it what is left out at this width."""
    rows = [
        (
            name,
            Text(r.verdict, style=coloured[name]),
            _count(r.lag if r.observed else None),
            _count(r.staged_lag if r.observed else None),
            _count(r.read_lag),
            _time(r.lag_seconds),
            _count(r.trend.produced_per_second if r.trend else None),
            _count(r.trend.committed_per_second if r.trend else None),
            _time(r.eta_seconds),
            _time(r.time_to_loss_seconds),
            _time(r.commit_age_seconds),
        )
        for name, r in sorted(reports.items(), key=lambda item: urgency(*item))
    ]
    table, left_out = FLEET.fitted(rows, width)
    return table, hidden(left_out)


def urgency(name: str, report: LagReport) -> tuple[float, float, str]:
    return (
        report.time_to_loss_seconds if report.time_to_loss_seconds is not None else float("inf"),
        -(report.lag_seconds or 0.0),
        name,
    )


def sentences(reports: Mapping[str, LagReport], coloured: Mapping[str, str], *, good: bool = False) -> Text:
    """What is to be said of each spike that is not well."""
    text = Text()
    for name, r in sorted(reports.items(), key=lambda item: urgency(*item)):
        if good or coloured[name] != "green":
            text.append(f"{name}: {r.sentence}\n", style=coloured[name])
        if good and r.created_at:
            opened = f", its driver's life began {r.epoch_opened_at:%F %T}Z" if r.epoch_opened_at else ""
            text.append(f"spike created {r.created_at:%F %T}Z{opened}\n")
    return text


def partitions(report: LagReport, width: int | None = None) -> tuple[Table, Text]:
    """The worst first; of many only those. What is cut off at a log's end is lost too."""
    ordered = sorted(report.partitions, key=lambda p: (-p.lost - p.cut_off, -p.lag, p.partition.index))
    rows = [
        (
            str(p.partition.index),
            *map(_count, (p.log_start, p.committed_end, p.staged_end, p.log_end, p.lag)),
            _time(p.lag_seconds),
            _count(p.lost + p.cut_off),
            _time(p.time_to_loss_seconds),
        )
        for p in ordered[:MOST_PARTITIONS]
    ]
    table, left_out = PARTITIONS.fitted(rows, width)
    more = len(ordered) - MOST_PARTITIONS
    told = f"and {count_of(more, 'partition')} more\n" if more > 0 else ""
    return table, Text(told, style="dim") + hidden(left_out)


def plot(samples: Sequence[Sample], width: int) -> str:
    """Seconds behind and records behind, over time."""
    known = [s for s in samples if s.lag is not None]
    if len(known) < 2:
        return "no history yet: the lag sensor writes a point every minute"
    last = known[-1].at
    minutes = [(s.at - last).total_seconds() / 60 for s in known]
    seconds = [(m, s.lag_seconds) for m, s in zip(minutes, known, strict=True) if s.lag_seconds is not None]
    records = [(m, float(s.lag or 0)) for m, s in zip(minutes, known, strict=True)]
    return "\n".join(
        _curve(points, title, width)
        for points, title in ((seconds, "seconds behind"), (records, "records behind"))
    )


def _curve(points: Iterable[tuple[float, float]], title: str, width: int) -> str:
    known = tuple(points)
    if not known:
        return f"{title}: not known at any time of this plot"
    x, y = zip(*known, strict=True)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(width, PLOT_LINES)
    plotext.title(f"{title}, over minutes")
    plotext.ylim(0, max(*y, 1.0))
    plotext.plot(x, y, marker="braille")
    return str(plotext.build())


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else human(seconds)


def register(app: typer.Typer) -> None:
    app.command("lag")(lag)
    app.command("ack")(ack)
