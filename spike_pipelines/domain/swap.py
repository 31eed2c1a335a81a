"""Swaps: a frozen set of live files replaced by new ones, in one transaction and one snapshot.

A dead-letter replay is one, the backfill of an hour another. What a swap writes is a batch in a
lane of its own, so files, intents, copies and clean-up are those of any batch; only its commit differs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from spike_pipelines.domain.batch import Batch, FileState
from spike_pipelines.domain.errors import Conflict, InvariantBroken
from spike_pipelines.domain.promotion import LedgerFile, counts_problem
from spike_pipelines.domain.words import count_of


class SwapKind(StrEnum):
    REPLAY = "replay"  # dead letters, parsed again
    BACKFILL = "backfill"  # an hour, read again from Kafka
    EARLIER = "earlier"  # an hour, read below where the spike began: it replaces nothing


HOURLY = frozenset({SwapKind.BACKFILL, SwapKind.EARLIER})


class SwapState(StrEnum):
    PLANNED = "planned"  # what it replaces is frozen; nothing is registered
    STAGED = "staged"  # its batch is registered; the batch's own state says how far the copies are
    SWAPPED = "swapped"  # new files live, old ones superseded, in one transaction
    ABORTED = "aborted"  # given up; what it would have replaced is untouched


SWAP_TRANSITIONS: Mapping[SwapState, frozenset[SwapState]] = {
    SwapState.PLANNED: frozenset({SwapState.STAGED, SwapState.ABORTED}),
    SwapState.STAGED: frozenset({SwapState.SWAPPED, SwapState.ABORTED}),
    SwapState.SWAPPED: frozenset(),
    SwapState.ABORTED: frozenset(),
}
OPEN_SWAPS = frozenset({SwapState.PLANNED, SwapState.STAGED})


def check_swap_transition(old: SwapState, new: SwapState) -> None:
    if new not in SWAP_TRANSITIONS[old]:
        raise InvariantBroken(f"a swap cannot go from {old} to {new}")


class NotLive(Conflict):
    """A file that a swap was to replace is no longer live: a rewind or another swap came first."""

    code = "not_live"


class SwapBusy(Conflict):
    """Another open swap has frozen one of the files."""

    code = "swap_busy"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which dead letters: those of UTC hours in `[since, until)` (None: unbounded) and of one reason
    (None: of any)."""

    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class NewSwap:
    """A plan: the ids of the files to replace, who asked and why.

    Of a backfill also the drivers' batches that it reads again, and how many records of its hour these had;
    of one that reads earlier records, how many of them were counted before.
    """

    spike: str
    dataset: str
    kind: SwapKind
    who: str
    why: str
    application_version: str
    scope: Scope
    replaces: tuple[int, ...]
    sources: tuple[int, ...] = ()
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap as the ledger has it. `planned_at` stands in for a clock: every attempt sees the same.
    `problem` says why it was aborted; `expected` is how many records of its hour it must find,
    `elsewhere` how many of other hours it read beside them, `so_far` how many of all it has read as yet."""

    number: int
    spike: str
    dataset: str
    kind: SwapKind
    state: SwapState
    who: str
    why: str
    application_version: str
    scope: Scope
    planned_at: datetime
    batch: int | None = None
    ended_at: datetime | None = None
    problem: str | None = None
    expected: int | None = None
    elsewhere: int = 0
    so_far: int = 0

    @property
    def lane(self) -> str:
        """A lane of its own, and the folder in staging that its attempts write to."""
        return f"{self.kind}-{self.number}"

    @property
    def mark(self) -> str:
        """What its final keys carry beside the batch number."""
        return f"swap{self.number}"

    def __str__(self) -> str:
        return f"swap {self.number} ({self.kind} of {self.spike})"


def swap_problem(
    swap: Swap,
    batch: Batch,
    files: Iterable[LedgerFile],
    footer_rows: Mapping[int, int],
    replaced: Iterable[LedgerFile],
) -> str | None:
    """Why a swap would lose or double a record (I8), or None."""
    if problem := counts_problem(batch, tuple(files), footer_rows):
        return problem
    replaced = tuple(replaced)
    if gone := [file for file in replaced if file.state is not FileState.LIVE]:
        return f"{gone[0].final_key} is {gone[0].state} by now"
    there = sum(file.rows for file in replaced)
    if swap.kind is SwapKind.REPLAY and batch.counts.read != there:
        return f"read {count_of(batch.counts.read, 'record')} again, the files to replace have {there}"
    if swap.kind in HOURLY and batch.counts.read != swap.expected:
        return f"found {count_of(batch.counts.read, 'record')} of the hour, the ledger has {swap.expected}"
    return None
