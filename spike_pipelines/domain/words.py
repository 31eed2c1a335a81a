"""Words of sentences for people. Pure."""

from collections.abc import Iterable


def count_of(number: int, one: str, many: str | None = None) -> str:
    """`1 dead letter`, `1,200 dead letters`; `many` where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def some(things: Iterable[object], most: int) -> str:
    """The first of them, and how many more there are: `a, b and 3 more`."""
    told = [str(thing) for thing in things]
    more = f" and {len(told) - most} more" if told[most:] else ""
    return ", ".join(told[:most]) + more
