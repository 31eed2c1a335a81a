"""How many of a table's snapshots are kept, so that a commit every few seconds for months costs the same.

A table's metadata file lists all its snapshots and is written anew with each commit. So the newest
are kept, then the last one of each hour; the others go, with the metadata files only they need.
Data files are the ledger's business and never touched here.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from spike_pipelines.domain.batch import hour_of


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot in a table's history; `parent` is None where it was expired, or never was."""

    snapshot: int
    parent: int | None
    at: datetime

    @classmethod
    def of(cls, snapshot: int, parent: int | None, at_ms: int) -> "Moment":
        return cls(snapshot, parent, datetime.fromtimestamp(at_ms / 1000, UTC))


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the `newest`, and of the older ones the last of each hour for `hourly`. Expire when `at_once`
    have come together: they cost one round of clean-up instead of many."""

    newest: int = 30
    hourly: timedelta = timedelta(days=2)
    at_once: int = 10


def expirable(
    history: Sequence[Moment], retention: Retention, now: datetime, protected: Collection[int] = ()
) -> tuple[int, ...]:
    """Ids of the snapshots to expire, oldest first; none until `at_once` of them have come together.

    `protected` are the heads of branches and tags: the current snapshot, and what others marked.
    """
    older = history[: -retention.newest] if retention.newest else history
    last_of_hour = {hour_of(m.at): m.snapshot for m in older if m.at > now - retention.hourly}
    kept = {*last_of_hour.values(), *protected}
    gone = tuple(m.snapshot for m in older if m.snapshot not in kept)
    return gone if len(gone) >= retention.at_once else ()


def older(
    history: Sequence[Moment], before: datetime, keep: int, protected: Collection[int]
) -> tuple[int, ...]:
    """Ids of the snapshots from before a moment, but for the newest `keep` and the protected ones."""
    candidates = history[: max(0, len(history) - keep)]
    return tuple(m.snapshot for m in candidates if m.at < before and m.snapshot not in protected)


def sequences(told: Iterable[str | None]) -> tuple[int, ...]:
    """The sequence number at each snapshot, oldest first. One that others made (a compaction) has none of
    its own and shows what the one before it does; before the first it is unknown, and 0 is safe."""
    found: list[int] = []
    for number in told:
        found.append(int(number) if number is not None else (found[-1] if found else 0))
    return tuple(found)


def linear(history: Sequence[Moment]) -> bool:
    """Whether each snapshot follows the one before: nobody rolled back, or wrote on a branch."""
    return all(after.parent in (None, before.snapshot) for before, after in pairwise(history))


def neighbours(history: Sequence[Moment], expired: Iterable[int]) -> frozenset[int]:
    """The kept snapshots next to expired ones. In a linear history a manifest is in a run of snapshots
    without a hole, so what is in none of these is in no kept snapshot at all."""
    gone = set(expired)
    pairs = pairwise([m.snapshot for m in history])
    return frozenset(s for pair in pairs for s in pair if len(gone.intersection(pair)) == 1 and s not in gone)
