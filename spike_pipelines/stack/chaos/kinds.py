"""Which faults a run throws: a pure function of its seed, every kind as often as any other."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import count, islice
from random import Random


class Kind(StrEnum):
    """What is done to whom. A killed one gets SIGKILL, a frozen one SIGSTOP and, after a while, SIGCONT."""

    KILL_DRIVER = "kill driver"
    FREEZE_DRIVER = "freeze driver"
    TWO_DRIVERS = "two drivers"
    KILL_RUN = "kill appender run"
    FREEZE_RUN = "freeze appender run"
    KILL_API = "kill appender API"
    FREEZE_API = "freeze appender API"
    KILL_DAEMON = "kill Dagster daemon"
    FREEZE_DAEMON = "freeze Dagster daemon"
    KILL_BROKER = "kill broker"
    FREEZE_BROKER = "freeze broker"
    KILL_DATABASE = "kill PostgreSQL"
    FREEZE_DATABASE = "freeze PostgreSQL"
    KILL_STORE = "kill object store"
    FREEZE_STORE = "freeze object store"
    DELAY_LINK = "TCP delay"
    CUT_LINK = "TCP cut"


LINKS = ("kafka", "postgres", "s3", "appender")
# How long it lasts, in seconds, from and to. A driver is replaced after 30 s of silence, and an appender
# run's lease is over after 15 s: below and beyond both are tried.
SECONDS: dict[Kind, tuple[float, float]] = {
    Kind.FREEZE_DRIVER: (3, 45),
    Kind.FREEZE_RUN: (3, 25),
    Kind.FREEZE_API: (3, 20),
    Kind.FREEZE_DAEMON: (3, 15),
    Kind.FREEZE_BROKER: (3, 10),
    Kind.FREEZE_DATABASE: (2, 6),
    Kind.FREEZE_STORE: (3, 10),
    Kind.DELAY_LINK: (4, 8),
    Kind.CUT_LINK: (1, 4),
}
DELAY_SECONDS = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """`pick` (0 ≤ pick < 1) chooses among the spikes that may be hit; `link` and `delay_seconds` are for
    TCP faults; it lasts `seconds` where it is one that is healed by us."""

    number: int
    kind: Kind
    pick: float
    seconds: float
    link: str
    delay_seconds: float


def schedule(seed: int, faults: int) -> tuple[Fault, ...]:
    """Rounds of every kind once, each round in an order of its own; TCP faults take the links in turn."""
    dice = Random(seed)  # noqa: S311  # repeatable is the point
    kinds = (kind for _ in count() for kind in dice.sample(list(Kind), len(Kind)))
    return tuple(_fault(dice, number, kind) for number, kind in enumerate(islice(kinds, faults)))


def _fault(dice: Random, number: int, kind: Kind) -> Fault:
    return Fault(
        number=number,
        kind=kind,
        pick=dice.random(),
        seconds=dice.uniform(*SECONDS.get(kind, (0, 0))),
        link=LINKS[number // len(Kind) % len(LINKS)],
        delay_seconds=dice.uniform(*DELAY_SECONDS),
    )
