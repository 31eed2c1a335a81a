"""Spikes as pods: a driver and an executor in a cluster read Kafka and stage to S3, the appender commits.

Drivers are deleted, starved of memory, robbed of their resource and of the API server; at the end of each
test every record is in the dataset once. The operator is the tests' stand-in, or the cluster's own; all else
is real.
"""

import json
import logging
import secrets
import subprocess
import time
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka import KafkaProducer
from outside import AUDIENCE, NOT_SET, KafkaForPods, Outside, Reach, until

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.domain.errors import ObjectMissing
from spike_pipelines.domain.rollout import Rollout
from spike_pipelines.read import read
from spike_pipelines.settings import Settings
from spike_pipelines.stack import process
from spike_pipelines.stack.parts.kafka import PORTS as KAFKA_PORTS
from spike_pipelines.stack.ports import find_free, remembered

pytestmark = [pytest.mark.real, pytest.mark.pods, pytest.mark.timeout(900)]
log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "deployments" / "charts"
TOPIC = "pods.events"
SPIKE = """\
name: {name}
description: For the tests of pods.
topic: pods.events
start: earliest
schema: id BIGINT NOT NULL
trigger: 1s
limits: {{ maxOffsetsPerTrigger: 10000, maxStagedBatches: 4 }}
driver: {{ cores: 1, coreRequest: 100m, {driver} }}
executor: {{ instances: 1, cores: 1, coreRequest: 100m, memory: 512m }}
staging: s3://spike-lake/staging
final: s3://spike-lake/final
dataset: {{ name: {dataset}, start: 2026-01-01T00:00:00Z }}
objectives: {{ lag: 5m, warn: 2m, hang: 3m }}
"""
PLAIN, HUNGRY = "pods-v1-1.0", "hungry-v1-1.0"
# A heap that is touched as a whole, beside which 100 MiB are left: JVM and Python take more than 200 before a
# session is made. With half as much again as memory 550 are, and a driver at work takes less. The heap is
# larger than the least that Spark accepts (450 MiB), so that it fails for no other reason.
HEAP, OVERHEAD = 900, 100  # MiB
STARVED = f"memory: {HEAP}m, memoryOverhead: {OVERHEAD}m, javaOptions: -Xss4m -Xms{HEAP}m -XX:+AlwaysPreTouch"


def kubectl(*arguments, given=None):
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reach():
    found = Reach.from_env()
    if found is None:
        pytest.skip(NOT_SET)
    return found


@pytest.fixture(scope="module")
def kafka_for_pods(reach, stack_dir):
    ports = remembered(stack_dir / "kafka-pods-ports.json", [*KAFKA_PORTS, "pods"])
    kafka = KafkaForPods(
        data=stack_dir / "kafka-pods",
        port=ports["kafka"],
        controller_port=ports["kafka.controller"],
        topics={TOPIC: 2},
        host=reach.host,
        pods_port=ports["pods"],
    )
    part, log = kafka.part(), stack_dir / "kafka-pods.log"
    started = process.launch(part, log)
    try:
        process.await_ready(part, started, log)
        yield kafka
    finally:
        process.end(part, started)


@pytest.fixture(scope="module")
def namespace(cluster_api):
    """With restricted pod security, as spikes have it, and an account that may ask whose a token is."""
    name = f"spike-pods-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("-n", name, "create", "serviceaccount", "appender")
    account = f"--serviceaccount={name}:appender"
    kubectl("create", "clusterrolebinding", name, "--clusterrole=system:auth-delegator", account)
    yield name
    kubectl("delete", "clusterrolebinding", name)
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def servers(kafka_for_pods, s3, postgres, ledger_url):
    return SimpleNamespace(
        kafka=kafka_for_pods, s3=s3, catalog_url=postgres.url("iceberg"), ledger_url=ledger_url
    )


@pytest.fixture(scope="module")
def outside(reach, namespace, servers, tmp_path_factory):
    folder, port, s3 = tmp_path_factory.mktemp("pods"), find_free(), servers.s3
    reach.open(servers.kafka.pods_port, s3.ports.s3, port)
    applications = folder / "applications"
    applications.mkdir()
    for name, driver in ((PLAIN, "memory: 512m"), (HUNGRY, STARVED)):
        text = SPIKE.format(name=name, dataset=name.partition("-")[0], driver=driver)
        (applications / f"{name}.yaml").write_text(text)
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    literals = [f"--from-literal={key}={value}" for key, value in keys.items()]
    kubectl("-n", namespace, "create", "secret", "generic", "spike-s3", *literals)
    (folder / "token").write_text(kubectl("-n", namespace, "create", "token", "appender", "--duration=2h"))
    settings = Settings(
        ledger_url=servers.ledger_url,
        catalog_url=servers.catalog_url,
        kafka_bootstrap=servers.kafka.bootstrap,
        s3_endpoint=s3.endpoint,
        appender_url=f"http://127.0.0.1:{port}",
        warehouse=f"s3://spike-lake/{secrets.token_hex(4)}",
        applications_dir=applications,
        cluster="kubernetes",
        namespace=namespace,
        chart=CHARTS / "spike",
        chart_values=values(folder, reach, servers, port),
        applications_config_map=f"{namespace}/spike-applications",
    )
    with pytest.MonkeyPatch.context() as patch:
        for key, value in keys.items():
            patch.setenv(key, value)
        with Outside(settings, port, folder / "token", folder).running() as running:
            yield running


def values(folder, reach, servers, port):
    platform = {
        "image": reach.image,
        "appender": {"url": f"http://{reach.host}:{port}", "audience": AUDIENCE},
        "kafkaBootstrap": f"{reach.host}:{servers.kafka.pods_port}",
        "s3Endpoint": f"http://{reach.host}:{servers.s3.ports.s3}",
        "s3CredentialsSecret": "spike-s3",
    }
    path = folder / "platform.yaml"
    path.write_text(json.dumps({"platform": platform}))
    return path


class Inside:
    """One spike in the cluster, and what was sent to its topic."""

    sent = 0  # by all of them: the topic is one

    def __init__(self, outside, name):
        self.outside, self.name = outside, name
        self.path = outside.settings.applications_dir / f"{name}.yaml"
        self.spike = load_application(self.path)
        self.resource = self.spike.resource_name
        self.api, self.ledger = outside.platform.kubernetes.api, outside.platform.ledger
        self.pods = f"/api/v1/namespaces/{outside.settings.namespace}/pods"

    def kubectl(self, *arguments):
        return kubectl("-n", self.outside.settings.namespace, *arguments)

    def deploy(self):
        patience = timedelta(minutes=5)
        return self.outside.platform.deployment(print).deploy(self.spike, self.path, patience)

    def send(self, records=1000):
        producer = KafkaProducer(bootstrap_servers=self.outside.settings.kafka_bootstrap)
        for number in range(records):
            body = json.dumps({"id": Inside.sent + number}).encode()
            producer.send(TOPIC, body, partition=number % 2)
        producer.flush()
        producer.close()
        Inside.sent += records

    def committed(self):
        positions = self.ledger.all_positions().get(self.name, {})
        return sum(p.committed_end - p.baseline for p in positions.values())

    def caught_up(self, seconds=240):
        """Until all that was sent is committed; the seconds that took."""
        return until(lambda: self.committed() == Inside.sent, seconds, f"of {Inside.sent} records committed")

    def driver(self):
        try:
            return self.api.get(f"{self.pods}/{self.resource}-driver")
        except ObjectMissing:
            return None

    def uid(self):
        pod = self.driver()
        return pod and pod["metadata"]["uid"]

    def executors(self):
        mine = {"labelSelector": f"spark-role=executor,spike-pipelines.io/spike={self.name}"}
        return list(self.api.list(self.pods, mine))

    def seen(self):
        found = self.outside.platform.kubernetes.applications()
        return next(app for app in found if app.spike == self.name)

    def epoch(self):
        return self.ledger.epochs()[self.name]

    def recovered(self):
        recoveries = self.ledger.recoveries(self.ledger.now() - timedelta(hours=1))
        return [r.action for r in recoveries.get(self.name, ())]

    def each_record_is_there_once(self):
        self.caught_up()
        dataset = self.spike.dataset.name

        def published():
            (state,) = [d for d in self.ledger.datasets() if d.name == dataset]
            return state.published == state.sequence

        until(published, 60, "published")
        found = Counter(read(dataset, settings=self.outside.settings)["id"])
        assert found == Counter(range(Inside.sent))
        broken = [f for f in (*self.outside.platform.auditor.run(), *self.outside.platform.deep_auditor.run())
                  if not f.ok]  # fmt: skip
        assert not broken
        assert not self.outside.troubles


@pytest.fixture
def plain(outside):
    """Deployed, at work, and not behind."""
    spike = Inside(outside, PLAIN)
    spike.send(10)
    if spike.driver() is None:
        outcome = spike.deploy()
        assert outcome.verdict.state is Rollout.STABLE, outcome
    spike.caught_up()
    return spike


def test_a_deployed_spike_commits_through_pods_and_is_marked_stable(plain):
    plain.send()
    plain.each_record_is_there_once()
    assert plain.ledger.specs()[plain.name].stable == plain.seen().deployed
    assert [e["status"]["phase"] for e in plain.executors()] == ["Running"]
    labels = plain.driver()["metadata"]["labels"]
    assert plain.epoch().driver == labels["sparkoperator.k8s.io/submission-id"]
    assert plain.epoch().application_version == plain.spike.version


def test_helm_test_asks_the_appender_as_the_spike(plain):
    namespace = plain.outside.settings.namespace
    done = subprocess.run(
        ["helm", "-n", namespace, "test", plain.resource, "--timeout=3m"],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_prometheus_finds_the_driver_s_page_at_its_port(plain):
    """Where the PodMonitor has it; read through the API server."""
    ports = {p["name"]: p["containerPort"] for c in plain.driver()["spec"]["containers"] for p in c["ports"]}
    name = f"{plain.resource}-driver"
    page = plain.api.text(f"{plain.pods}/{name}:{ports['spike-metrics']}/proxy/metrics")
    assert "spike_driver_" in page


def test_a_driver_pod_that_is_killed_is_replaced_and_goes_on_from_where_it_was(plain, record_property):
    before = plain.uid(), plain.epoch().number
    plain.send()
    killed = time.monotonic()
    plain.kubectl("delete", "pod", f"{plain.resource}-driver", "--grace-period=0", "--force")
    plain.send()
    plain.caught_up()
    seconds = time.monotonic() - killed
    log.info("driver pod killed until all is committed: %.1f s", seconds)
    record_property("seconds_from_kill_to_commit", round(seconds, 1))
    assert plain.uid() != before[0]
    assert plain.epoch().number > before[1]
    plain.each_record_is_there_once()


def test_a_resource_deleted_by_hand_comes_back_by_the_supervisor(plain):
    before = plain.uid()
    plain.kubectl("delete", "sparkapplication", plain.resource)
    until(lambda: plain.driver() is None, 120, "the driver's pod goes with its resource")
    plain.send()
    plain.caught_up(420)
    assert "recreate" in plain.recovered()
    assert plain.uid() != before
    plain.each_record_is_there_once()


def test_a_rerun_the_operator_lost_sight_of_is_unstuck(plain, record_property):
    """By the supervisor's annotation, once PENDING_RERUN has lasted longer than its patience."""
    if plain.outside.operator is None:
        pytest.skip("only the stand-in loses sight of a rerun when told to")
    plain.outside.operator.lose(plain.resource)
    plain.kubectl("delete", "pod", f"{plain.resource}-driver", "--grace-period=0", "--force")
    plain.send()
    application = plain.outside.platform.kubernetes.applications

    def state():
        return next(a.state for a in application() if a.spike == plain.name)

    until(lambda: state() == "PENDING_RERUN", 60, "the operator is stuck")
    seconds = until(lambda: state() != "PENDING_RERUN", 180, "stuck")
    log.info("stuck in PENDING_RERUN for %.1f s, 60 s of which are patience", seconds)
    record_property("seconds_in_pending_rerun", round(seconds, 1))
    assert "kick" in plain.recovered()
    plain.each_record_is_there_once()


def test_an_api_server_that_stands_still_for_a_minute_costs_no_driver(plain, reach):
    if not (reach.stop_api and reach.start_api):
        pytest.skip("nothing stops the API server: set SPIKE_TEST_STOP_API and SPIKE_TEST_START_API")
    before, acts = (plain.uid(), plain.epoch().number), plain.recovered()
    outside = plain.outside
    subprocess.run(reach.stop_api, check=True)
    try:
        plain.send()
        until(lambda: outside.blind_seconds() > 60, 120, "the supervisor does not see the cluster")
    finally:
        subprocess.run(reach.start_api, check=True)
    until(lambda: not outside.blind_seconds(), 60, "the supervisor sees the cluster again")
    plain.send()
    plain.each_record_is_there_once()
    assert (plain.uid(), plain.epoch().number) == before
    assert plain.recovered() == acts


def test_a_driver_that_runs_out_of_memory_again_and_again_gets_more(outside):
    hungry = Inside(outside, HUNGRY)
    hungry.send(10)
    outside.platform.deployment(print).deployer.deploy(hungry.spike, hungry.path)
    hungry.caught_up(600)
    assert "more-memory" in hungry.recovered()
    (overlay,) = hungry.ledger.open_overlays()[hungry.name]
    limit = hungry.driver()["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) == int(overlay.value.removesuffix("m")) + OVERHEAD
    hungry.each_record_is_there_once()
