"""How far back a rewind goes (design, 3.6): whole units only, as far as Kafka still has the records.

A **unit** is what is superseded together or not at all: the ranges of one batch; of a swap, the ranges of
all batches whose rows its files hold, so that no file is split. Units come oldest first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position, TopicOffsets


@dataclass(frozen=True, slots=True)
class Unit:
    """`batches` are the numbers of the batches it is made of."""

    batches: tuple[int, ...]
    ranges: tuple[OffsetRange, ...]


@dataclass(frozen=True, slots=True)
class Earliest:
    """As far back as whole units can be read again."""


@dataclass(frozen=True, slots=True)
class ToOffsets:
    """By partition number, the offset to read next; partitions that are not named stay."""

    topic: str
    offsets: Mapping[int, int]


Target = Earliest | ToOffsets | datetime


@dataclass(frozen=True, slots=True)
class Aligned:
    """`points` is where each partition is read from, `superseded` the batches beyond, oldest first."""

    points: Mapping[Partition, int]
    superseded: tuple[int, ...]


def parse_target(text: str) -> Target:
    """`earliest`, an ISO 8601 time with a zone, or `topic:partition:offset,…` of one topic.

    Raises `InvalidSpec`.
    """
    if text == "earliest":
        return Earliest()
    if (time := _time(text)) is not None:
        if time.tzinfo is None:
            raise InvalidSpec(f"--to {text}: say the zone, as in {text}Z")
        return time
    if ":" not in text:
        raise InvalidSpec(
            f"--to {text}: say earliest, a time as in 2026-11-22T21:00Z, or topic:partition:offset,…"
        )
    places = [parse_place(place) for place in text.split(",")]
    topics = {topic for topic, _, _ in places}
    offsets = {index: offset for _, index, offset in places}
    if len(topics) != 1 or len(offsets) != len(places):
        raise InvalidSpec(f"--to {text}: each partition of one topic once")
    return ToOffsets(topics.pop(), offsets)


def parse_place(text: str) -> tuple[str, int, int]:
    """`topic:partition:offset`. Raises `InvalidSpec`."""
    topic, _, rest = text.strip().partition(":")
    index, _, offset = rest.partition(":")
    if not (topic and index.isdecimal() and offset.isdecimal()):
        raise InvalidSpec(f"{text!r} is not topic:partition:offset, as in ad.payouts:0:1200")
    return topic, int(index), int(offset)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def offsets_of(target: ToOffsets, positions: Mapping[Partition, Position]) -> Mapping[Partition, int]:
    """The target by partition. Raises `Refused` where it names what the ledger has not, or lies ahead."""
    known = {(p.topic, p.index): x for p, x in positions.items()}
    found: dict[Partition, int] = {}
    for index, offset in sorted(target.offsets.items()):
        position = known.get((target.topic, index))
        if position is None:
            names = ", ".join(sorted(map(str, positions))) or "nothing yet"
            raise Refused(f"{target.topic}:{index} is not read by this spike; it reads {names}")
        if offset > position.committed_end:
            raise Refused(
                f"{position.partition} is committed up to {position.committed_end}, {offset} lies beyond: "
                "a rewind only goes back"
            )
        found[position.partition] = offset
    return found


def bounded(wanted: Mapping[Partition, int], positions: Mapping[Partition, Position]) -> dict[Partition, int]:
    """A point for every partition: where it is wanted, never ahead of what is committed."""
    return {p: min(wanted.get(p, x.committed_end), x.committed_end) for p, x in positions.items()}


def joined(units: Sequence[Unit], sources: Mapping[int, frozenset[int]]) -> list[Unit]:
    """The units with those made one whose records share a file. `sources` has, by the number of a swap's
    batch, the batches whose records its files hold. A unit stays where its oldest part was."""
    home = {number: i for i, unit in enumerate(units) for number in unit.batches}
    together = {i: {i} for i in home.values()}
    made: dict[int, set[int]] = {i: set() for i in together}
    for swap, numbers in sorted(sources.items()):
        parts = {first for n in numbers if n in home for first in [_first(together, home[n])]}
        if not parts:
            continue
        first = min(parts)
        for other in parts - {first}:
            together[first] |= together.pop(other)
            made[first] |= made.pop(other)
        made[first].add(swap)
    return [_merged([units[i] for i in sorted(group)], made[i]) for i, group in sorted(together.items())]


def _first(together: Mapping[int, set[int]], unit: int) -> int:
    return next(first for first, group in together.items() if unit in group)


def _merged(units: Sequence[Unit], swaps: set[int]) -> Unit:
    numbers = [number for unit in units for number in unit.batches]
    return Unit((*numbers, *sorted(swaps)), tuple(r for unit in units for r in unit.ranges))


def align_down(points: Mapping[Partition, int], units: Sequence[Unit]) -> Aligned:
    """Supersede every unit that reaches beyond a point, with all of its ranges.

    That lowers the points of its other partitions, and with them what else lies beyond: until it rests.
    """
    at = dict(points)
    beyond: set[int] = set()
    changed = True
    while changed:
        changed = False
        for i, unit in enumerate(units):
            if i not in beyond and any(r.end > at.get(r.partition, r.end) for r in unit.ranges):
                beyond.add(i)
                changed = True
                _pull(at, unit, min, lambda r: r.start)
    return Aligned(at, _numbers(units[i] for i in beyond))


def align_up(floors: Mapping[Partition, int], units: Sequence[Unit]) -> Aligned:
    """The furthest back that whole units allow: one that begins below a floor stays, and with it all that
    lies before its ranges; the others are superseded. What has no floor is of a topic that was deleted, and
    stays."""
    at = dict(floors)
    kept: set[int] = set()
    changed = True
    while changed:
        changed = False
        for i, unit in reversed(list(enumerate(units))):
            if i not in kept and any(r.partition not in at or r.start < at[r.partition] for r in unit.ranges):
                kept.add(i)
                changed = True
                _pull(at, unit, max, lambda r: r.end)
    return Aligned(at, _numbers(unit for i, unit in enumerate(units) if i not in kept))


def _pull(
    at: dict[Partition, int],
    unit: Unit,
    towards: Callable[[int, int], int],
    edge: Callable[[OffsetRange], int],
) -> None:
    """Take the points of the unit's partitions to its edge, where they are not beyond it."""
    for r in unit.ranges:
        if r.partition in at:
            at[r.partition] = towards(at[r.partition], edge(r))


def log_starts(positions: Mapping[Partition, Position], topic: TopicOffsets) -> Mapping[Partition, int]:
    """Where Kafka's log starts now, for each partition that is read."""
    return {p: topic.log_start[p.index] for p in positions if p.index in topic.log_start}


def _numbers(units: Iterable[Unit]) -> tuple[int, ...]:
    return tuple(sorted(number for unit in units for number in unit.batches))
