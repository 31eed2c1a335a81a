"""A cluster of three real brokers, of which one dies or hangs: the spikes on the other two are still seen."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from builders import World, spike
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.orchestration.checks import check_events
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.services.close import Closer
from spike_pipelines.services.observe import Observer
from spike_pipelines.stack import process
from spike_pipelines.stack.parts.kafka import Kafka
from spike_pipelines.stack.ports import remembered
from spike_pipelines.stack.probes import LOOPBACK

pytestmark = pytest.mark.real
NAMES = {1: "first", 2: "second", 3: "third"}  # node → the spike whose topic it leads


@dataclass(frozen=True, slots=True)
class Node(Kafka):
    """The first is the controller too, and outlives the tests."""

    number: int = 1

    def _settings(self) -> dict[str, str]:
        plain = super(Node, self)._settings() | {"node.id": str(self.number)}
        if self.number == 1:
            return plain
        return plain | {"process.roles": "broker", "listeners": f"PLAINTEXT://{self.bootstrap}"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("brokers")
    ports = remembered(folder / "ports.json", ["controller", *(f"node{n}" for n in NAMES)])
    nodes = {n: Node(folder / f"node{n}", ports[f"node{n}"], ports["controller"], number=n) for n in NAMES}
    started = {}
    with ExitStack() as stack:
        for n, node in nodes.items():
            part, log = node.part(), folder / f"node{n}.log"
            started[n] = process.launch(part, log)
            stack.callback(process.end, part, started[n])
            process.await_ready(part, started[n], log)
        bootstrap = ",".join(f"{LOOPBACK}:{node.port}" for node in nodes.values())
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        topics = [NewTopic(f"{name}-topic", replica_assignments={0: [n]}) for n, name in NAMES.items()]
        admin.create_topics(topics)
        admin.close()
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        for name in NAMES.values():
            producer.send(f"{name}-topic", value=b"x", partition=0).get(20)
        producer.close()
        yield SimpleNamespace(bootstrap=bootstrap, started=started)


class Cluster:
    def drivers(self):
        now = datetime.now(UTC)
        return tuple(ObservedDriver(name, name, DriverState.RUNNING, now) for name in NAMES.values())


@pytest.fixture
def platform(ledger, cluster) -> Iterator[SimpleNamespace]:
    spikes = {name: spike(name) for name in NAMES.values()}
    world = World(ledger, spikes=spikes)
    surveyor = KafkaSurveyor(cluster.bootstrap)
    yield SimpleNamespace(
        ledger=world.ledger,
        spikes=spikes,
        observer=Observer(ledger, surveyor, Cluster(), spikes),
        closer=Closer(ledger, world.broker, surveyor, spikes),
    )
    surveyor.close()


def verdicts(platform) -> dict[str, LagVerdict]:
    return {name: report.verdict for name, report in platform.observer.watch().items()}


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "dies"])
def test_one_broker_of_three_down_makes_its_own_spike_unknown_and_hides_no_other(platform, cluster, fault):
    """It hangs first, for the third; what hung is then killed."""
    if fault is signal.SIGSTOP:
        assert set(verdicts(platform).values()) == {LagVerdict.OK}
    cluster.started[3].send_signal(fault)
    seen = platform.observer.watch()
    assert {name: r.verdict for name, r in seen.items()} == {
        "first": LagVerdict.OK,
        "second": LagVerdict.OK,
        "third": LagVerdict.UNKNOWN,
    }
    assert "third-topic" in seen["third"].sentence
    assert "broker" in seen["third"].sentence
    events = check_events(platform, None, datetime.now(UTC)).asset_events
    third = [e for e in events if e.asset_key.path[-1] == "third" and e.check_name == "lag"]
    assert [(e.passed, e.severity.value) for e in third] == [(False, "WARN")], "never OK, and nobody is paged"


def test_a_cluster_that_is_gone_is_unknown_for_every_spike_and_nothing_is_raised(platform, cluster):
    for node in cluster.started.values():
        node.send_signal(signal.SIGKILL)
    assert set(verdicts(platform).values()) == {LagVerdict.UNKNOWN}
