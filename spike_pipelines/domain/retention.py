"""What may be deleted (I9): pure rules over what was observed, and `now`. When in doubt, it stays."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.batch import UNFINISHED, BatchState
from spike_pipelines.domain.swap import SwapKind


@dataclass(frozen=True, slots=True)
class RetentionTerms:
    """`grace` lies between "nobody needs it" and its deletion. Snapshots of tables go after `snapshots`,
    but the newest `keep_snapshots` stay."""

    grace: timedelta = timedelta(hours=24)
    snapshots: timedelta = timedelta(days=7)
    keep_snapshots: int = 5


@dataclass(frozen=True, slots=True)
class EpochPlace:
    """`<epoch>/<attempt>/…`: where a driver stages. `attempt` ends in `-`: what attempts at the same
    micro-batch share."""

    epoch: int
    attempt: str | None


@dataclass(frozen=True, slots=True)
class SwapPlace:
    """`<kind>-<number>/…`: where attempts at a swap stage."""

    number: int


@dataclass(frozen=True, slots=True)
class OrdersPlace:
    """`orders/<job>/…`: what a Spark job was told and answered. It is read within seconds, never again."""


Place = EpochPlace | SwapPlace | OrdersPlace

_EPOCH = re.compile(r"(?P<epoch>\d{8})/(?:(?P<attempt>\d{6,}-)[0-9a-f]{32}/)?")
_SWAP = re.compile(rf"(?:{'|'.join(SwapKind)})-(?P<number>\d+)/")
ORDERS = "orders/"


def place_of(relative_key: str) -> Place | None:
    """Where a key lies, relative to the spike's staging folder; None for a place nobody of us writes to."""
    if match := _EPOCH.match(relative_key):
        return EpochPlace(int(match["epoch"]), match["attempt"])
    if match := _SWAP.match(relative_key):
        return SwapPlace(int(match["number"]))
    return OrdersPlace() if relative_key.startswith(ORDERS) else None


class Staging(StrEnum):
    """What is to become of a staged object, and why."""

    REMOVE_OVER = "its epoch or swap is over and never registered it"
    REMOVE_OTHER = "its range was registered without it"
    REMOVE_ABORTED = "its batch was aborted"
    REMOVE_CLEANED = "its batch was cleaned up before"
    KEEP_YOUNG = "within grace"
    KEEP_WAITING = "its batch waits to be published"
    KEEP_OPEN = "its epoch or swap may still register it"
    KEEP_UNKNOWN = "in a place nobody of us writes to"

    @property
    def removes(self) -> bool:
        return self.name.startswith("REMOVE")


@dataclass(frozen=True, slots=True)
class StagedFacts:
    """What is known of one object. `state` and `cleaned` are its batch's (None: never registered); `over`
    says that its epoch or swap can register nothing any more, `other_attempt` that an attempt at the same
    range is registered: another one, or its own (a committer's marks are no files of it)."""

    place: Place | None
    age: timedelta | None
    state: BatchState | None = None
    cleaned: bool = False
    over: bool = False
    other_attempt: bool = False


def judge_staged(facts: StagedFacts, grace: timedelta) -> Staging:
    """First rule that holds wins; the age of an object that does not say it is unknown, not great."""
    if facts.place is None:
        return Staging.KEEP_UNKNOWN
    if facts.state in UNFINISHED or (facts.state is BatchState.COMMITTED and not facts.cleaned):
        return Staging.KEEP_WAITING
    if facts.age is None or facts.age < grace:
        return Staging.KEEP_YOUNG
    if facts.state is BatchState.ABORTED:
        return Staging.REMOVE_ABORTED
    if facts.state is BatchState.COMMITTED:
        return Staging.REMOVE_CLEANED
    if facts.over:
        return Staging.REMOVE_OVER
    return Staging.REMOVE_OTHER if facts.other_attempt else Staging.KEEP_OPEN


def invisible_since(published: int, oldest_readable: int, published_before_grace: int) -> int:
    """Files superseded at a sequence number up to this one can be reached by no reader: neither in the
    table as published, nor in any snapshot that is still kept; and who read the one before had the grace
    time to end, counted from the publication, which may follow the commit by hours."""
    return min(published, oldest_readable, published_before_grace)


class Kind(StrEnum):
    """What retention deletes, as it reports it."""

    STAGING = "orphaned staging"
    SUPERSEDED = "superseded final files"
    TOMBSTONE = "copies of aborted intents"
    AGAIN = "swept again"
    SNAPSHOT = "Iceberg snapshots"
    UPLOAD = "unfinished uploads"


@dataclass(frozen=True, slots=True)
class Removal:
    """One line of the report: of one spike and kind, how many objects and bytes went, and how many of
    those that were looked at stay."""

    spike: str
    kind: Kind
    objects: int = 0
    size: int = 0
    kept: int = 0

    def plus(self, other: "Removal") -> "Removal":
        return Removal(
            self.spike,
            self.kind,
            self.objects + other.objects,
            self.size + other.size,
            self.kept + other.kept,
        )


def age(modified_at: datetime | None, now: datetime) -> timedelta | None:
    return None if modified_at is None else now - modified_at
