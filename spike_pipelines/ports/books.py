"""What the ledger has written down, summed up for the audit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from spike_pipelines.domain.offsets import Break, Position
from spike_pipelines.domain.swap import SwapKind


@dataclass(frozen=True, slots=True)
class Coverage:
    """The committed ranges of one partition of a spike: how many there are, how many offsets they
    have, how many of those were declared lost, and every place where they do not cover
    `[baseline, committed_end)` exactly once. `staged` is where the last live range ends, staged ones
    included (the baseline where there is none)."""

    spike: str
    position: Position
    ranges: int
    offsets: int
    breaks: tuple[Break, ...]
    staged: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class CommittedSums:
    """Sums over a spike's committed batches that no rewind superseded. `unbalanced` are the numbers of
    batches whose counts do not agree with each other or with their files; `late` those registered after
    a newer epoch opened; `unexplained` those aborted, superseded, released or lost by no operation of
    that kind; `undead` those given up or superseded that still have a live file or range; `halfway` those
    whose files are committed without them, or not with them; `vanished` those with a file that is
    superseded by no swap and no rewind; `unplaced` those with no range, or one of a partition without a
    position."""

    spike: str
    batches: int
    read: int
    final: int
    dead_letter: int
    filtered: int
    unbalanced: tuple[int, ...]
    late: tuple[int, ...]
    unaccounted: int = 0
    unexplained: tuple[int, ...] = ()
    undead: tuple[int, ...] = ()
    halfway: tuple[int, ...] = ()
    vanished: tuple[int, ...] = ()
    unplaced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceBook:
    """A dataset's sequence number, the `newest` that a commit or an operation has, and the first of those
    that are `missing` before others."""

    dataset: str
    sequence: int
    newest: int
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Books:
    """Coverage, sums and sequence numbers from one snapshot of the database, and how many operations of each
    kind there were."""

    coverage: tuple[Coverage, ...]
    sums: tuple[CommittedSums, ...]
    operations: Mapping[str, int] = field(default_factory=dict)
    sequences: tuple[SequenceBook, ...] = ()


@dataclass(frozen=True, slots=True)
class SwapBook:
    """What the ledger has of one finished swap, for the audit: its batch, how many records a backfill had to
    find, rows of the files it replaced, how many of these are not superseded at the swap's sequence number,
    and its own counts. `hour` is the one it is of, None once a rewind took it along; `above` how many of its
    own ranges do not lie below where the live stream began."""

    number: int
    spike: str
    kind: SwapKind
    batch: int
    expected: int | None
    replaced_rows: int
    not_superseded: int
    read: int
    final: int
    dead_letter: int
    filtered: int
    file_rows: int
    hour: datetime | None = None
    above: int = 0
