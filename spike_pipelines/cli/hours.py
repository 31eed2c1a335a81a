"""`spike hours`: which hours of a dataset are complete. `spike affected`: which a version wrote."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from spike_pipelines.cli.shown import file_line, wide
from spike_pipelines.domain.batch import hour_text
from spike_pipelines.domain.closed import behind, due_at, hour_ranges
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.ports import HourBook, WrittenHour

Output = Annotated[Literal["table", "json"], typer.Option("--output", "-o")]


def register(app: typer.Typer) -> None:
    app.command("hours")(hours)
    app.command("affected")(affected)


def hours(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset, or of its spike.")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 24,
    late: Annotated[bool, typer.Option("--late", help="Name the late files too.")] = False,
    output: Output = "table",
) -> None:
    """Hours of a dataset, newest first: rows, files, closed or what it waits for, late files."""
    platform = Platform()
    spike = _of(platform, dataset)
    books = platform.ledger.hour_books(spike.dataset.name, limit)
    view = platform.ledger.hours_view().datasets.get(spike.dataset.name)
    positions = view.positions if view else {}
    if output == "json":
        typer.echo(json.dumps([_as_json(b, spike, positions) for b in books], indent=2))
        return
    wide().print(_table(books, spike, positions))
    if late:
        for file in platform.ledger.late_files(spike.dataset.name, [b.hour for b in books if b.late_files]):
            typer.echo(file_line(file, spike))


def _of(platform: Platform, name: str) -> Spike:
    for spike in platform.spikes.values():
        if name in (spike.name, spike.dataset.name):
            return spike
    known = ", ".join(sorted(spike.dataset.name for spike in platform.spikes.values()))
    raise InvalidSpec(f"no dataset is called {name!r}: there are {known}")


def standing(book: HourBook, spike: Spike, positions: Mapping[Partition, Position]) -> str:
    """Closed when, or what it waits for."""
    if book.closing is None:
        return f"open, due {due_at(book.hour, spike.dataset.lateness):%m-%d %H:%M}"
    if book.closing.closed_at:
        return f"closed {book.closing.closed_at:%m-%d %H:%M:%S}"
    waits = behind(book.closing.ends, positions)
    more = f" and {count_of(len(waits) - 2, 'partition')} more" if len(waits) > 2 else ""
    return f"waits: {'; '.join(map(str, waits[:2])) or 'closed at the next look'}{more}"


def _table(books: Sequence[HourBook], spike: Spike, positions: Mapping[Partition, Position]) -> Table:
    shown = Table(
        box=box.SIMPLE, caption=f"UTC, as readers see them at #{books[0].sequence}" if books else None
    )
    shown.add_column("hour", no_wrap=True)
    for heading in ("rows", "dead", "files", "late files", "late records"):
        shown.add_column(heading, justify="right")
    shown.add_column("state", overflow="fold")
    for b in books:
        counts = (b.rows, b.dead_letters, b.files, b.late_files, b.late_records)
        closed = b.closing is not None and b.closing.closed_at is not None
        style = ("yellow" if b.late_files else "green") if closed else ""
        state = Text(standing(b, spike, positions), style=style)
        shown.add_row(hour_text(b.hour), *(f"{n:,}" for n in counts), state)
    return shown


def _as_json(book: HourBook, spike: Spike, positions: Mapping[Partition, Position]) -> dict[str, object]:
    closed = book.closing.closed_at if book.closing else None
    return {
        "hour": book.hour.isoformat(),
        "rows": book.rows,
        "dead_letters": book.dead_letters,
        "files": book.files,
        "bytes": book.size,
        "closed_at": closed.isoformat() if closed else None,
        "late_files": book.late_files,
        "late_records": book.late_records,
        "state": standing(book, spike, positions),
    }


def affected(
    name: Annotated[str | None, typer.Argument(help="Of the spike.", show_default="all")] = None,
    *,
    version: Annotated[str, typer.Option(help="Application version: `spike applications` has today's.")],
    output: Output = "table",
) -> None:
    """Hours of which an application version wrote live files or filtered records, as ranges for
    `spike backfill` (both ends in)."""
    platform = Platform()
    if name is not None and name not in platform.spikes:
        raise InvalidSpec(f"no spike is called {name!r}: there are {', '.join(sorted(platform.spikes))}")
    written = platform.ledger.written_hours(name)
    mine = [w for w in written if w.version == version]
    if not mine:
        raise Refused(f"nothing that there is was made by version {version}: {versions(written)}")
    if output == "json":
        typer.echo(json.dumps(list(_ranges(mine)), indent=2))
    else:
        typer.echo("\n".join(_commands(mine)))


def versions(written: Iterable[WrittenHour]) -> str:
    """Those there are, by spike."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for w in written:
        found[w.spike][w.version] = found[w.spike].get(w.version, 0) + 1
    told = (
        f"{spike}: "
        + ", ".join(f"{version} ({count_of(hours, 'hour')})" for version, hours in by_version.items())
        for spike, by_version in sorted(found.items())
    )
    return "; ".join(told) or "there is nothing yet"


def _by_spike(written: Iterable[WrittenHour]) -> Mapping[str, list[WrittenHour]]:
    found: dict[str, list[WrittenHour]] = defaultdict(list)
    for w in written:
        found[w.spike].append(w)
    return found


def _commands(written: Iterable[WrittenHour]) -> Iterator[str]:
    for spike, mine in sorted(_by_spike(written).items()):
        files = count_of(sum(w.files for w in mine), "file")
        records = count_of(sum(w.records for w in mine), "record")
        hours = count_of(len({w.hour for w in mine}), "hour")
        filtered = sum(w.filtered for w in mine)
        more = f", {filtered:,} filtered" if filtered else ""
        yield f"# {spike}: {hours}, {records} in {files}{more}"
        for since, until in hour_ranges(w.hour for w in mine):
            yield f"spike backfill {spike} --from {hour_text(since)} --to {hour_text(until)}"


def _ranges(written: Iterable[WrittenHour]) -> Iterator[dict[str, object]]:
    for spike, mine in sorted(_by_spike(written).items()):
        for since, until in hour_ranges(w.hour for w in mine):
            inside = [w for w in mine if since <= w.hour <= until]
            yield {
                "spike": spike,
                "dataset": mine[0].dataset,
                "from": _text(since),
                "to": _text(until),
                "files": sum(w.files for w in inside),
                "records": sum(w.records for w in inside),
                "filtered": sum(w.filtered for w in inside),
            }


def _text(hour: datetime) -> str:
    return hour.isoformat()
