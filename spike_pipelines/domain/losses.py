"""What a spike has lost, range by range: losses add up until somebody acknowledges them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spike_pipelines.domain.offsets import OffsetRange, merged, total


@dataclass(frozen=True, slots=True)
class Missing:
    """Offsets that Kafka deleted before they were read or, with `cut_off`, that were staged and are beyond
    the log's end now: other records may come to stand there, which nobody has read."""

    range: OffsetRange
    cut_off: bool = False

    def __str__(self) -> str:
        return f"{self.range} cut off" if self.cut_off else str(self.range)


def joined(known: Iterable[Missing], seen: Iterable[Missing]) -> tuple[Missing, ...]:
    """Both, each offset once: the same loss seen again adds nothing, a second one adds its own."""
    both = (*known, *seen)
    return tuple(
        Missing(r, cut_off)
        for cut_off in (False, True)
        for r in merged(one.range for one in both if one.cut_off == cut_off)
    )


def latched(seen: Iterable[Missing], before: Iterable[Missing]) -> tuple[Missing, ...]:
    """What stands from now on: a log that was cut off only by two looks, since the first may have asked a
    broker that was behind. What is deleted stays deleted."""
    now, then = tuple(seen), [one for one in before if one.cut_off]
    twice = {one.range.partition for one in now if one.cut_off} & {one.range.partition for one in then}
    first = (one for one in then if one.range.partition in twice)
    return joined(first, (one for one in now if not one.cut_off or one.range.partition in twice))


def without(lost: Iterable[Missing], known: Iterable[Missing]) -> tuple[Missing, ...]:
    """What is left of `lost` when `known` is taken out of it."""
    left = tuple(lost)
    for gone in known:
        left = tuple(rest for one in left for rest in _cut(one, gone))
    return left


def _cut(one: Missing, gone: Missing) -> Iterator[Missing]:
    mine, other = one.range, gone.range
    apart = mine.partition != other.partition or one.cut_off != gone.cut_off
    if apart or other.end <= mine.start or mine.end <= other.start:
        yield one
        return
    for start, end in ((mine.start, other.start), (other.end, mine.end)):
        if start < end:
            yield Missing(OffsetRange(mine.partition, start, end), one.cut_off)


def records(lost: Iterable[Missing]) -> int:
    return total(one.range for one in lost)
