"""What was observed of a spike's drivers and of what was done about them: values, no judgement."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DriverState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"  # it is known of, and could not be looked at


@dataclass(frozen=True, slots=True)
class ObservedDriver:
    """One driver process or pod. `driver` is the identity it names itself by at the appender; `problem`
    says why the state is unknown, and the way out; `ran_at` is since when it was seen to run, where that may
    be long after it was started: a pod waits for a node and an image, which is no fault of the driver."""

    spike: str
    driver: str
    state: DriverState
    started_at: datetime
    exit_code: int | None = None
    pid: int | None = None
    problem: str | None = None
    ran_at: datetime | None = None


UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last answer other than success that a driver of the spike got. Of code `UNJUDGED`: who says to be
    one could not be let in, since nobody could tell whether it is."""

    at: datetime
    code: str
    message: str
    driver: str

    @property
    def unheard_at(self) -> datetime | None:
        """When it could not be heard what a driver had to say."""
        return self.at if self.code == UNJUDGED else None


def listened_since(appender_since: datetime | None, refusal: Refusal | None) -> datetime | None:
    """Since when what a spike's driver says is heard; None while nobody listens."""
    unheard = refusal.unheard_at if refusal else None
    return max(appender_since, unheard) if appender_since and unheard else appender_since


NOT_DONE = " (not done)"


@dataclass(frozen=True, slots=True)
class Recovery:
    """One thing the supervisor did, or was about to do: `NOT_DONE` follows the action where somebody else was
    faster. It counts towards the wait for the next, and is no step that was tried."""

    spike: str
    at: datetime
    action: str
    cause: str
    verdict: str

    @property
    def done(self) -> bool:
        return not self.action.endswith(NOT_DONE)
