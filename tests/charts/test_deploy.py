"""`spike deploy` on real parts: Helm, an API server, a ledger in PostgreSQL. The drivers are the test's."""

import os
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import BUCKET, Driver
from chart_tools import CHARTS, RESOURCE, ROOT, find_helm, kubectl

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.helm import HelmReleases
from spike_pipelines.adapters.kubernetes import Api, KubernetesCluster
from spike_pipelines.adapters.kubernetes.shelf import ConfigMapShelf
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.rollout import Rollout
from spike_pipelines.services.rollout import Deployment

pytestmark = [pytest.mark.real, pytest.mark.kubernetes]
PAYOUT = ROOT / "deployments" / "applications" / "crt-payout-v1-1.0.yaml"
FINE = LagReport(LagVerdict.OK, "all is well", 3, 1.0, ())


class Cluster:
    """Where a deployed driver opens an epoch and commits a batch, or does not, at the first look."""

    def __init__(self, namespace, world, tmp_path):
        self.name = f"crt-payout-v1-{uuid.uuid4().hex[:6]}.0"
        self.namespace, self.world, self.folder = namespace, world, tmp_path
        self.works = True
        self.drivers = 0
        self.api = Api.connect(os.environ["KUBECONFIG"])
        world.broker.create("crt.payout", 1)

    def file(self, trigger):
        path = self.folder / f"{self.name}.yaml"
        text = PAYOUT.read_text().replace("crt-payout-v1-1.0", self.name).replace("10s", trigger, 1)
        text = text.replace("s3://spike-lake/", f"s3://{BUCKET}/")
        path.write_text(text)
        return path

    def deploy(self, trigger, patience=timedelta(seconds=20)):
        path = self.file(trigger)
        spike = load_application(path)
        values = ROOT / "deployments" / "platform.yaml"
        deployment = Deployment(
            ledger=self.world.ledger,
            cluster=KubernetesCluster(self.api, self.namespace),
            deployer=HelmReleases(self.namespace, CHARTS / "spike", values, find_helm()),
            shelf=ConfigMapShelf(self.api, f"{self.namespace}/spike-applications"),
            lag=lambda _: FINE,
            tell=print,
            wait=lambda _: self.drive(spike) if self.works else self.let_time_pass(),
        )
        return spike, deployment.deploy(spike, path, patience)

    def drive(self, spike):
        """As the new driver does: takes the spike from the one of before, reads, and is promoted."""
        self.drivers += 1
        self.world.spikes[spike.name] = spike
        self.world.execute("UPDATE epochs SET heartbeat_at = heartbeat_at - interval '1 hour'")
        registrar = self.world.registrar
        opened = registrar.open_epoch(spike, f"driver {self.drivers}", None, spike.version)
        self.world.broker.append("crt.payout", 0, *[opened.epoch.opened_at] * 6)
        driver = Driver(self.world, spike, opened)
        driver.register(replace(driver.write(), application_version=spike.version))
        self.world.settle(spike)

    def let_time_pass(self):
        """Of the ledger's clock, by which patience is counted."""
        self.world.execute("SELECT pg_sleep(3)")

    def version(self, spike):
        return self.noted(spike, "spec-hash")

    def noted(self, spike, what):
        jsonpath = f"jsonpath={{.metadata.annotations.spike-pipelines\\.io/{what}}}"
        return kubectl("-n", self.namespace, "get", RESOURCE, spike.resource_name, "-o", jsonpath)

    def shelved(self):
        data = self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/spike-applications")["data"]
        path = self.folder / "shelved" / f"{self.name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(data[f"{self.name}.yaml"])
        return load_application(path)


@pytest.fixture
def cluster(namespace, helm, world, tmp_path):
    cluster = Cluster(namespace, world, tmp_path)
    yield cluster
    cluster.api.close()


def test_a_deployment_that_commits_is_marked_and_the_next_that_does_not_is_taken_back_to_it(cluster):
    good, outcome = cluster.deploy("10s")
    assert outcome.verdict.state is Rollout.STABLE, outcome
    assert cluster.world.ledger.specs()[good.name].stable == cluster.noted(good, "spec-digest")
    assert cluster.shelved() == good

    cluster.works = False
    bad, outcome = cluster.deploy("11s", patience=timedelta(seconds=2))
    assert outcome.verdict.state is Rollout.FAILED
    assert "no driver has been heard of since" in outcome.verdict.reason
    assert outcome.back_to == 1
    assert cluster.version(bad) == good.version
    assert cluster.shelved() == good

    cluster.works = True
    newer, outcome = cluster.deploy("12s")
    assert outcome.verdict.state is Rollout.STABLE, outcome
    assert cluster.version(newer) == newer.version
    assert cluster.world.ledger.specs()[good.name].stable == cluster.noted(newer, "spec-digest")
