"""Stands in for the Spark operator where a cluster has none: SparkApplication → submission → status.

It goes through the operator's states as its controller does (restart policy Always; deleting a driver's pod
and waiting until it is gone before the next submission), and writes its words. Web UIs, webhooks, metrics and
expiry are left out. For tests only; what is measured with it says so.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from spike_pipelines.adapters.kubernetes import Api
from spike_pipelines.adapters.kubernetes.fields import APP_NAME_LABEL
from spike_pipelines.domain.errors import Conflict, ObjectMissing, Transient
from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, VERSION

POLL_SECONDS = 0.3
UNSEEN = {"FAILING", "PENDING_RERUN"}  # left within less than a second, as soon as it is due
GONE = {
    "sparkApplicationId": None, "terminationTime": None, "executorState": None,
    "driverInfo": {"podName": None},  # required, if empty
}  # fmt: skip
PHASES = {"Pending": "SUBMITTED", "Running": "RUNNING", "Succeeded": "SUCCEEDING", "Failed": "FAILING"}


class SubmissionFailed(Exception):
    """What spark-submit said."""


@dataclass(frozen=True)
class Step:
    """What the operator does next of one application: first the deed, then the state it writes."""

    state: str
    deed: str = ""  # submit, delete
    error: str = ""
    anew: bool = False  # attempts count from nothing


AT_ONCE = {
    "": Step("SUBMITTED", "submit"),
    "RESUMING": Step("SUBMITTED", "submit"),
    "SUCCEEDING": Step("PENDING_RERUN", "delete"),
    "INVALIDATING": Step("PENDING_RERUN", "delete", anew=True),
    "SUSPENDING": Step("SUSPENDED", "delete"),
}
AWAY = {"COMPLETED", "FAILED", "SUSPENDING", "SUSPENDED"}


def next_step(app: dict, pod: dict | None, changed: bool, now: datetime) -> Step | None:
    """None where all stays as it is. `pod` is the driver's; `changed` says that the spec is another one
    than at the last look (`suspend` apart)."""
    state, suspended = _state(app), bool(app["spec"].get("suspend"))
    if suspended and state not in AWAY:
        return Step("SUSPENDING")
    if changed and state:
        return Step("INVALIDATING")
    return AT_ONCE.get(state) or _when_due(app, state, pod, now) or _as_the_pod_is(state, pod)


def _when_due(app: dict, state: str, pod: dict | None, now: datetime) -> Step | None:
    if state == "FAILING" and _due(app, "onFailureRetryInterval", now):
        return Step("PENDING_RERUN", "delete")
    if state == "SUBMISSION_FAILED" and _due(app, "onSubmissionFailureRetryInterval", now):
        return Step("SUBMITTED", "submit") if pod is None else Step(state, "delete")
    if state == "PENDING_RERUN" and pod is None:
        return Step("SUBMITTED", "submit")
    if state == "SUSPENDED" and pod is None and not app["spec"].get("suspend"):
        return Step("RESUMING")
    return None


def _state(app: dict) -> str:
    return app.get("status", {}).get("applicationState", {}).get("state", "")


def _as_the_pod_is(state: str, pod: dict | None) -> Step | None:
    if state not in {"SUBMITTED", "RUNNING", "UNKNOWN"}:
        return None
    if pod is None:
        return Step("FAILING", error="driver pod not found")
    ended = _terminated(pod)
    new = PHASES.get(pod.get("status", {}).get("phase", ""), "UNKNOWN")
    if ended is not None and new == "RUNNING":
        new = "FAILING" if ended["exitCode"] else "SUCCEEDING"
    error = ""
    if new == "FAILING":
        error = "driver container status missing"
        if ended is not None:
            code, reason = ended["exitCode"], ended.get("reason", "")
            error = f"driver container failed with ExitCode: {code}, Reason: {reason}"
    return None if new == state else Step(new, error=error)


def _terminated(pod: dict) -> dict | None:
    containers = pod.get("status", {}).get("containerStatuses") or []
    return next((c["state"]["terminated"] for c in containers if c["state"].get("terminated")), None)


def _due(app: dict, interval: str, now: datetime) -> bool:
    """The wait grows with the attempts, without a cap, and only a new spec makes it short again."""
    status = app["status"]
    seconds = app["spec"]["restartPolicy"][interval] * status["submissionAttempts"]
    return now >= datetime.fromisoformat(status["lastSubmissionAttemptTime"]) + timedelta(seconds=seconds)


@dataclass
class Reconciler:
    """`submit(app, submission)` has the driver's pod made, named `<application>-driver`."""

    api: Api
    namespace: str
    submit: Callable[[dict, str], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    specs: dict[str, dict] = field(default_factory=dict)  # by uid, as last seen
    unseen: dict[str, dict | None] = field(default_factory=dict)  # by name: annotations when it was lost

    @property
    def apps(self) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}"

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def run(self, stop: threading.Event) -> None:
        """An API server that is away is asked again."""
        while not stop.wait(POLL_SECONDS):
            with contextlib.suppress(Transient):
                self.reconcile()

    def lose(self, name: str) -> None:
        """The event by which the operator would leave PENDING_RERUN (spark-operator#2905): it looks at this
        application again when somebody writes an annotation."""
        self.unseen[name] = None

    def reconcile(self) -> None:
        """One step of each application, and those that follow so fast that no look falls in between."""
        for name in [item["metadata"]["name"] for item in self.api.list(self.apps, {})]:
            with contextlib.suppress(Conflict, ObjectMissing):
                for _ in range(3):
                    self._reconcile(self.api.get(f"{self.apps}/{name}"))
                    if _state(self.api.get(f"{self.apps}/{name}")) not in UNSEEN:
                        break

    def _reconcile(self, app: dict) -> None:
        uid, spec = app["metadata"]["uid"], {k: v for k, v in app["spec"].items() if k != "suspend"}
        changed = self.specs.get(uid, spec) != spec
        if not changed and self._is_lost(app):
            return
        step = next_step(app, self._pod(app), changed, self.now())
        if step is not None:
            self._take(app, step)
        self.specs[uid] = spec

    def _is_lost(self, app: dict) -> bool:
        name, notes = app["metadata"]["name"], app["metadata"].get("annotations") or {}
        if name not in self.unseen or _state(app) != "PENDING_RERUN":
            return False
        if self.unseen[name] is None:
            self.unseen[name] = notes
        if self.unseen[name] == notes:
            return True
        del self.unseen[name]
        return False

    def _take(self, app: dict, step: Step) -> None:
        if step.deed == "submit":
            return self._submit(app)
        status = {"applicationState": {"state": step.state, "errorMessage": step.error}}
        if step.deed == "delete":
            with contextlib.suppress(ObjectMissing):
                self.api.delete(f"{self.pods}/{_driver(app)}")
            status |= GONE
        if step.anew:
            status |= {"submissionAttempts": 0, "executionAttempts": 0, "lastSubmissionAttemptTime": None}
        if step.state == "RUNNING":
            status |= self._at_work(app)
        return self._write(app, status)

    def _submit(self, app: dict) -> None:
        before, submission = app.get("status", {}), str(uuid.uuid4())
        status = {
            "submissionID": submission,
            "lastSubmissionAttemptTime": self.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "submissionAttempts": (before.get("submissionAttempts") or 0) + 1,
            "driverInfo": {"podName": _driver(app)},
        }
        try:
            self.submit(app, submission)
        except SubmissionFailed as error:
            told = f"failed to submit spark application: failed to run spark-submit: {error}"
            self._write(
                app, status | {"applicationState": {"state": "SUBMISSION_FAILED", "errorMessage": told}}
            )
        else:
            attempts = (before.get("executionAttempts") or 0) + 1
            submitted = {"state": "SUBMITTED", "errorMessage": ""}
            self._write(app, status | {"applicationState": submitted, "executionAttempts": attempts})

    def _write(self, app: dict, status: dict) -> None:
        """Raises `Conflict` where another resource has the name by now."""
        meta = {"uid": app["metadata"]["uid"]}
        self.api.patch(f"{self.apps}/{app['metadata']['name']}/status", {"metadata": meta, "status": status})

    def _pod(self, app: dict) -> dict | None:
        try:
            return self.api.get(f"{self.pods}/{_driver(app)}")
        except ObjectMissing:
            return None

    def _at_work(self, app: dict) -> dict:
        mine = {"labelSelector": f"spark-role=executor,{APP_NAME_LABEL}={app['metadata']['name']}"}
        executors = list(self.api.list(self.pods, mine))
        labels = (self._pod(app) or {}).get("metadata", {}).get("labels") or {}
        return {
            "sparkApplicationId": labels.get("spark-app-selector"),
            "executorState": {e["metadata"]["name"]: e["status"]["phase"].upper() for e in executors},
        }


def _driver(app: dict) -> str:
    return f"{app['metadata']['name']}-driver"
