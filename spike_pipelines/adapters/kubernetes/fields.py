"""The few fields of SparkApplications and pods that supervision needs, as values of the domain."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from spike_pipelines.adapters.kubernetes.patches import digest
from spike_pipelines.domain.kubernetes_names import (
    FILE_LABEL,
    SPEC_DIGEST_ANNOTATION,
    SPEC_HASH_ANNOTATION,
    SPIKE_LABEL,
)
from spike_pipelines.domain.spark_application import AppState, Controls, ObservedApplication, PodSight

PREFIX = "spike-pipelines.io/"
PAUSED, RESTART = PREFIX + "pause", PREFIX + "restart"  # people's
RESTARTED, RESTARTING = PREFIX + "restarted", PREFIX + "restarting"  # ours, as are those below
KICKED, OVERLAYS = PREFIX + "kicked", PREFIX + "overlays"
OURS = (RESTARTED, RESTARTING, KICKED, OVERLAYS)
OF_ONE_RESOURCE = (PAUSED, RESTART, *OURS)  # said of this one: what is made again in its place is another
APP_NAME_LABEL = "sparkoperator.k8s.io/app-name"
SUBMISSION_LABEL = "sparkoperator.k8s.io/submission-id"
DRIVER = "spark-role=driver"
MOST_ERROR = 8000  # characters: of a submission that failed it is a log, whose exception comes late


class _Part(BaseModel):
    """Others' documents: what is not needed is not looked at."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)


class _Metadata(_Part):
    name: str
    uid: str
    resource_version: str
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _DriverSpec(_Part):
    memory: str | None = None


class _AppSpec(_Part):
    suspend: bool | None = None
    driver: _DriverSpec = _DriverSpec()


class _State(_Part):
    state: str = ""
    error_message: str | None = None


class _DriverInfo(_Part):
    pod_name: str | None = None


class _AppStatus(_Part):
    application_state: _State = _State()
    submission_id: str | None = Field(None, alias="submissionID")
    last_submission_attempt_time: datetime | None = None
    driver_info: _DriverInfo = _DriverInfo()
    execution_attempts: int | None = None


class _App(_Part):
    metadata: _Metadata
    spec: _AppSpec = _AppSpec()
    status: _AppStatus = _AppStatus()


def application(item: Any, as_of: str = "") -> ObservedApplication:
    """`as_of` is the version of the list that it was in.

    One that is not as the operator writes it has a `problem`, so that the others are served (I11)."""
    try:
        return replace(_observed(_App.model_validate(item), digest(item.get("spec") or {})), as_of=as_of)
    except ValidationError as error:
        return replace(_misshapen(item, error), as_of=as_of)


def _observed(app: _App, live: str) -> ObservedApplication:
    meta, status = app.metadata, app.status
    notes = meta.annotations or {}
    text = status.application_state.state
    known = text in AppState._value2member_map_ and text != AppState.UNSEEN
    return ObservedApplication(
        spike=(meta.labels or {})[SPIKE_LABEL],
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        state=AppState(text) if known else AppState.UNSEEN,
        state_text=text,
        error=(status.application_state.error_message or "")[:MOST_ERROR],
        submission=status.submission_id or None,
        submitted_at=status.last_submission_attempt_time,
        created_at=meta.creation_timestamp,
        driver_pod=status.driver_info.pod_name or None,
        executions=status.execution_attempts or 0,
        suspend=bool(app.spec.suspend),
        deleting=meta.deletion_timestamp is not None,
        spec_hash=notes.get(SPEC_HASH_ANNOTATION),
        digest=notes.get(SPEC_DIGEST_ANNOTATION),
        live=live,
        driver_memory=_mebibytes(app.spec.driver.memory or ""),
        controls=Controls(
            paused=notes.get(PAUSED),
            restart=notes.get(RESTART),
            restarted=notes.get(RESTARTED),
            restarting=notes.get(RESTARTING),
            overlays=notes.get(OVERLAYS, ""),
        ),
    )


def _mebibytes(memory: str) -> int | None:
    """As Spark reads it: `2g`, `512M`, `1536mb`."""
    found = re.fullmatch(r"(\d{1,9})\s*(m|g|t)(?:i?b)?", memory.strip().lower())
    return None if found is None else int(found[1]) * {"m": 1, "g": 1024, "t": 1024**2}[found[2]]


def _misshapen(item: Any, error: ValidationError) -> ObservedApplication:
    """Raises `ValidationError` where not even a name can be read: then the list is not understood."""
    meta = _Metadata.model_validate(item["metadata"] if isinstance(item, dict) else None)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return ObservedApplication(
        spike=(meta.labels or {})[SPIKE_LABEL],
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        state=AppState.UNSEEN,
        problem=f"SparkApplication {meta.name}: {where}: {first['msg']}: not as an operator writes it",
    )


@dataclass(frozen=True, slots=True)
class ApplicationFile:
    """A ConfigMap with a spike's application file as it was in one version."""

    name: str
    uid: str
    version: str
    made: datetime


def application_file(item: Any) -> ApplicationFile:
    meta = _Metadata.model_validate(item["metadata"])
    made = meta.creation_timestamp or datetime.max.replace(tzinfo=UTC)
    return ApplicationFile(meta.name, meta.uid, (meta.labels or {})[FILE_LABEL], made)


class _Terminated(_Part):
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


class _Waiting(_Part):
    reason: str = ""
    message: str = ""


class _ContainerState(_Part):
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _Container(_Part):
    state: _ContainerState = _ContainerState()


class _Condition(_Part):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _PodStatus(_Part):
    phase: str = "Unknown"
    reason: str = ""
    message: str = ""
    conditions: list[_Condition] = []
    container_statuses: list[_Container] = []


class _Pod(_Part):
    metadata: _Metadata
    status: _PodStatus = _PodStatus()


def pod(item: Any) -> tuple[str, datetime, PodSight]:
    """The resource's name, when the pod was made, and the pod. Raises `ValidationError`."""
    found = _Pod.model_validate(item)
    labels, status = found.metadata.labels or {}, found.status
    waiting = next((c.state.waiting for c in status.container_statuses if c.state.waiting), None)
    ended = next((c.state.terminated for c in status.container_statuses if c.state.terminated), None)
    scheduled = next((c for c in status.conditions if c.type == "PodScheduled" and c.status == "False"), None)
    disrupted = next(
        (c for c in status.conditions if c.type == "DisruptionTarget" and c.status == "True"), None
    )
    messages = (status.message, *(part.message for part in (waiting, ended, scheduled) if part))
    sight = PodSight(
        name=found.metadata.name,
        uid=found.metadata.uid,
        submission=labels.get(SUBMISSION_LABEL),
        phase=status.phase,
        reason=status.reason or (scheduled.reason if scheduled else ""),
        message=re.sub(r"\s+", " ", next(filter(None, messages), ""))[:1000],
        waiting=waiting.reason if waiting else "",
        terminated=ended.reason if ended else "",
        exit_code=ended.exit_code if ended else None,
        disrupted=disrupted.reason if disrupted else "",
    )
    made = found.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC)
    return labels.get(APP_NAME_LABEL, ""), made, sight
