"""Reads hours again in a finite SparkApplication (port `Rereader`), made from the one of the spike.

Same image, configuration, size and service account as the live driver and its executors; it reads the
application file that is deployed. It has no label that the supervisor looks for: nobody restarts it.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from spike_pipelines.adapters.backfill_files import FileRereader
from spike_pipelines.adapters.kubernetes import paths
from spike_pipelines.adapters.kubernetes.api import Api, Json
from spike_pipelines.adapters.order_box import OrderBox
from spike_pipelines.domain.errors import InvalidSpec, ObjectMissing, Transient
from spike_pipelines.domain.kubernetes_names import PART_OF_LABEL
from spike_pipelines.domain.retention import ORDERS
from spike_pipelines.domain.spark_application import AppState
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import KeepAlive, ObjectStore

BACKFILL_LABEL = "spike-pipelines.io/backfill"
NETWORK = dict((PART_OF_LABEL,))  # its executors reach its driver where a policy asks for it
MAIN_FILE = "local:///opt/spike/backfill.py"
TTL_SECONDS = 3600  # from its end until the operator deletes it: time to read its log
LOOK_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
_OVER = frozenset({AppState.COMPLETED, AppState.FAILED, AppState.SUBMISSION_FAILED})


@dataclass(frozen=True, slots=True)
class _Session:
    spike: str
    name: str
    box: OrderBox
    orders: int = 0


@dataclass(slots=True)
class KubernetesRereader(FileRereader):
    """One SparkApplication for all hours of a run. A job whose run dies ends by itself: no order comes."""

    api: Api
    namespace: str
    store: ObjectStore
    spikes: Mapping[str, Spike]
    pause: Callable[[float], object] = time.sleep
    longest_seconds: float = LONGEST_SECONDS
    _open: _Session | None = field(default=None, init=False)

    def _do(self, spike: str, order: str, keep_alive: KeepAlive) -> bytes:
        try:
            session = self._next(spike)
            session.box.give(session.orders, order)
            return self._await(session, keep_alive)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        session, self._open = self._open, None
        if session is not None:
            session.box.end()

    def _next(self, name: str) -> _Session:
        if self._open is not None and self._open.spike != name:
            self.close()
        if self._open is None:
            self._open = self._start(self.spikes[name])
        old = self._open
        self._open = _Session(old.spike, old.name, old.box, old.orders + 1)
        return self._open

    def _start(self, spike: Spike) -> _Session:
        name = f"{spike.resource_name[:40].rstrip('-')}-bf-{secrets.token_hex(3)}"
        box = OrderBox(self.store, spike.staging.bucket, f"{spike.staging.key(spike.name)}/{ORDERS}{name}/")
        try:
            live = self.api.get(f"{self._path()}/{spike.resource_name}")
        except ObjectMissing as error:
            raise InvalidSpec(
                f"there is no SparkApplication {spike.resource_name} in {self.namespace} to make a backfill "
                f"like: `spike deploy {spike.name}`"
            ) from error
        self.api.post(self._path(), finite(live, name, box.uri))
        return _Session(spike.name, name, box)

    def _await(self, session: _Session, keep_alive: KeepAlive) -> bytes:
        until = monotonic() + self.longest_seconds
        while (answer := session.box.answered(session.orders)) is None:
            if problem := self._problem(session.name):
                # its last words may have come meanwhile
                if (answer := session.box.answered(session.orders)) is not None:
                    return answer
                raise Transient(problem)
            if monotonic() > until:
                raise Transient(
                    f"SparkApplication {session.name} has not answered after {self.longest_seconds:.0f} s: "
                    "choose fewer hours"
                )
            self.pause(LOOK_SECONDS)
            told = session.box.so_far(session.orders)
            keep_alive() if told is None else keep_alive(told)
        return answer

    def _problem(self, name: str) -> str | None:
        """Why there will be no answer."""
        try:
            found = self.api.get(f"{self._path()}/{name}")
        except ObjectMissing:
            return f"SparkApplication {name} was deleted before it had answered"
        state = ((found.get("status") or {}).get("applicationState")) or {}
        if state.get("state") not in _OVER:
            return None
        told = state.get("errorMessage") or "it says no more"
        return (
            f"SparkApplication {name} is {state['state']} without an answer: {told} "
            f"(kubectl -n {self.namespace} logs {name}-driver)"
        )

    def _path(self) -> str:
        return paths.applications(self.namespace)


def finite(live: Json, name: str, orders: str) -> Json:
    """A SparkApplication like the live one, which runs once and takes its orders from there."""
    spec = {key: value for key, value in live["spec"].items() if key != "suspend"}
    application = (spec.get("arguments") or [None])[0]
    if application is None:
        raise InvalidSpec(f"SparkApplication {live['metadata']['name']} names no application file")
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": name, "labels": {**NETWORK, BACKFILL_LABEL: live["metadata"]["name"]}},
        "spec": {
            **spec,
            "mainApplicationFile": MAIN_FILE,
            "arguments": [application, orders],
            "restartPolicy": {"type": "Never"},
            "timeToLiveSeconds": TTL_SECONDS,
        },
    }
