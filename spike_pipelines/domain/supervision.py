"""What the supervisor makes of a spike, and what it does about it: facts and `now` in, one decision out.

Waiting for the appender, or for something outside that a driver itself retries, is never a reason to
restart it; what could not be observed never is either (I12). The first rule that matches decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.epochs import Epoch, EpochState
from spike_pipelines.domain.spike import Objectives


class Verdict(StrEnum):
    RUNNING = "RUNNING"
    STARTING = "STARTING"
    WAITING = "WAITING"  # for the appender, or for another driver's epoch to end
    RETRYING = "RETRYING"  # the driver sees trouble outside and tries again by itself
    TWO_DRIVERS = "TWO_DRIVERS"
    HUNG = "HUNG"
    MISSING = "MISSING"
    BLOCKED = "BLOCKED"  # only a person can decide: the topic changed, records are lost
    UNKNOWN = "UNKNOWN"  # the appender does not answer, so nobody can be heard


@dataclass(frozen=True, slots=True)
class Driver:
    """A live driver as the cluster sees it."""

    id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class SpikeFacts:
    """One spike at one moment. `recoveries` are the times of the last hour's recovery actions, oldest
    first; `appender_since` is when the appender began to answer, None while it does not: a driver
    cannot be blamed for a silence that is the listener's. `refusal` is what the appender last told a
    driver, as (time, code, sentence)."""

    spike: str
    objectives: Objectives
    drivers: Sequence[Driver]
    epoch: Epoch | None
    recoveries: Sequence[datetime]
    appender_since: datetime | None
    refusal: tuple[datetime, str, str] | None = None
    last_exit: str | None = None


class ActionKind(StrEnum):
    START = "start"
    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Action:
    """`stop` names the drivers to fence and end; `START` and `RESTART` then start one."""

    kind: ActionKind
    spike: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """`action` is None where nothing is to be done, or not yet: then `cause` says why."""

    spike: str
    verdict: Verdict
    cause: str
    action: Action | None = None


START_GRACE = timedelta(seconds=120)
LONGEST_START = timedelta(minutes=10)
BLOCKING = frozenset({"topic_changed", "lost"})
_FIRST_DELAY = timedelta(seconds=5)
_LONGEST_DELAY = timedelta(minutes=5)


def next_action_at(recoveries: Sequence[datetime]) -> datetime | None:
    """When the supervisor may act again: at once at first, then 5 s, 10 s, 20 s … 5 min after the last."""
    if not recoveries:
        return None
    doublings: int = 2 ** min(len(recoveries) - 1, 10)
    return recoveries[-1] + min(_FIRST_DELAY * doublings, _LONGEST_DELAY)


def supervise(facts: SpikeFacts, now: datetime) -> Decision:
    """The verdict on one spike and the action, held back while the last one has its time to help."""
    decision = _look(facts, now)
    wait_until = next_action_at(facts.recoveries)
    if decision.action is None or wait_until is None or now >= wait_until:
        return decision
    wait = (wait_until - now).total_seconds()
    cause = f"{decision.cause}; next attempt in {wait:.0f} s ({len(facts.recoveries)} in the last hour)"
    return Decision(facts.spike, decision.verdict, cause)


def _look(facts: SpikeFacts, now: datetime) -> Decision:
    if not facts.drivers:
        return _without_driver(facts)
    owner = _owner(facts)
    if len(facts.drivers) > 1:
        return _two_drivers(facts, owner)
    if facts.appender_since is None:
        return Decision(facts.spike, Verdict.UNKNOWN, "the appender does not answer: no driver can be heard")
    driver = facts.drivers[0]
    if owner is None or facts.epoch is None:
        return _without_epoch(facts, driver, now - max(driver.started_at, facts.appender_since), now)
    return _with_epoch(
        facts, driver, facts.epoch, now - max(facts.epoch.heartbeat_at, facts.appender_since), now
    )


def _owner(facts: SpikeFacts) -> Driver | None:
    """The live driver that has the open epoch."""
    epoch = facts.epoch
    if epoch is None or epoch.state is not EpochState.OPEN:
        return None
    return next((d for d in facts.drivers if d.id == epoch.driver), None)


def _without_driver(facts: SpikeFacts) -> Decision:
    if facts.refusal and facts.refusal[1] in BLOCKING:
        return Decision(facts.spike, Verdict.BLOCKED, facts.refusal[2])
    gone = (facts.epoch.driver,) if facts.epoch and facts.epoch.state is EpochState.OPEN else ()
    cause = f"no driver runs ({facts.last_exit})" if facts.last_exit else "no driver runs"
    return Decision(facts.spike, Verdict.MISSING, cause, Action(ActionKind.START, facts.spike, stop=gone))


def _two_drivers(facts: SpikeFacts, owner: Driver | None) -> Decision:
    """Keep the one that has the epoch, else the oldest, which waits the longest for it."""
    keep = owner or min(facts.drivers, key=lambda d: d.started_at)
    extra = tuple(d.id for d in facts.drivers if d.id != keep.id)
    cause = f"{len(facts.drivers)} drivers run, {keep.id} is kept"
    return Decision(facts.spike, Verdict.TWO_DRIVERS, cause, Action(ActionKind.STOP, facts.spike, stop=extra))


def _without_epoch(facts: SpikeFacts, driver: Driver, age: timedelta, now: datetime) -> Decision:
    """`age` is how long the driver could have been heard."""
    if facts.refusal and facts.refusal[0] >= driver.started_at:
        at, code, sentence = facts.refusal
        if code in BLOCKING:
            return Decision(facts.spike, Verdict.BLOCKED, sentence)
        if now - at <= START_GRACE:  # a driver that has not asked again since does not retry
            return Decision(facts.spike, Verdict.RETRYING, sentence)
    by = _fenced_by(facts, driver, now)
    if by is not None:
        return Decision(facts.spike, Verdict.WAITING, f"the driver is fenced by {by} and ends by itself")
    if age <= START_GRACE:
        return Decision(facts.spike, Verdict.STARTING, f"driver started {age.total_seconds():.0f} s ago")
    cause = f"driver runs for {age.total_seconds():.0f} s and has not opened an epoch"
    return _restart(facts, driver, cause)


def _fenced_by(facts: SpikeFacts, driver: Driver, now: datetime) -> str | None:
    """The operation that fenced the driver just now: it granted an epoch to nobody while the driver ran."""
    epoch = facts.epoch
    if epoch is None or epoch.state is not EpochState.RETIRED or epoch.driver == driver.id:
        return None
    just_now = driver.started_at <= epoch.opened_at and now - epoch.opened_at <= START_GRACE
    return epoch.driver if just_now else None


def _with_epoch(
    facts: SpikeFacts, driver: Driver, epoch: Epoch, silent: timedelta, now: datetime
) -> Decision:
    if silent > facts.objectives.hang:
        return _restart(facts, driver, f"no heartbeat for {silent.total_seconds():.0f} s")
    if epoch.phase == "waiting":
        return Decision(facts.spike, Verdict.WAITING, epoch.problem or "the appender is behind")
    if epoch.problem:
        return Decision(facts.spike, Verdict.RETRYING, epoch.problem)
    if epoch.batch_started_at and now - epoch.batch_started_at > max(facts.objectives.hang * 3, START_GRACE):
        minutes = (now - epoch.batch_started_at).total_seconds() / 60
        return _restart(facts, driver, f"one batch has taken {minutes:.0f} min so far")
    if epoch.phase == "starting" and now - epoch.opened_at > LONGEST_START:
        return _restart(facts, driver, f"the query starts for {LONGEST_START.total_seconds() / 60:.0f} min")
    if epoch.phase == "starting":
        return Decision(facts.spike, Verdict.STARTING, "the query starts")
    return Decision(facts.spike, Verdict.RUNNING, epoch.phase or "running")


def _restart(facts: SpikeFacts, driver: Driver, cause: str) -> Decision:
    return Decision(
        facts.spike, Verdict.HUNG, cause, Action(ActionKind.RESTART, facts.spike, stop=(driver.id,))
    )
