"""Offsets that a person asks to have backfilled, and what is wrong with them. Pure."""

import re
from collections.abc import Iterable, Mapping

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position

MOST_RANGES = 100
_RANGE = re.compile(r"([^:\s]+):(\d{1,9}):(\d{1,18})-(\d{1,18})")

Asked = tuple[str, int, int, int]  # topic, partition, start, end: half-open, as everywhere


def parse_offsets(text: str) -> tuple[Asked, ...]:
    """`topic:partition:start-end,…`, the end not included. Raises `InvalidSpec`."""
    found = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InvalidSpec(
                f"{part.strip()!r} is not topic:partition:start-end, as in ad.payouts:0:1200-1300"
            )
        topic, index, start, end = match[1], *map(int, match.groups()[1:])
        if end <= start:
            raise InvalidSpec(
                f"{part.strip()}: no offset is from {start} up to {end}, which is the first one not meant"
            )
        found.append((topic, index, start, end))
    if len(found) > MOST_RANGES:
        raise InvalidSpec(f"{len(found)} ranges are too many at once: {MOST_RANGES} at most")
    return tuple(found)


def check_offsets(
    asked: Iterable[Asked], topic: str, positions: Mapping[Partition, Position]
) -> tuple[OffsetRange, ...]:
    """As ranges of the topic's current incarnation. Raises `InvalidSpec` for what the spike has not read."""
    known = {p.index: x for p, x in positions.items() if p.topic == topic and not x.closed}
    return tuple(_checked(one, topic, known) for one in asked)


def _checked(asked: Asked, topic: str, known: Mapping[int, Position]) -> OffsetRange:
    name, index, start, end = asked
    if name != topic:
        raise InvalidSpec(f"{name}: the spike reads topic {topic}")
    position = known.get(index)
    if position is None:
        there = ", ".join(map(str, sorted(known))) or "none yet"
        raise InvalidSpec(f"{topic} has no partition {index} that the spike reads: there are {there}")
    if end > position.committed_end:
        raise InvalidSpec(
            f"{topic}:{index}: {end} is beyond {position.committed_end}, which the spike has committed; "
            "the live stream reads what comes after"
        )
    if start < position.baseline:
        raise InvalidSpec(
            f"{topic}:{index}: {start} is below {position.baseline}, where the spike began: "
            "ask for its hours (`--from`), and what Kafka has of them there is read too"
        )
    return OffsetRange(position.partition, start, end)
