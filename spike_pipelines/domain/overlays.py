"""What the supervisor lays over a spike's deployed spec for a while: rows with an end, in the ledger.

An overlay is wished for by its row and real once the resource carries its mark; whatever dies in between,
the next look makes the resource what the rows say. `before` is what the overlay replaced, and comes back
when it ends, unless somebody else has changed it meanwhile.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class OverlayKind(StrEnum):
    """Named as the rungs that lay them (`domain/ladder.py`)."""

    MEMORY = "more-memory"  # value: the driver's memory, as Spark writes it
    SMALLER_BATCHES = "smaller-batches"  # value: maxOffsetsPerTrigger
    ON_DEMAND = "on-demand"  # value: `label=value` of the nodes
    STABLE_SPEC = "stable-spec"  # value: hash of the spec to go back to
    QUARANTINE = "quarantine"  # value: `suspend`


LASTS: dict[OverlayKind, timedelta] = {
    OverlayKind.MEMORY: timedelta(days=7),  # until somebody has put it into the application file
    OverlayKind.SMALLER_BATCHES: timedelta(hours=2),
    OverlayKind.ON_DEMAND: timedelta(hours=6),
    OverlayKind.STABLE_SPEC: timedelta(days=7),
    OverlayKind.QUARANTINE: timedelta(hours=1),
}
MEMORY_FACTOR = 1.5
MEMORY_CAP = 4  # times what the application file says
SMALLEST_BATCH = 1000


@dataclass(frozen=True, slots=True)
class NewOverlay:
    """`spec_hash` is the deployed spec that it was made for: a new deployment ends it."""

    spike: str
    kind: OverlayKind
    value: str
    cause: str
    spec_hash: str | None
    lasts: timedelta


@dataclass(frozen=True, slots=True)
class Overlay:
    id: int
    spike: str
    kind: OverlayKind
    value: str
    cause: str
    spec_hash: str | None
    created_at: datetime
    expires_at: datetime
    before: str | None = None
    ended_at: datetime | None = None

    @property
    def mark(self) -> str:
        """How the resource carries it; another value is another mark."""
        return f"{self.id}:{self.kind}={self.value}"


def active(overlays: Iterable[Overlay], spec_hash: str | None, now: datetime) -> tuple[Overlay, ...]:
    """Those that hold now, the newest of each kind, by kind. One made for another spec holds no more:
    whoever deployed meanwhile is right."""
    newest: dict[OverlayKind, Overlay] = {}
    for overlay in sorted(overlays, key=lambda o: o.id):
        holds = overlay.ended_at is None and now < overlay.expires_at
        if holds and (spec_hash is None or overlay.spec_hash == spec_hash):
            newest[overlay.kind] = overlay
    return tuple(newest[kind] for kind in sorted(newest))


def marks(overlays: Iterable[Overlay]) -> str:
    """The annotation that a resource with these overlays carries."""
    return ",".join(overlay.mark for overlay in overlays)


def marked(annotation: str) -> frozenset[int]:
    """Ids of the overlays that an annotation names. What is not a mark of ours counts as none."""
    found = (re.match(r"(\d+):", mark) for mark in annotation.split(","))
    return frozenset(int(match[1]) for match in found if match)


def more_memory(configured: str, now: int) -> str | None:
    """Half as much again as there is now, in whole MiB up to the cap; None where the cap is reached."""
    limit = mebibytes(configured) * MEMORY_CAP
    return None if now >= limit else f"{min(math.ceil(now * MEMORY_FACTOR), limit)}m"


def smaller_batches(configured: int, present: int | None) -> str | None:
    """A quarter of it, down to a floor; None at the floor."""
    now = configured if present is None else present
    return None if now <= SMALLEST_BATCH else str(max(now // 4, SMALLEST_BATCH))


def mebibytes(memory: str) -> int:
    return int(memory[:-1]) * (1024 if memory.endswith("g") else 1)


def value_of(overlays: Sequence[Overlay], kind: OverlayKind) -> str | None:
    return next((o.value for o in overlays if o.kind is kind), None)
