"""Who may write for a spike: epochs, and the one decision that grants them (I6).

An epoch is one life of a driver. Its token is (number, nonce): the number orders, the nonce makes a
number that two ledgers might hand out (a restored backup) useless to the wrong one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.errors import Fenced, Held
from spike_pipelines.domain.offsets import Partition


class EpochState(StrEnum):
    OPEN = "open"
    SUPERSEDED = "superseded"  # a newer epoch was granted
    RETIRED = "retired"  # the supervisor ended it; its driver is fenced


class Phase(StrEnum):
    """What a driver says it does."""

    STARTING = "starting"
    READING = "reading"  # or waiting for records to read
    STAGING = "staging"
    POSTING = "posting"
    WAITING = "waiting"  # for the appender (backpressure)
    RETRYING = "retrying"  # something outside failed; the driver tries again by itself
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch as the ledger has it. `after` is the epoch its driver gave up for it (a resync).

    The rest is the last heartbeat's: `progress_at` is the engine's own last sign of life (a heartbeat
    may outlive the engine), None if the driver does not tell; `read` the next offsets it will read.
    """

    spike: str
    number: int
    nonce: str
    driver: str
    state: EpochState
    opened_at: datetime
    heartbeat_at: datetime
    after: int | None = None
    phase: Phase | None = None
    problem: str | None = None
    batch_started_at: datetime | None = None
    progress_at: datetime | None = None
    read: Mapping[Partition, int] = field(default_factory=dict)
    application_version: str = "unknown"


def holds_a_batch(epoch: Epoch | None, now: datetime, silence: timedelta) -> bool:
    """Whether its driver, heard of within `silence`, has records in hand that it has not registered."""
    return (
        epoch is not None
        and epoch.state is EpochState.OPEN
        and epoch.phase in {Phase.STAGING, Phase.POSTING, Phase.WAITING}
        and now - epoch.heartbeat_at <= silence
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """Give out this new epoch number; an open epoch of before is superseded."""

    number: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """The request was answered before and its reply was lost: give the same epoch again."""

    epoch: Epoch


def decide_epoch(
    *,
    latest: Epoch | None,
    driver_latest: Epoch | None,
    driver: str,
    after: int | None,
    now: datetime,
    idle_limit: timedelta,
) -> Grant | Repeat:
    """Whether `driver` may have the spike now.

    `latest` is the spike's newest epoch, `driver_latest` the newest one this driver ever had. The
    rules, in order:

    1. A driver that had an epoch which is no longer the open one is fenced, for ever.
    2. The driver of the open epoch gets it again if this is the same request, or a new one if it
       gives up the one it has (`after`).
    3. While another driver's epoch is open and was heard of within `idle_limit`, a newcomer waits.
    4. Otherwise the newcomer gets the next number.

    Errors: `Fenced` (1), `Held` with the time to wait (3).
    """
    if driver_latest is not None:
        if latest is None or latest.number != driver_latest.number or latest.state is not EpochState.OPEN:
            raise Fenced(
                f"driver {driver} lost this spike: epoch {driver_latest.number} was taken over or retired"
            )
        if after == latest.number:
            return Grant(latest.number + 1)
        if after == latest.after:
            return Repeat(latest)
        raise Fenced(f"driver {driver} gives up epoch {after}, and has {latest.number}")
    if after is not None:
        raise Fenced(f"driver {driver} gives up epoch {after}, which it never had")
    if latest is None:
        return Grant(1)
    if latest.state is EpochState.OPEN:
        free_at = latest.heartbeat_at + idle_limit
        if now < free_at:
            raise Held(
                f"driver {latest.driver} holds epoch {latest.number} "
                f"and was heard of at {latest.heartbeat_at:%H:%M:%S}Z",
                retry_after_seconds=min((free_at - now).total_seconds(), 5.0),
            )
    return Grant(latest.number + 1)
