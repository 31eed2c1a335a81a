"""The platform around a cluster: its servers on this machine, its spikes as pods, its operator the stand-in,
or the cluster's own.

`Outside` runs what a deployment has besides drivers: appender, appender runs, supervisor. Pods come to
this machine through `Reach`.
"""

import contextlib
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import uvicorn
import waiting
from kubernetes import client, config
from reconciler import Reconciler
from spark_submit import SparkSubmit

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.ledger import Tokens
from spike_pipelines.adapters.token_review import ApiServer, ServiceAccounts
from spike_pipelines.appender.app import IDLE_SECONDS, build, not_heard
from spike_pipelines.appender.application_folder import ApplicationFolder
from spike_pipelines.appender.gate import by_form
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.service_accounts import Trusted
from spike_pipelines.platform import Platform
from spike_pipelines.services.drain import FailedTurn, Terms
from spike_pipelines.services.register import Registrar
from spike_pipelines.settings import Settings
from spike_pipelines.stack.parts.kafka import Kafka

AUDIENCE = "spike-appender"
TICK_SECONDS = 5.0
OPERATOR = "SPIKE_TEST_OPERATOR"  # set: the cluster has an operator of its own
NOT_SET = (
    "drivers as pods need a cluster and a way from its pods to this machine: set KUBECONFIG, "
    "SPIKE_TEST_IMAGE and SPIKE_TEST_HOST (docs/kubernetes.md)"
)


@dataclass(frozen=True)
class Reach:
    """`image` has drivers and executors, as deployments/images makes it. `host` is this machine's address for
    pods; `expose` a command that, given ports of loopback, has them answer there. `stop_api` and `start_api`
    are commands too; without them nothing stops the API server."""

    kubeconfig: str
    image: str
    host: str
    expose: tuple[str, ...]
    stop_api: tuple[str, ...]
    start_api: tuple[str, ...]

    @classmethod
    def from_env(cls) -> "Reach | None":
        needed = [os.environ.get(name) for name in ("KUBECONFIG", "SPIKE_TEST_IMAGE", "SPIKE_TEST_HOST")]
        names = ("SPIKE_TEST_EXPOSE", "SPIKE_TEST_STOP_API", "SPIKE_TEST_START_API")
        commands = [tuple(shlex.split(os.environ.get(name, ""))) for name in names]
        return cls(*needed, *commands) if all(needed) else None

    def open(self, *ports: int) -> None:
        if self.expose:
            subprocess.run([*self.expose, *map(str, ports)], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class KafkaForPods(Kafka):
    """Pods are told to come to another address than clients of this machine."""

    host: str = ""
    pods_port: int = 0

    def _settings(self) -> dict[str, str]:
        usual = Kafka._settings(self)
        return usual | {
            "listener.security.protocol.map": f"{usual['listener.security.protocol.map']},PODS:PLAINTEXT",
            "listeners": f"{usual['listeners']},PODS://127.0.0.1:{self.pods_port}",
            "advertised.listeners": f"{usual['advertised.listeners']},PODS://{self.host}:{self.pods_port}",
        }


def api_server() -> client.Configuration:
    """As KUBECONFIG has it."""
    found = client.Configuration()
    config.load_kube_config(client_configuration=found)
    return found


@dataclass
class Outside:
    """`token_file` has what the appender shows when it asks the API server whose a token is."""

    settings: Settings
    port: int
    token_file: Path
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    troubles: list[str] = field(default_factory=list)
    blind_since: float | None = None  # when the supervisor last saw the cluster, while it does not

    def __post_init__(self) -> None:
        self.platform = Platform(self.settings)
        for part in ("ledger", "surveyor", "mirror", "store", "catalog", "publisher", "supervisor"):
            getattr(self.platform, part)  # made before there are several threads
        self.operator = None if OPERATOR in os.environ else self._stand_in()

    def _stand_in(self) -> Reconciler:
        namespace = self.settings.namespace
        submit = SparkSubmit(api_server().host, namespace, self.folder)
        return Reconciler(self.platform.kubernetes.api, namespace, submit)

    @contextlib.contextmanager
    def running(self) -> Iterator["Outside"]:
        with contextlib.ExitStack() as parts:
            parts.callback(self.platform.close)
            server = uvicorn.Server(
                uvicorn.Config(self._appender(parts), host="127.0.0.1", port=self.port, log_level="warning")
            )
            works = [server.run, self._appender_runs, self._supervisor]
            if operator := self.operator:
                works.append(lambda: operator.run(self.stop))
            for thread in [threading.Thread(target=work, daemon=True) for work in works]:
                thread.start()
                parts.callback(thread.join, 120)
            parts.callback(self.stop.set)
            parts.callback(setattr, server, "should_exit", True)
            yield self

    def blind_seconds(self) -> float:
        """For how long the supervisor has not seen the cluster."""
        return 0.0 if self.blind_since is None else time.monotonic() - self.blind_since

    def _appender(self, parts: contextlib.ExitStack) -> object:
        settings, api = self.settings, api_server()
        ledger, own = self.platform.ledger, Tokens(settings.require("ledger_url")).allows
        server = ApiServer(api.host, Path(api.ssl_ca_cert), self.token_file)
        accounts = parts.enter_context(
            contextlib.closing(
                ServiceAccounts(server, Trusted(settings.namespace, AUDIENCE), not_heard(ledger))
            )
        )
        broker = parts.enter_context(contextlib.closing(KafkaBroker(settings.require("kafka_bootstrap"))))
        registrar = Registrar(ledger, broker, timedelta(seconds=IDLE_SECONDS))
        folder = ApplicationFolder(settings.applications_dir)
        return build(registrar, ledger, folder.get, by_form(own, accounts.allows))

    def _appender_runs(self) -> None:
        terms = Terms(idle=timedelta(seconds=2), longest=timedelta(minutes=1))
        while not self.stop.wait(0.2):
            for item in self.platform.drain("tests", terms).run():
                if isinstance(item, FailedTurn):
                    self.troubles.append(f"{item.spike}: {item.message}")

    def _supervisor(self) -> None:
        """A sensor's tick every few seconds, its recovery run at once."""
        while not self.stop.wait(TICK_SECONDS):
            looked = time.monotonic()
            try:
                needed = [d.spike for d in self.platform.supervisor.watch() if d.action]
                list(self.platform.supervisor.recover_all(needed))
                self.blind_since = None
            except Transient:
                self.blind_since = self.blind_since or looked


def until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    waiting.until(holds, seconds, what, every=0.2)
    return time.monotonic() - started
