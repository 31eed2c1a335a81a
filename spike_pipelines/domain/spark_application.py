"""A spike as Kubernetes has it: what the operator's state means, and for how long it may stay in it.

The operator is the first level of recovery; `STATES` says what it is doing in each of its states and when
it has had time enough. A state that is not in the table was not understood, and nobody acts on it (I12).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class AppState(StrEnum):
    """The operator's own names (`status.applicationState.state`). `UNSEEN` stands for any other text."""

    NEW = ""
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SUBMISSION_FAILED = "SUBMISSION_FAILED"
    PENDING_RERUN = "PENDING_RERUN"
    INVALIDATING = "INVALIDATING"
    SUCCEEDING = "SUCCEEDING"
    FAILING = "FAILING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    RESUMING = "RESUMING"
    UNKNOWN = "UNKNOWN"
    UNSEEN = "?"


@dataclass(frozen=True, slots=True)
class StateRule:
    """`patience`: for how long the operator may stay here before it is called stuck; None: for ever, other
    rules judge."""

    meaning: str
    patience: timedelta | None


_SOON = timedelta(minutes=2)

STATES: Mapping[AppState, StateRule] = {
    AppState.NEW: StateRule("the operator has not looked yet", _SOON),
    AppState.SUBMITTED: StateRule("the driver pod is being scheduled and started", timedelta(minutes=5)),
    AppState.RUNNING: StateRule("the driver pod runs; whether it works, the ledger tells", None),
    AppState.COMPLETED: StateRule("the driver ended and the operator is done with it", timedelta(0)),
    AppState.FAILED: StateRule("the driver failed and the operator has given up", timedelta(0)),
    AppState.SUBMISSION_FAILED: StateRule(
        "spark-submit failed, the operator tries again", timedelta(minutes=3)
    ),
    AppState.PENDING_RERUN: StateRule(
        "the old driver's resources go, a new one is submitted then", timedelta(seconds=60)
    ),
    AppState.INVALIDATING: StateRule("the spec changed, the old driver is ended", _SOON),
    AppState.SUCCEEDING: StateRule("the driver ended well, the operator restarts it", _SOON),
    AppState.FAILING: StateRule("the driver failed, the operator waits to restart it", timedelta(minutes=5)),
    AppState.SUSPENDING: StateRule("the driver is being ended", _SOON),
    AppState.SUSPENDED: StateRule("there is no driver until `suspend` is false", _SOON),
    AppState.RESUMING: StateRule("a driver is being submitted", _SOON),
    AppState.UNKNOWN: StateRule("the operator lost sight of the driver pod", timedelta(minutes=5)),
}
TERMINAL = frozenset({AppState.COMPLETED, AppState.FAILED})  # `suspend` does nothing here
ENDING = frozenset({AppState.FAILING, AppState.SUCCEEDING, *TERMINAL})


@dataclass(frozen=True, slots=True)
class Controls:
    """Annotations, by which people and this supervisor steer one spike. `paused` and `restart` are people's:
    `restart` is done once for each new text. `restarted`, `restarting` and `overlays` are ours."""

    paused: str | None = None
    restart: str | None = None
    restarted: str | None = None
    restarting: str | None = None
    overlays: str = ""


@dataclass(frozen=True, slots=True)
class ObservedApplication:
    """One SparkApplication, as far as supervision needs it. `submission` is the identity of its driver at
    the appender; `state_text` is what `state` was read from; `problem` is why it could not be understood.
    `spec_hash` is the version of the application file, `digest` names the spec as it was rendered from it and
    from what all spikes share, `live` the spec as it stands, whoever changed it. `as_of` is the version of
    the cluster that the look saw."""

    spike: str
    name: str
    uid: str
    resource_version: str
    state: AppState
    state_text: str = ""
    error: str = ""
    submission: str | None = None
    submitted_at: datetime | None = None
    created_at: datetime | None = None
    driver_pod: str | None = None
    executions: int = 0  # drivers since the spec is as it is, this one included
    suspend: bool = False
    deleting: bool = False
    spec_hash: str | None = None
    digest: str | None = None
    live: str | None = None
    driver_memory: int | None = None  # MiB, as the resource has it; None if that is not understood
    controls: Controls = Controls()
    problem: str | None = None
    as_of: str = ""

    @property
    def deployed(self) -> str | None:
        """What was deployed, in one word: another image is another deployment of the same version."""
        return self.digest or self.spec_hash


@dataclass(frozen=True, slots=True)
class PodSight:
    """A driver pod of a suspect. `waiting`, `terminated` are the container's reasons as Kubernetes gives
    them (`ImagePullBackOff`, `OOMKilled`), `reason` the pod's own (`Evicted`), `message` any of theirs."""

    name: str
    uid: str
    submission: str | None
    phase: str
    reason: str = ""
    message: str = ""
    waiting: str = ""
    terminated: str = ""
    exit_code: int | None = None
    disrupted: str = ""  # reason of the condition DisruptionTarget

    @property
    def live(self) -> bool:
        return self.phase in {"Pending", "Running", "Unknown"}


@dataclass(frozen=True, slots=True)
class Life:
    """One submission: when it was first seen, how it ended (a `Trouble`; `UNSEEN` if the next one alone tells
    that it did; None if it lives, or was ended on purpose), and the uid of its pod, once anybody had cause to
    look: a driver may name itself by it."""

    submission: str
    seen_at: datetime
    ending: str | None = None
    uid: str | None = None


KEPT_LIVES = 10
CACHE_BEHIND = timedelta(minutes=10)  # an API server's; seconds, but for one that is cut off
UNSEEN = "unseen"  # `Trouble.UNSEEN`
ON_PURPOSE = frozenset({
    AppState.SUSPENDING, AppState.SUSPENDED, AppState.RESUMING, AppState.INVALIDATING,
    AppState.SUBMISSION_FAILED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the supervisor remembers of a SparkApplication, since the operator keeps no times: since when it
    is in its state (`state_text` `absent`: since when it is gone; `undeployed`: on purpose) and has its spec,
    and its last lives, oldest first."""

    spike: str
    uid: str
    state_text: str
    since: datetime
    spec_hash: str | None
    spec_since: datetime
    lives: tuple[Life, ...] = ()

    def names(self, submission: str | None) -> frozenset[str]:
        """What the driver of this submission may call itself at the appender, as far as is known."""
        return frozenset(
            name
            for life in self.lives
            if life.submission == submission
            for name in (life.submission, life.uid)
            if name is not None
        )

    def overtook(self, app: ObservedApplication, now: datetime) -> bool:
        """Whether the resource is seen as it was before: a list from a cache may be behind an earlier one,
        and a submission's id does not come back. No cache is for long: what was restored is believed."""
        *past, last = self.lives or (None,)
        if last is None or self.uid != app.uid or now - last.seen_at > CACHE_BEHIND:
            return False
        return app.submission in {life.submission for life in past if life is not None}


ABSENT = "absent"
UNDEPLOYED = "undeployed"


def sight(
    before: Sighting | None,
    app: ObservedApplication | None,
    ending: str | None,
    now: datetime,
    uid: str | None = None,
) -> Sighting | None:
    """What is remembered after this look. The same look again gives the same; a spike that was never there
    is not remembered. `ending` is how the present submission ended, `uid` its pod's; None: nobody saw."""
    if app is None:
        if before is None or before.state_text in {ABSENT, UNDEPLOYED}:
            return before
        return replace(before, state_text=ABSENT, since=now)
    if before is None or before.uid != app.uid:
        begun = _begun(app, now)
        before = Sighting(app.spike, app.uid, app.state_text, begun, app.deployed, begun)
    if before.overtook(app, now):
        return before
    lives = _replaced(before, app)
    if before.state_text != app.state_text:
        before = replace(before, state_text=app.state_text, since=now)
    if before.spec_hash != app.deployed:
        before = replace(before, spec_hash=app.deployed, spec_since=now)
    return replace(before, lives=_lives(lives, app.submission, ending, uid, now))


def missed(app: ObservedApplication, before: Sighting | None) -> bool:
    """Whether its driver ended since the last look, and this one does not show how: what there was in between
    is worth a request."""
    if before is None or before.uid != app.uid or app.problem is not None or not _may_have_ended(before, app):
        return False
    reruns = app.state is AppState.PENDING_RERUN
    return _succeeded(before, app) or (reruns and before.state_text != AppState.PENDING_RERUN)


def _may_have_ended(before: Sighting, app: ObservedApplication) -> bool:
    """Of itself, and nobody saw it: an end that was asked for is none."""
    if not before.lives or before.lives[-1].ending is not None:
        return False
    return before.spec_hash == app.deployed and before.state_text not in ON_PURPOSE


def _succeeded(before: Sighting, app: ObservedApplication) -> bool:
    """The operator runs another driver of the same spec: for a new one it counts from 1."""
    return app.submission not in {None, before.lives[-1].submission} and app.executions > 1


def _replaced(before: Sighting, app: ObservedApplication) -> tuple[Life, ...]:
    """A driver that nobody asked to end has ended, if the operator runs another one of the same spec."""
    lives = before.lives
    if not _may_have_ended(before, app) or not _succeeded(before, app):
        return lives
    return (*lives[:-1], replace(lives[-1], ending=UNSEEN))


def _begun(app: ObservedApplication, now: datetime) -> datetime:
    """A state that is seen for the first time can be as old as the last thing the operator dated."""
    return min(now, app.submitted_at or app.created_at or now)


def _lives(
    lives: tuple[Life, ...], submission: str | None, ending: str | None, uid: str | None, now: datetime
) -> tuple[Life, ...]:
    if submission is None:
        return lives
    if not lives or lives[-1].submission != submission:
        lives = (*lives, Life(submission, now))
    last = lives[-1]
    last = replace(last, ending=last.ending or ending, uid=last.uid or uid)
    return (*lives[:-1], last)[-KEPT_LIVES:]
