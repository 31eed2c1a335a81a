"""`spike read`: look into a dataset from a shell."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate
from typing import Annotated, assert_never

import pandas as pd
import typer
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spike_pipelines import read as reading
from spike_pipelines.domain.errors import InvalidSpec, SpikeError
from spike_pipelines.domain.spike import dead_letters_of

HOUR_FORMATS = ("%Y-%m-%dT%H", "%Y-%m-%d-%H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")

WIDEST = 32  # of a cell of the table; nested values are long
PADDING = 3  # beside each column, its rule included
WHY = ("reason", "detail", "routed_timestamp")  # columns that dead letters have, and rows seldom
TABLE_ROWS = 50  # on a screen, unless asked for more


class Output(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"  # one object a line
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    app.command("read")(read)


def read(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    hour: Annotated[
        datetime | None,
        typer.Option(
            formats=list(HOUR_FORMATS), help="UTC hour, as 2026-11-22T21 or Dagster's 2026-11-22-21:00."
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", "-c", help="Only this column; repeatable.")
    ] = None,
    *,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows.", show_default="50 in a table, else all")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="What readers saw then: a sequence number, or a time (ISO 8601, UTC).")
    ] = None,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="The dead letters instead.")] = False,
    hours: Annotated[
        bool, typer.Option("--hours", help="Rows, files and bytes of each hour instead.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
) -> None:
    """Print rows of a dataset; `-o parquet` writes the bytes of a file to standard output."""
    try:
        moment = None if as_of is None else parse_moment(as_of)
        if hours:
            name = dead_letters_of(dataset) if dead_letters else dataset
            frame = reading.hours(name, as_of=moment).reset_index()
        else:
            ask = reading.dead_letters if dead_letters else reading.read
            most = TABLE_ROWS if limit is None and output is Output.TABLE else limit
            frame = ask(dataset, hour, column, as_of=moment, limit=most)
    except SpikeError as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
    show(frame, output)


def parse_moment(text: str) -> reading.Moment:
    """A sequence number or a time. Raises `InvalidSpec`."""
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidSpec(
            f"--as-of {text}: neither a sequence number nor a time like 2026-11-22T21:30"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def show(frame: pd.DataFrame, output: Output) -> None:
    match output:
        case Output.TABLE:
            console = Console()
            console.print(table(frame, console.width))
        case Output.CSV:
            frame.to_csv(sys.stdout, index=False)
        case Output.JSON:
            sys.stdout.write(
                frame.to_json(orient="records", lines=True, date_format="iso", default_handler=_text)
            )
        case Output.PARQUET:
            frame.to_parquet(sys.stdout.buffer, index=False)
        case _:
            assert_never(output)


def table(frame: pd.DataFrame, width: int) -> Table:
    """As many whole columns as the width holds, at least one; the caption names the others."""
    first = _first_of(frame)
    order = sorted(frame.columns, key=lambda name: name not in first)
    cells = {str(name): [_cut(_text(value)) for value in frame[name]] for name in order}
    widths = [max(map(cell_len, (name, *column))) + PADDING for name, column in cells.items()]
    fitting = max(1, sum(total < width for total in accumulate(widths)))
    shown = Table(box=SIMPLE, caption=_caption(frame, list(cells)[fitting:]), caption_justify="left")
    for name in list(cells)[:fitting]:
        shown.add_column(name, overflow="ellipsis", no_wrap=True)
    for row in zip(*list(cells.values())[:fitting], strict=True):
        shown.add_row(*map(Text, row))
    return shown


def _first_of(frame: pd.DataFrame) -> frozenset[str]:
    """Of dead letters, why they are that."""
    return frozenset(WHY[:2]) if set(WHY) <= set(frame.columns) else frozenset()


def _caption(frame: pd.DataFrame, hidden: list[str]) -> str:
    rows = f"rows: {len(frame)}"
    return f"{rows}; not shown: {', '.join(hidden)} (-c NAME, or -o json)" if hidden else rows


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
