"""What a driver does about each answer of the appender that is not a success: one table, no effects.

The codes are `wire.ErrorCode` (design, section 6). An answer that cannot be understood, and no answer at
all, are `unavailable`: the outcome is unknown, and repeating the same request is safe (I7).
"""

from dataclasses import dataclass
from typing import TypeAlias

from spike_pipelines.domain.exits import Exit
from spike_pipelines.wire import ErrorCode

DEFAULT_WAIT_SECONDS = 2.0
MAX_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """`retry_after_seconds` is the answer's Retry-After where it had one."""

    code: ErrorCode
    message: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is wrong; ask the same again after so many seconds, for as long as it takes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Retry:
    """Something outside does not work; send the same again, with back-off."""


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """This request can never succeed: the ledger is elsewhere than this driver thinks, or refuses what
    it sends. Open a new epoch and read from its offsets; with back-off, and bounded, as any failure."""


@dataclass(frozen=True, slots=True)
class ReadLess:
    """As `NewEpoch`, and its batches must be smaller."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process with this code."""

    exit: Exit


Action: TypeAlias = Wait | Retry | NewEpoch | ReadLess | Stop


def after_open(refusal: Refusal) -> Action:
    """After a refused `POST …/epochs`."""
    match refusal.code:
        case "held":
            return Wait(_wait_seconds(refusal))
        case "fenced":
            return Stop(Exit.FENCED)
        case "topic_changed" | "lost":
            return Stop(Exit.REFUSED)
        case "spec_changed":
            return Stop(Exit.INVALID)
        case "invalid" | "bad_key" | "duplicate" | "malformed" | "too_large" | "unsupported_media_type":
            return NewEpoch()
        case "too_slow" | "topic_missing" | "unauthorized" | "unknown_spike" | "unavailable":
            return Retry()
        case "gap" | "overlap" | "conflict" | "too_many_staged":  # what only batches are told
            return Retry()


def after_register(refusal: Refusal) -> Action:
    """After a refused `POST …/batches`."""
    match refusal.code:
        case "too_many_staged":
            return Wait(_wait_seconds(refusal))
        case "fenced":
            return Stop(Exit.FENCED)
        case "topic_changed" | "lost":
            return Stop(Exit.REFUSED)
        case "gap" | "overlap" | "conflict" | "held" | "spec_changed":
            return NewEpoch()
        case "too_large":
            return ReadLess()
        case "invalid" | "bad_key" | "duplicate" | "malformed" | "unsupported_media_type":
            return NewEpoch()
        case "too_slow" | "topic_missing" | "unauthorized" | "unknown_spike" | "unavailable":
            return Retry()


def _wait_seconds(refusal: Refusal) -> float:
    asked = DEFAULT_WAIT_SECONDS if refusal.retry_after_seconds is None else refusal.retry_after_seconds
    return min(max(asked, 0.1), MAX_WAIT_SECONDS)
