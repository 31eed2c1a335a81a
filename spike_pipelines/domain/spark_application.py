"""A spike as Kubernetes has it: what the operator's state means, and for how long it may stay in it.

The operator is the first level of recovery; `STATES` says what it is doing in each of its states and when
it has had time enough. A state that is not in the table was not understood, and nobody acts on it (I12).
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
