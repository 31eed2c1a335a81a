"""What the supervisor makes of a spike, and what it does about it: facts and `now` in, one decision out.

Waiting for the appender, or for something outside that a driver itself retries, is never a reason to
restart it; what could not be observed never is either (I12). The first rule that matches decides.
A driver's ages are taken as of its last heartbeat: what nobody could hear since says nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.observed import DriverState, ObservedDriver, Recovery, Refusal, listened_since
from spike_pipelines.domain.overlays import NewOverlay
from spike_pipelines.domain.spike import Objectives
from spike_pipelines.domain.words import count_of


class Verdict(StrEnum):
    RUNNING = "RUNNING"
    STARTING = "STARTING"
    WAITING = "WAITING"  # for the appender, or for another driver's epoch to end
    RETRYING = "RETRYING"  # the driver sees trouble outside and tries again by itself
    TWO_DRIVERS = "TWO_DRIVERS"
    HUNG = "HUNG"
    MISSING = "MISSING"
    BLOCKED = "BLOCKED"  # only a person can decide: the topic changed, records are lost, a token is refused
    UNKNOWN = "UNKNOWN"  # whether the driver lives and works could not be observed
    # on Kubernetes, see `domain/application_supervision.py`
    STUCK = "STUCK"  # the operator does not go on
    CRASHING = "CRASHING"  # more often than the operator's own restarts mend
    PENDING = "PENDING"  # no node, no image
    NOT_DEPLOYED = "NOT_DEPLOYED"
    PAUSED = "PAUSED"  # a person took supervision away
    SUSPENDED = "SUSPENDED"  # a person did
    QUARANTINED = "QUARANTINED"
    DRIFTED = "DRIFTED"


# What a recovery may be noted for; in the other cases nothing is ever done.
MENDED = frozenset(
    {
        Verdict.STARTING,  # a person asked for a restart
        Verdict.TWO_DRIVERS,
        Verdict.HUNG,
        Verdict.MISSING,
        Verdict.BLOCKED,
        Verdict.STUCK,
        Verdict.CRASHING,
        Verdict.PENDING,
        Verdict.DRIFTED,
    }
)


@dataclass(frozen=True, slots=True)
class SpikeFacts:
    """One spike at one moment. `drivers` are all that the cluster knows, ended ones too; `recoveries` the
    last hour's, oldest first; `appender_since` is when the appender began to answer, None while it does
    not: a driver cannot be blamed for a silence that is the listener's. `unread` is how many records
    Kafka has that the driver has not read, None if nobody asked or Kafka did not answer. `obstacle` is why
    no driver can be started until a person has done something; `version` that of the application file now,
    None where the file alone changes nothing."""

    spike: str
    objectives: Objectives
    drivers: Sequence[ObservedDriver]
    epoch: Epoch | None
    recoveries: Sequence[Recovery]
    appender_since: datetime | None
    refusal: Refusal | None = None
    unread: int | None = None
    obstacle: str | None = None
    version: str | None = None

    @property
    def listened_since(self) -> datetime | None:
        return listened_since(self.appender_since, self.refusal)

    @property
    def live(self) -> tuple[ObservedDriver, ...]:
        return tuple(d for d in self.drivers if d.state is not DriverState.EXITED)


class ActionKind(StrEnum):
    START = "start"
    RESTART = "restart"
    STOP = "stop"
    # on Kubernetes
    KICK = "kick"
    RESUME = "resume"  # the second half of a restart
    RESUBMIT = "resubmit"  # a restart of what the operator is done with
    RECREATE = "recreate"
    OVERLAY = "overlay"
    CONVERGE = "converge"  # make the resource carry the overlays that hold
    PAGE = "page"


@dataclass(frozen=True, slots=True)
class Action:
    """`stop` names the drivers to fence and end; `START` and `RESTART` then start one. `rung` is the step
    of the ladder as recoveries note it, `request` the text of a person's annotation that asked for it."""

    kind: ActionKind
    spike: str
    stop: tuple[str, ...] = ()
    rung: str | None = None
    overlay: NewOverlay | None = None
    request: str | None = None

    @property
    def noted(self) -> str:
        """A plain text: Dagster's events take no enumeration that they do not know."""
        return str(self.rung or self.kind)


@dataclass(frozen=True, slots=True)
class Decision:
    """`action` is None where nothing is to be done, or not yet: then `cause` says why. `trouble` is the
    kind of it, None where nothing is wrong that the supervisor could mend."""

    spike: str
    verdict: Verdict
    cause: str
    action: Action | None = None
    trouble: Trouble | None = None


START_GRACE = timedelta(seconds=120)
LONGEST_START = timedelta(minutes=10)
BLOCKING = frozenset({"topic_changed", "lost", "spec_changed"})
TOKEN_REFUSED = "unauthorized"  # noqa: S105  # a code, no password
_LONG_BATCH = "one batch has taken"
_BACK_OFF = BackOff(timedelta(seconds=5), timedelta(minutes=5))
_MEANINGS: Mapping[int, str] = {
    Exit.STOPPED: "STOPPED: it was asked to",
    Exit.GAVE_UP: "GAVE_UP: failures without an end, see its log",
    Exit.INVALID: "INVALID: application file, environment or transform is wrong",
    Exit.FENCED: "FENCED: its epoch is over: another driver has the spike, or a person took it back",
    Exit.REFUSED: "REFUSED: the topic changed or records are lost",
}


def next_action_at(recoveries: Sequence[Recovery]) -> datetime | None:
    """When the supervisor may act again: at once at first, then 5 s, 10 s, 20 s … 5 min after the last."""
    if not recoveries:
        return None
    return recoveries[-1].at + _BACK_OFF.after(len(recoveries))


def supervise(facts: SpikeFacts, now: datetime) -> Decision:
    """The verdict on one spike and the action, held back while the last one has its time to help."""
    decision = judge(facts, now)
    wait_until = _next_try(facts, decision)
    if decision.action is None or wait_until is None or now >= wait_until:
        return decision
    wait = (wait_until - now).total_seconds()
    cause = f"{decision.cause}; next attempt in {wait:.0f} s ({len(facts.recoveries)} in the last hour)"
    return Decision(facts.spike, decision.verdict, cause)


def _next_try(facts: SpikeFacts, decision: Decision) -> datetime | None:
    """A blocked spike is asked for seldom from the start: a person's decision takes its time."""
    if decision.verdict is Verdict.BLOCKED and facts.refusal:
        tried = [facts.refusal.at, *(r.at for r in facts.recoveries)]
        return max(tried) + _BACK_OFF.longest
    return next_action_at(facts.recoveries)


def without_progress(epoch: Epoch, objectives: Objectives) -> timedelta | None:
    """For how long the engine of a driver that reads had given no sign of life when the driver was last
    heard of, if that is longer than the objective; None otherwise, or if the driver does not tell."""
    if epoch.phase is not Phase.READING or epoch.progress_at is None:
        return None
    still = epoch.heartbeat_at - epoch.progress_at
    return still if still > objectives.hang else None


def last_exit(drivers: Iterable[ObservedDriver]) -> str | None:
    """How the newest ended driver ended, in words."""
    ended = [d for d in drivers if d.state is DriverState.EXITED]
    if not ended:
        return None
    code = max(ended, key=lambda d: d.started_at).exit_code
    if code is None:
        return "the last one vanished"
    if code < 0:
        return f"the last one was killed by signal {-code}"
    return f"the last one exited with {code} ({_MEANINGS.get(code, 'no code of a driver: see its log')})"


def judge(facts: SpikeFacts, now: datetime) -> Decision:
    """The verdict and the action it calls for, whatever was tried before."""
    unseen = next((d for d in facts.drivers if d.state is DriverState.UNKNOWN), None)
    if unseen is not None:
        cause = unseen.problem or f"driver {unseen.driver} could not be looked at"
        return Decision(facts.spike, Verdict.UNKNOWN, cause)
    if not facts.live:
        return _without_driver(facts, now)
    owner = _owner(facts)
    if len(facts.live) > 1:
        return _two_drivers(facts, owner)
    listened = facts.listened_since
    if listened is None:
        return Decision(facts.spike, Verdict.UNKNOWN, "the appender does not answer: no driver can be heard")
    driver = facts.live[0]
    if owner is None or facts.epoch is None:
        since = max(filter(None, (driver.ran_at, driver.started_at, listened)))
        return _without_epoch(facts, driver, now - since, now)
    silent = now - max(facts.epoch.heartbeat_at, listened)
    if silent > facts.objectives.hang and (refused := _token_refused(facts, driver, now)):
        return Decision(facts.spike, Verdict.BLOCKED, refused)
    return _with_epoch(facts, driver, facts.epoch, silent)


def _owner(facts: SpikeFacts) -> ObservedDriver | None:
    """The live driver that has the open epoch."""
    epoch = facts.epoch
    if epoch is None or epoch.state is not EpochState.OPEN:
        return None
    return next((d for d in facts.live if d.driver == epoch.driver), None)


def _without_driver(facts: SpikeFacts, now: datetime) -> Decision:
    open_epoch = facts.epoch if facts.epoch and facts.epoch.state is EpochState.OPEN else None
    if open_epoch and (cause := _may_live(facts, open_epoch, now)):
        return Decision(facts.spike, Verdict.UNKNOWN, cause)
    gone = (open_epoch.driver,) if open_epoch else ()
    start = Action(ActionKind.START, facts.spike, stop=gone)
    if facts.refusal and facts.refusal.code in BLOCKING:
        # Asked again now and then: once a person has decided, the epoch is granted, and the block is over.
        return Decision(facts.spike, Verdict.BLOCKED, facts.refusal.message, start)
    if facts.obstacle:
        return Decision(facts.spike, Verdict.BLOCKED, facts.obstacle)
    last = max(facts.drivers, key=lambda d: d.started_at, default=None)
    if last is not None and (refused := _token_refused(facts, last)):
        return Decision(facts.spike, Verdict.BLOCKED, refused, start)
    ended = last_exit(facts.drivers)
    cause = f"no driver runs ({ended})" if ended else "no driver runs"
    return Decision(facts.spike, Verdict.MISSING, cause, start)


def _may_live(facts: SpikeFacts, epoch: Epoch, now: datetime) -> str | None:
    """Why the owner of the epoch may be alive though the cluster does not show it: its end was not seen,
    and its silence is not long enough, or nobody listens."""
    if any(d.driver == epoch.driver for d in facts.drivers):  # not live, so it is known to have ended
        return None
    unseen = f"driver {epoch.driver} has the epoch and is not in sight, and its end was not seen"
    if facts.listened_since is None:
        return f"{unseen}; the appender does not answer, so it cannot be heard either"
    silent = now - max(epoch.heartbeat_at, facts.listened_since)
    if silent > facts.objectives.hang:
        return None
    return f"{unseen}; last heard of {(now - epoch.heartbeat_at).total_seconds():.0f} s ago"


def _two_drivers(facts: SpikeFacts, owner: ObservedDriver | None) -> Decision:
    """Keep the one that has the epoch, else the oldest, which waits the longest for it."""
    keep = owner or min(facts.live, key=lambda d: d.started_at)
    extra = tuple(d.driver for d in facts.live if d.driver != keep.driver)
    cause = f"{len(facts.live)} drivers run, {keep.driver} is kept"
    return Decision(facts.spike, Verdict.TWO_DRIVERS, cause, Action(ActionKind.STOP, facts.spike, stop=extra))


def _without_epoch(facts: SpikeFacts, driver: ObservedDriver, age: timedelta, now: datetime) -> Decision:
    """`age` is how long the driver could have been heard."""
    if (refused := _token_refused(facts, driver, now)) is not None:
        return Decision(facts.spike, Verdict.BLOCKED, refused)
    if facts.refusal and facts.refusal.code != TOKEN_REFUSED and facts.refusal.at >= driver.started_at:
        if facts.refusal.code in BLOCKING:
            return Decision(facts.spike, Verdict.BLOCKED, facts.refusal.message)
        if now - facts.refusal.at <= START_GRACE:  # a driver that has not asked again since does not retry
            return Decision(facts.spike, Verdict.RETRYING, facts.refusal.message)
    by = _fenced_by(facts, driver, now)
    if by is not None:
        return Decision(facts.spike, Verdict.WAITING, f"the driver is fenced by {by} and ends by itself")
    if age <= START_GRACE:
        return Decision(facts.spike, Verdict.STARTING, f"driver started {age.total_seconds():.0f} s ago")
    cause = f"driver runs for {age.total_seconds():.0f} s and has not opened an epoch"
    return _restart(facts, driver, cause)


def _token_refused(facts: SpikeFacts, driver: ObservedDriver, now: datetime | None = None) -> str | None:
    """What the driver was told if that was the last it was told: another process would be told the same. It
    asks again by itself; a live one (`now`) that does not any more has another trouble."""
    refusal = facts.refusal
    if refusal is None or (refusal.code, refusal.driver) != (TOKEN_REFUSED, driver.driver):
        return None
    epoch = facts.epoch
    if epoch is not None and epoch.driver == driver.driver and epoch.heartbeat_at > refusal.at:
        return None  # it was heard since
    return None if now is not None and now - refusal.at > START_GRACE else refusal.message


def _fenced_by(facts: SpikeFacts, driver: ObservedDriver, now: datetime) -> str | None:
    """The operation that fenced the driver just now: it granted an epoch to nobody while the driver ran."""
    epoch = facts.epoch
    if epoch is None or epoch.state is not EpochState.RETIRED or epoch.driver == driver.driver:
        return None
    just_now = driver.started_at <= epoch.opened_at and now - epoch.opened_at <= START_GRACE
    return epoch.driver if just_now else None


def _with_epoch(facts: SpikeFacts, driver: ObservedDriver, epoch: Epoch, silent: timedelta) -> Decision:
    if silent > facts.objectives.hang:
        return _restart(facts, driver, f"no heartbeat for {silent.total_seconds():.0f} s")
    if epoch.phase is Phase.WAITING:
        return Decision(facts.spike, Verdict.WAITING, epoch.problem or "the appender is behind")
    if epoch.phase is Phase.RETRYING:
        return _retrying(facts, driver, epoch, epoch.problem or "the driver tries again")
    if cause := _hung(facts, epoch):
        return _restart(facts, driver, cause)
    if epoch.problem:  # told until the first success after it
        return _retrying(facts, driver, epoch, epoch.problem)
    if epoch.phase is Phase.STARTING:
        return Decision(facts.spike, Verdict.STARTING, "the query starts")
    return Decision(facts.spike, Verdict.RUNNING, epoch.phase or "running")


def _retrying(facts: SpikeFacts, driver: ObservedDriver, epoch: Epoch, problem: str) -> Decision:
    """A driver reads its application file once: what it stumbles over may be mended in the file since."""
    if facts.version in {None, epoch.application_version}:
        return Decision(facts.spike, Verdict.RETRYING, problem)
    cause = f"{problem}; the application file is another one since this driver began"
    return _restart(facts, driver, cause, Verdict.DRIFTED)


def _hung(facts: SpikeFacts, epoch: Epoch) -> str | None:
    """Why the driver, which beats, does not work; None if it does."""
    batch = epoch.heartbeat_at - (epoch.batch_started_at or epoch.heartbeat_at)
    if batch > batch_allowance(facts):
        return f"{_LONG_BATCH} {batch.total_seconds() / 60:.0f} min so far"
    if epoch.phase is Phase.STARTING and epoch.heartbeat_at - epoch.opened_at > LONGEST_START:
        return f"the query starts for {LONGEST_START.total_seconds() / 60:.0f} min"
    still = without_progress(epoch, facts.objectives)
    if still is not None and facts.unread:
        unread = count_of(facts.unread, "record waits", "records wait")
        return f"the query has not moved for {still.total_seconds():.0f} s, and {unread} to be read"
    return None


def batch_allowance(facts: SpikeFacts) -> timedelta:
    """How long one batch may take: twice as long after each restart for a long batch within the hour, so
    that one which really needs longer is not begun again and again."""
    restarts = sum(r.cause.startswith(_LONG_BATCH) for r in facts.recoveries)
    longest: timedelta = max(facts.objectives.hang * 3, START_GRACE) * 2 ** min(restarts, 6)
    return longest


def _restart(
    facts: SpikeFacts, driver: ObservedDriver, cause: str, verdict: Verdict = Verdict.HUNG
) -> Decision:
    action = Action(ActionKind.RESTART, facts.spike, stop=(driver.driver,))
    return Decision(facts.spike, verdict, cause, action)
