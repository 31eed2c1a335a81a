"""Choices that depend on nothing but a seed, a name and a number: event n is the same in every run."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")
FACES = 4096  # resolution of a skewed pool


class Dice:
    """512 bits drawn once and used up choice by choice: far cheaper than seeding a generator."""

    __slots__ = ("_bits",)

    def __init__(self, seed: int, name: str, number: int) -> None:
        digest = blake2b(f"{seed}/{name}/{number}".encode(), digest_size=64).digest()
        self._bits = int.from_bytes(digest)

    def below(self, limit: int) -> int:
        """A number in `[0, limit)`."""
        self._bits, face = divmod(self._bits, limit)
        return face

    def pick(self, pool: Sequence[T]) -> T:
        return pool[self.below(len(pool))]

    def chance(self, share: float) -> bool:
        return self.below(1_000_000) < share * 1_000_000

    def hex(self, digits: int) -> str:
        return f"{self.below(16**digits):0{digits}x}"


def zipf(items: Sequence[T], *, exponent: float = 1.1) -> tuple[T, ...]:
    """A pool in which item k comes up in proportion to `1 / k^exponent`: the first is the most frequent."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, len(items) + 1)))
    pool: list[T] = []
    for item, weight in zip(items, weights, strict=True):
        pool.extend([item] * (round(FACES * weight / weights[-1]) - len(pool)))
    return tuple(pool)
