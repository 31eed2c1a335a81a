"""What `spike up` and `spike status` show: a table as a pure function of rows and parts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from spike_pipelines.stack.fitting import Columns, hidden
from spike_pipelines.stack.snapshot import PartSnapshot, PartState

GOOD = frozenset({"OK", "IDLE", "RUNNING"})
PASSING = frozenset({"STARTING", "CATCHING_UP", "WAITING", "RETRYING", "UNKNOWN", "BACKPRESSURED"})


COLUMNS = Columns(
    ("spike", "verdict", "epoch", "committed", "lag", "lag s", "rec/s", "commit"),
    words=frozenset({"spike", "verdict"}),
    spare=("epoch", "committed", "rec/s", "lag"),
)


@dataclass(frozen=True, slots=True)
class SpikeRow:
    """One spike at one moment. `verdict` is what its driver does if that is not simply running, else how its
    lag is. `committed` is the sum of its partitions' committed ends, `lag` counts
    offsets, `records_per_second` is the rate of commits, `commit_age_seconds` the time since the last
    one. None: not known. `problem` is a sentence for a person."""

    spike: str
    verdict: str
    epoch: int | None = None
    committed: int | None = None
    lag: int | None = None
    lag_seconds: float | None = None
    records_per_second: float | None = None
    commit_age_seconds: float | None = None
    problem: str | None = None


class StatusSource(Protocol):
    """Where the rows come from. `rows` answers within about a second, also while a part is down: what
    could not be asked is None, with the verdict UNKNOWN."""

    def rows(self) -> tuple[SpikeRow, ...]: ...


def table(
    rows: Iterable[SpikeRow],
    parts: Iterable[PartSnapshot],
    *,
    link: str | None = None,
    brief: bool = False,
    width: int | None = None,
) -> Table:
    """One line a spike; below it what is to be said of them (only the first sentence of each if `brief`),
    the parts' health and Dagster's address. Columns for which `width` is too small are left out."""
    rows = tuple(replace(row, problem=_first_sentence(row.problem)) if brief else row for row in rows)
    cells = [
        (
            row.spike,
            Text(row.verdict, style=_colour(row.verdict)),
            _number(row.epoch),
            _number(row.committed),
            _number(row.lag),
            _number(row.lag_seconds),
            _number(row.records_per_second),
            _age(row.commit_age_seconds),
        )
        for row in rows
    ]
    shown, left_out = COLUMNS.fitted(cells, width, SIMPLE_HEAD)
    shown.caption, shown.caption_justify = hidden(left_out) + _caption(rows, parts, link), "left"
    return shown


def parts_line(parts: Iterable[PartSnapshot]) -> Text:
    """`postgres ● s3 ● kafka ◌ starting`: ready parts only by name, others with what they are doing."""
    line = Text()
    for part in parts:
        ready = part.state in (PartState.READY, PartState.ENDED)
        colour = "green" if ready else "yellow" if part.problem is None else "red"
        line.append(f"{part.name} ").append("●" if ready else f"◌ {_doing(part)}", style=colour)
        if not ready and part.problem:
            line.append(f" ({part.problem})", style=colour)
        line.append("  ")
    line.rstrip()
    return line


def _doing(part: PartSnapshot) -> str:
    asked = part.state is PartState.STOPPED
    return f"stopped on request: spike stack start {part.name}" if asked else part.state


def _caption(rows: Iterable[SpikeRow], parts: Iterable[PartSnapshot], link: str | None) -> Text:
    caption, parts = Text(), tuple(parts)
    for row in rows:
        if row.problem:
            caption.append(f"{row.spike}: {row.problem}\n", style=_colour(row.verdict))
    caption.append_text(parts_line(parts))
    if link is None:
        return caption
    own = "   stop: Ctrl-C or `spike down`" if parts else ""
    return caption.append(f"\nDagster: {link}{own}")


def _first_sentence(text: str | None) -> str | None:
    return text and text.split(". ")[0].splitlines()[0]


def _colour(verdict: str) -> str:
    return "green" if verdict in GOOD else "yellow" if verdict in PASSING else "red"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
