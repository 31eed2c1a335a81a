"""Words of sentences for people. Pure."""

from collections.abc import Iterable


def some(things: Iterable[object], most: int) -> str:
    """The first of them, and how many more there are: `a, b and 3 more`."""
    told = [str(thing) for thing in things]
    more = f" and {len(told) - most} more" if told[most:] else ""
    return ", ".join(told[:most]) + more
