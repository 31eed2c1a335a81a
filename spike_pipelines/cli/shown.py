"""Batches and operations as a person reads them."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spike_pipelines.domain.batch import Batch, FileState, hour_text
from spike_pipelines.domain.operations import Operation
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import Swap
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import BatchRecord

PIPED_WIDTH = 160
FILES_SHOWN = 20
_COLOURS = {"committed": "green", "held": "red", "aborted": "dim", "superseded": "dim"}


def wide() -> Console:
    """Lines stay in one piece for grep."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def state_of(batch: Batch) -> str:
    return "superseded" if batch.removed is not None else batch.state.value


def batches_table(batches: Iterable[Batch]) -> Table:
    shown = Table(box=box.SIMPLE)
    shown.add_column("batch", justify="right")
    for heading in ("state", "epoch", "staged", "read", "final", "dead", "filtered", "ranges"):
        shown.add_column(heading, overflow="fold")
    for b in batches:
        c, state = b.counts, state_of(b)
        counts = (f"{n:,}" for n in (c.read, c.final, c.dead_letter, c.filtered))
        shown.add_row(
            str(b.number),
            Text("lost" if b.lost and state == "committed" else state, style=_COLOURS.get(state, "yellow")),
            str(b.epoch),
            f"{b.staged_at:%m-%d %H:%M:%S}",
            *counts,
            " ".join(map(str, b.ranges)),
        )
    return shown


def operations_table(operations: Iterable[Operation], swaps: Iterable[Swap], limit: int) -> Table:
    """The newest of both. Swaps (replays and backfills) have numbers of their own."""
    shown = Table(box=box.SIMPLE)
    shown.add_column("", justify="right")
    for heading in ("at", "spike", "what", "who", "why", "summary"):
        shown.add_column(heading, overflow="fold")
    rows = [
        (o.at, str(o.id), o.spike, str(o.kind), o.author.who, o.author.why, o.summary) for o in operations
    ]
    rows += [
        (w.planned_at, f"swap {w.number}", w.spike, str(w.kind), w.who, w.why, _of_swap(w)) for w in swaps
    ]
    for at, number, *cells in sorted(rows, key=lambda row: row[0], reverse=True)[:limit]:
        shown.add_row(number, *map(Text, (f"{at:%Y-%m-%d %H:%M:%S}", *cells)))
    return shown


def _of_swap(swap: Swap) -> str:
    hour = hour_text(swap.scope.since) if swap.scope.since else None
    return ", ".join(part for part in (swap.state, hour, swap.scope.reason, swap.problem) if part)


def describe(record: BatchRecord, spike: Spike | None) -> str:
    """One batch from its driver to its files."""
    b, c = record.batch, record.batch.counts
    lines = [
        f"batch {b.number} of {b.spike}: {state_of(b)}",
        f"  read by        epoch {b.epoch}, {record.driver or 'no driver'}, version {b.application_version}",
        f"  staged         {b.staged_at:%Y-%m-%d %H:%M:%S} UTC",
        *(f"  range          {r}" for r in b.ranges),
        f"  records        {c.read:,} read = {c.final:,} final + {c.dead_letter:,} dead letters + "
        f"{c.filtered:,} filtered" + (f" + {c.unaccounted:,} unaccounted for" if c.unaccounted else ""),
    ]
    if b.lost:
        lines.append("  lost           these offsets were declared lost: there is no record of them")
    if b.committed_at:
        run = f"Dagster run {record.run_id}" if record.run_id else "no Dagster run"
        lines.append(
            f"  committed      {b.committed_at:%Y-%m-%d %H:%M:%S} UTC as {record.dataset} "
            f"#{record.sequence} by {run}"
        )
    if b.removed is not None:
        lines.append(f"  superseded     at #{b.removed}")
    if b.held_reason:
        lines.append(f"  held           {b.held_reason}")
    lines += [
        f"  operation {o.id}    {o.at:%Y-%m-%d %H:%M:%S} {o.kind} by {o.author.who}: {o.author.why}"
        for o in record.operations
    ]
    lines += [f"  file           {file_line(f, spike)}" for f in record.files[:FILES_SHOWN]]
    if len(record.files) > FILES_SHOWN:
        lines.append(f"                 and {len(record.files) - FILES_SHOWN} more")
    return "\n".join(lines)


def file_line(file: LedgerFile, spike: Spike | None) -> str:
    final = file.state in (FileState.LIVE, FileState.SUPERSEDED)
    key = (file.final_key if final else None) or file.staging_key
    bucket = "" if spike is None else f"s3://{(spike.final if final else spike.staging).bucket}/"
    rows = count_of(file.rows, "row")
    return f"{file.kind}, {file.state}, hour {hour_text(file.hour)}, {rows}: {bucket}{key}"
