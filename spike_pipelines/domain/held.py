"""What becomes of a held batch that a person releases (I8)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spike_pipelines.domain.batch import LIVE_LANE, Batch, BatchState, Counts, FileKind
from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.offsets import total
from spike_pipelines.domain.promotion import LedgerFile


@dataclass(frozen=True, slots=True)
class Recount:
    """What the appender counted: `rows` by file id, and counts that add up with `unaccounted`."""

    counts: Counts
    rows: Mapping[int, int]


def recount(
    batch: Batch, files: Iterable[LedgerFile], footer_rows: Mapping[int, int], *, exact_topic: bool
) -> Recount:
    """The counts as they stand once the difference is let pass.

    Rows are what is in the files, whatever the driver said. Where offsets are records (`exact_topic`),
    all of the ranges was to be read. `unaccounted` is what is then missing; below 0 it is too much.
    """
    files = tuple(files)
    found = {kind: sum(footer_rows[f.id] for f in files if f.kind is kind) for kind in FileKind}
    final, dead = found[FileKind.FINAL], found[FileKind.DEAD_LETTER]
    offsets = total(batch.ranges)
    read = offsets if exact_topic else min(batch.counts.read, offsets)
    filtered = batch.counts.filtered
    return Recount(Counts(read, final, dead, filtered, read - final - dead - filtered), footer_rows)


def require_held(batch: Batch | None, number: int, spike: str) -> Batch:
    """The batch, if it is this spike's and held. Raises `Refused`, saying what it is instead."""
    if batch is None or batch.spike != spike or batch.lane != LIVE_LANE:
        raise Refused(f"{spike} has no batch {number}: `spike batch list {spike}` shows those there are")
    if batch.state is not BatchState.HELD:
        state = "superseded by a rewind" if batch.removed is not None else batch.state.value
        raise Refused(f"batch {number} of {spike} is {state}, not held: nothing is to be decided")
    return batch
