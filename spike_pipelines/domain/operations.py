"""What people do to a ledger: each operation names who and why, and is kept for ever (I5).

Offsets go back, or are skipped, in no other way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import Partition, Position, TopicOffsets
from spike_pipelines.domain.words import count_of


class OperationKind(StrEnum):
    RELEASE = "release"  # a held batch goes on, its difference written down
    DISCARD = "discard"  # a held batch and all behind it are given up and read again
    REWIND = "rewind"  # committed batches are superseded and read again
    ACCEPT_LOSS = "accept_loss"  # what Kafka no longer has is declared lost
    PROJECT = "project"  # a table was brought back to the ledger's files


@dataclass(frozen=True, slots=True)
class Author:
    """Who does it and why. Both are asked for before anything is looked at."""

    who: str
    why: str

    def __post_init__(self) -> None:
        if not self.who.strip() or not self.why.strip():
            raise InvalidSpec("an audited operation names who does it (--who) and why (--why)")


@dataclass(frozen=True, slots=True)
class Move:
    """One partition's ends before an operation, and the offset both of them are at after it."""

    partition: Partition
    staged_end: int
    committed_end: int
    to: int

    def __str__(self) -> str:
        return f"{self.partition}: committed {self.committed_end}, staged {self.staged_end} -> {self.to}"


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation about to be written. `request` is the caller's unique name for it: after a commit of
    unknown outcome it is looked up. `summary` is one sentence for a person; `epoch` is the one that
    fences drivers of before, `sequence` the dataset's number at which files were superseded."""

    request: str
    spike: str
    kind: OperationKind
    author: Author
    summary: str
    batch: int | None = None
    epoch: int | None = None
    sequence: int | None = None
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as the ledger has it."""

    id: int
    at: datetime
    request: str
    spike: str
    kind: OperationKind
    author: Author
    summary: str
    batch: int | None
    epoch: int | None
    sequence: int | None
    moves: tuple[Move, ...]


def moves_to(points: Mapping[Partition, int], positions: Mapping[Partition, Position]) -> tuple[Move, ...]:
    """Those of the points at which a partition's ends are not yet."""
    found = ((positions[p], point) for p, point in sorted(points.items()))
    return tuple(
        Move(x.partition, x.staged_end, x.committed_end, point)
        for x, point in found
        if not x.staged_end == x.committed_end == point
    )


def check_readable(moves: Iterable[Move], topic: TopicOffsets | None) -> None:
    """Raise `Refused` unless Kafka still has every record that the moves make a driver read again."""
    for move in moves:
        p = move.partition
        if topic is None:
            raise Refused(f"topic {p.topic} does not exist any more: nothing of it can be read again")
        if topic.topic_id != p.topic_id:
            raise Refused(
                f"topic {p.topic} has id {topic.topic_id}, the ledger's offsets belong to {p.topic_id}: it "
                "was deleted and made again, and nothing of the old one can be read again. "
                "`spike resume NAME --accept-loss --why …` begins with the new one"
            )
        start = topic.log_start.get(p.index)
        if start is None:
            raise Refused(f"{p} does not exist any more: nothing of it can be read again")
        if start > move.to:
            raise Refused(
                f"{p}: reading again would begin at {move.to}, and Kafka's log starts at {start}: "
                f"{count_of(start - move.to, 'offset is', 'offsets are')} gone"
            )
