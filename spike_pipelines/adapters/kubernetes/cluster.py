"""SparkApplications of one namespace (ports `Cluster` and `ApplicationCluster`).

One list a tick, pods for suspects only. Every change is a merge patch with the resourceVersion that was
seen: if anybody changed the resource since, it is a `Conflict`, and the next tick looks again.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from spike_pipelines.adapters.kubernetes import fields, patches, paths
from spike_pipelines.adapters.kubernetes.api import Api, Expired, Json
from spike_pipelines.domain.causes import Evidence
from spike_pipelines.domain.errors import (
    AlreadyExists,
    Conflict,
    InvalidSpec,
    ObjectMissing,
    SpikeError,
    Transient,
)
from spike_pipelines.domain.kubernetes_names import FILE_LABEL, GROUP, SPIKE_LABEL, VERSION
from spike_pipelines.domain.observed import DriverState
from spike_pipelines.domain.overlays import NewOverlay, Overlay, marks
from spike_pipelines.domain.spark_application import TERMINAL, AppState, ObservedApplication, PodSight
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Clues, Manifest, ObservedDriver

log = logging.getLogger(__name__)

NAMES_AT_ONCE = 50  # in one label selector
HISTORY_SECONDS = 1  # what the server remembers it sends at once
DRIVER_STATES = {
    AppState.SUBMITTED: DriverState.PENDING,
    AppState.RUNNING: DriverState.RUNNING,
    AppState.UNKNOWN: DriverState.UNKNOWN,
    AppState.UNSEEN: DriverState.UNKNOWN,
    AppState.INVALIDATING: DriverState.RUNNING,
    AppState.SUSPENDING: DriverState.RUNNING,
}  # in every other state the submission has ended


@dataclass(frozen=True, slots=True)
class KubernetesCluster:
    """A driver's identity is its submission's id, which the operator puts on the resource and the pod."""

    api: Api
    namespace: str

    def close(self) -> None:
        self.api.close()

    # ApplicationCluster

    def applications(self) -> tuple[ObservedApplication, ...]:
        try:
            return tuple(self._list())
        except Expired:
            return tuple(self._list())

    def _list(self) -> Iterator[ObservedApplication]:
        for version, item in self.api.listed(self._path(), {"labelSelector": SPIKE_LABEL}):
            try:
                yield fields.application(item, version)
            except (ValidationError, KeyError) as error:
                raise Transient(f"a SparkApplication in {self.namespace} has no name: {error}") from error

    def history(self, app: ObservedApplication, since: str) -> tuple[ObservedApplication, ...]:
        passed: list[ObservedApplication] = []
        one = {"fieldSelector": f"metadata.name={app.name}"}
        with closing(self.api.watch(self._path(), one, since, HISTORY_SECONDS)) as events:
            for event in events:
                then = _then(event)
                if then.resource_version == app.resource_version:
                    break
                if then.uid == app.uid and then.problem is None:
                    passed.append(then)
        return tuple(passed)

    def pods(self, names: Collection[str]) -> Mapping[str, tuple[PodSight, ...]]:
        found: dict[str, list[tuple[datetime, PodSight]]] = defaultdict(list)
        wanted = sorted(names)
        for start in range(0, len(wanted), NAMES_AT_ONCE):
            some = ",".join(wanted[start : start + NAMES_AT_ONCE])
            for owner, made, pod in self._pods(f"{fields.DRIVER},{fields.APP_NAME_LABEL} in ({some})"):
                found[owner].append((made, pod))
        return {
            name: tuple(pod for _, pod in sorted(found[name], key=lambda p: (p[0], p[1].name)))
            for name in wanted
        }

    def unchanged(self, app: ObservedApplication) -> None:
        if self._get(app)["metadata"]["resourceVersion"] != app.resource_version:
            raise Conflict(f"{app.name} was changed meanwhile")

    def kick(self, app: ObservedApplication) -> None:
        self._change(app, {"metadata": {"annotations": {fields.KICKED: _now()}}})

    def suspend(self, app: ObservedApplication, why: str, request: str | None) -> None:
        notes = {fields.RESTARTING: why[:200], **_answered(request)}
        self._change(app, {"metadata": {"annotations": notes}, "spec": {"suspend": True}})

    def resume(self, app: ObservedApplication) -> None:
        spec = {"suspend": False} if app.suspend else {}  # what somebody else resumed has its word for it
        self._change(app, {"metadata": {"annotations": {fields.RESTARTING: None}}, "spec": spec})

    def resubmit(self, app: ObservedApplication, why: str, request: str | None) -> None:
        notes = {fields.RESTARTING: None, fields.KICKED: f"{_now()} {why[:200]}", **_answered(request)}
        spec = {"suspend": False, "sparkConf": {patches.RESUBMITTED_CONF: _now()}}
        self._change(app, {"metadata": {"annotations": notes}, "spec": spec})

    def replaced_by(
        self,
        app: ObservedApplication,
        new: NewOverlay,
        carried: Sequence[Overlay],
        stable: Manifest | None,
    ) -> str | None:
        return json.dumps(patches.replaced(self._get(app)["spec"], new, carried, _spec(stable)))

    def converge(
        self,
        app: ObservedApplication,
        holding: Sequence[Overlay],
        ending: Sequence[Overlay],
        stable: Manifest | None,
    ) -> None:
        spec, old = self._get(app)["spec"], _spec(stable)
        off = patches.taken_off(spec, ending, old)
        on = patches.laid(patches.merged(spec, off), holding, old)
        body = {"metadata": {"annotations": {fields.OVERLAYS: marks(holding) or None}}}
        self._change(app, body | {"spec": patches.merged(off, on, keep_nulls=True)})

    def recreate(self, manifest: Manifest) -> None:
        body: Json = json.loads(manifest)
        try:
            self.api.post(self._path(), {**body, "metadata": _anew(body["metadata"])})
        except AlreadyExists:
            return  # somebody else did, or the answer to our own request was lost

    def manifest(self, app: ObservedApplication) -> Manifest:
        found = self._get(app)
        if patches.digest(found["spec"]) != app.live:
            raise Conflict(f"the spec of {app.name} was changed meanwhile")
        meta = found["metadata"]
        named = {"name": meta["name"], "labels": meta.get("labels") or {}}
        kept = _anew({**named, "annotations": meta.get("annotations") or {}})
        head = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": kept}
        return Manifest(json.dumps(head | {"spec": found["spec"]}))

    def forget_files(self, spike: str, keep: Collection[str], before: datetime | None) -> None:
        path = paths.config_maps(self.namespace)
        for item in list(self.api.list(path, {"labelSelector": f"{FILE_LABEL},{SPIKE_LABEL}={spike}"})):
            file = fields.application_file(item)
            if file.version not in keep and (before is None or file.made < before):
                self._delete(f"{path}/{file.name}", file.uid)

    def clues(self, app: ObservedApplication, lines: int) -> Clues:
        def had(of: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
            try:
                return of()
            except SpikeError as error:
                log.warning("%s: a clue could not be had: %s", app.name, error)
                return ()

        pod = app.driver_pod
        return Clues(had(lambda: self._log(pod, lines) if pod else ()), had(lambda: self._events(app)))

    def tell(self, app: ObservedApplication, reason: str, sentence: str) -> None:
        involved = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "SparkApplication",
            "name": app.name,
            "namespace": self.namespace,
            "uid": app.uid,
        }
        event = {
            "metadata": {"generateName": f"{app.name}.", "namespace": self.namespace},
            "involvedObject": involved,
            "reason": reason,
            "message": sentence[:1000],
            "type": "Warning",
            "source": {"component": "spike-supervisor"},
            "firstTimestamp": _now(),
            "lastTimestamp": _now(),
            "count": 1,
        }
        try:
            self.api.post(paths.events(self.namespace), event)
        except SpikeError:
            return  # the recovery itself is noted in the ledger

    # Cluster

    def drivers(self) -> tuple[ObservedDriver, ...]:
        found = [_driver(app) for app in self.applications() if app.submission is not None or app.problem]
        return tuple(sorted(found, key=lambda driver: driver.started_at))

    def start(self, spike: Spike) -> ObservedDriver:
        """Have the operator submit one. Where none of it is under way yet, it has no submission's id."""
        try:
            app = fields.application(self.api.get(f"{self._path()}/{spike.resource_name}"))
        except ObjectMissing as error:
            raise InvalidSpec(
                f"there is no SparkApplication {spike.resource_name} in {self.namespace}: "
                f"`spike deploy {spike.name}`"
            ) from error
        if app.state in TERMINAL:
            self.resubmit(app, "start", None)
        elif app.suspend:
            self.resume(app)
        else:
            self.kick(app)
        return _driver(app)

    def stop(self, driver: str) -> None:
        for _, _, pod in self._pods(f"{fields.DRIVER},{fields.SUBMISSION_LABEL}={driver}"):
            self._delete(f"{paths.pods(self.namespace)}/{pod.name}", pod.uid)

    def obstacle(self, spike: Spike) -> str | None:  # noqa: ARG002 the operator says it, afterwards
        return None

    def log_tail(self, driver: str, lines: int) -> tuple[str, ...]:
        pods = list(self._pods(f"{fields.DRIVER},{fields.SUBMISSION_LABEL}={driver}"))
        return self._log(pods[-1][2].name, lines) if pods else ()

    # requests

    def _path(self) -> str:
        return paths.applications(self.namespace)

    def _get(self, app: ObservedApplication) -> Json:
        found = self._of(app, self.api.get)
        if found["metadata"]["uid"] != app.uid:
            raise Conflict(f"{app.name} was deleted and made again")
        return found

    def _of(self, app: ObservedApplication, request: Callable[[str], Json]) -> Json:
        try:
            return request(f"{self._path()}/{app.name}")
        except ObjectMissing as error:
            raise Conflict(f"{app.name} is gone") from error

    def _change(self, app: ObservedApplication, body: Json) -> None:
        meta = {**body.get("metadata", {}), "resourceVersion": app.resource_version, "uid": app.uid}
        self._of(app, lambda path: self.api.patch(path, {**body, "metadata": meta}))

    def _pods(self, selector: str) -> Iterator[tuple[str, datetime, PodSight]]:
        for item in self.api.list(paths.pods(self.namespace), {"labelSelector": selector}):
            try:
                yield fields.pod(item)
            except ValidationError as error:
                raise Transient(f"a pod in {self.namespace} is not understood: {error}") from error

    def _delete(self, path: str, uid: str) -> None:
        """This one and no other one of its name."""
        try:
            self.api.delete(path, {"preconditions": {"uid": uid}})
        except (ObjectMissing, Conflict):
            return

    def _log(self, pod: str, lines: int) -> tuple[str, ...]:
        path = f"{paths.pods(self.namespace)}/{pod}/log"
        try:
            text = self.api.text(path, {"tailLines": str(lines)})
        except (ObjectMissing, InvalidSpec):  # gone, or its container has not started
            return ()
        return tuple(text.splitlines()[-lines:])

    def _events(self, app: ObservedApplication) -> tuple[str, ...]:
        path = paths.events(self.namespace)
        found: list[Json] = []
        for name in filter(None, (app.name, app.driver_pod)):
            found += self.api.list(path, {"fieldSelector": f"involvedObject.name={name}"})
        found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return tuple(f"{event.get('reason')}: {event.get('message')}" for event in found[-20:])


def _anew(meta: Json) -> Json:
    notes = {k: v for k, v in meta["annotations"].items() if k not in fields.OF_ONE_RESOURCE}
    return {**meta, "annotations": notes}


def _then(event: Json) -> ObservedApplication:
    try:
        return fields.application(event.get("object"))
    except (ValidationError, KeyError) as error:
        raise Transient(f"an event of a SparkApplication is not understood: {error}") from error


def _driver(app: ObservedApplication) -> ObservedDriver:
    state = DriverState.UNKNOWN if app.problem else DRIVER_STATES.get(app.state, DriverState.EXITED)
    code = Evidence(app).exit_code
    if code is None and app.state in {AppState.SUCCEEDING, AppState.COMPLETED}:
        code = 0
    return ObservedDriver(
        spike=app.spike,
        driver=app.submission or app.name,
        state=state,
        started_at=app.submitted_at or app.created_at or datetime.now(UTC),
        exit_code=code if state is DriverState.EXITED else None,
        problem=app.problem,
    )


def _answered(request: str | None) -> dict[str, str]:
    return {} if request is None else {fields.RESTARTED: request}


def _spec(manifest: Manifest | None) -> Json | None:
    spec: Json | None = None if manifest is None else json.loads(manifest)["spec"]
    return spec


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
