"""What to try next: one rung at a time, none twice that did not help, each later than the one before.

A chain is the recoveries of a spike with less than an hour of stability between them. Within a chain the
wait grows, and a rung is climbed again only if the spike got on after it; after the chain all is new.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.observed import Recovery


class Rung(StrEnum):
    LOOK = "look"
    KICK = "kick"  # an annotation: the operator looks again
    RESTART = "restart"  # suspend, and resume once it is suspended
    RECREATE = "recreate"
    MORE_MEMORY = "more-memory"
    SMALLER_BATCHES = "smaller-batches"
    ON_DEMAND = "on-demand"
    STABLE_SPEC = "stable-spec"
    QUARANTINE = "quarantine"
    PAGE = "page"


LADDERS: Mapping[Trouble, Sequence[Rung]] = {
    Trouble.STUCK: (Rung.KICK, Rung.RESTART, Rung.PAGE),
    Trouble.ENDED: (Rung.RESTART, Rung.QUARANTINE),
    Trouble.CRASHING: (Rung.STABLE_SPEC, Rung.RESTART, Rung.QUARANTINE),
    Trouble.OUT_OF_MEMORY: (Rung.MORE_MEMORY, Rung.STABLE_SPEC, Rung.QUARANTINE),
    Trouble.OUT_OF_MEMORY_CATCHING_UP: (Rung.SMALLER_BATCHES, Rung.MORE_MEMORY, Rung.QUARANTINE),
    Trouble.EVICTED: (Rung.ON_DEMAND, Rung.RESTART, Rung.PAGE),
    Trouble.IMAGE: (Rung.STABLE_SPEC, Rung.PAGE),
    Trouble.UNSCHEDULABLE: (Rung.ON_DEMAND, Rung.PAGE),
    Trouble.INVALID: (Rung.STABLE_SPEC, Rung.QUARANTINE),
    Trouble.REFUSED: (Rung.PAGE,),
    Trouble.HUNG: (Rung.RESTART, Rung.STABLE_SPEC, Rung.PAGE),
    Trouble.DELETED: (Rung.RECREATE, Rung.PAGE),
    Trouble.DRIFTED: (Rung.KICK, Rung.RESTART, Rung.PAGE),
    Trouble.TWO_DRIVERS: (Rung.RESTART, Rung.PAGE),
    Trouble.UNSEEN: (Rung.PAGE,),
}


def _transitions() -> Mapping[Rung, frozenset[Rung]]:
    """From each rung to those that may follow it: rungs are skipped, never gone back over."""
    follow: dict[Rung, set[Rung]] = {rung: set() for rung in Rung}
    for ladder in LADDERS.values():
        climbed = (Rung.LOOK, *ladder)
        for place, rung in enumerate(climbed):
            follow[rung] |= set(climbed[place + 1 :])
    return {rung: frozenset(targets) for rung, targets in follow.items()}


TRANSITIONS = _transitions()  # docs/kubernetes.md draws it

STABLE = timedelta(hours=1)
HISTORY = timedelta(hours=12)  # more than any chain of the waits below can reach back between two steps
_BACK_OFF = BackOff(timedelta(seconds=30), timedelta(minutes=30), spread=(0.8, 1.2))
REPEATABLE = frozenset({Rung.MORE_MEMORY, Rung.SMALLER_BATCHES})  # each time another value, up to a cap


@dataclass(frozen=True, slots=True)
class Step:
    """The next rung, None where all were tried; not before `at`. `attempt` counts the chain from 1."""

    rung: Rung | None
    at: datetime | None
    attempt: int


def next_step(
    spike: str,
    trouble: Trouble,
    recoveries: Sequence[Recovery],
    *,
    possible: frozenset[Rung],
    worked_at: datetime | None,
    now: datetime,
) -> Step:
    """`recoveries` oldest first; `worked_at` is the spike's last commit: a recovery before it helped."""
    links = chain(recoveries, now)
    spent = {r.action for r in links if worked_at is None or worked_at <= r.at} - REPEATABLE
    rungs = (rung for rung in LADDERS[trouble] if rung in possible and rung not in spent)
    at = links[-1].at + wait(spike, len(links)) if links else None
    return Step(next(rungs, None), at, len(links) + 1)


def chain(recoveries: Sequence[Recovery], now: datetime) -> tuple[Recovery, ...]:
    """The recoveries that hang together up to now."""
    links: list[Recovery] = []
    until = now
    for recovery in reversed(recoveries):
        if until - recovery.at > STABLE:
            break
        links.append(recovery)
        until = recovery.at
    return tuple(reversed(links))


def wait(spike: str, attempts: int) -> timedelta:
    """30 s after the first, then twice as long each time up to 30 min; moved by up to a fifth, always the
    same for a spike and attempt, so that a fleet does not come back in step."""
    digest = hashlib.sha256(f"{spike} {attempts}".encode()).digest()
    return _BACK_OFF.after(attempts, int.from_bytes(digest[:4], "big") / 2**32)
