"""API servers: a small one of the tests' own, and the one that KUBECONFIG names if it does."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import pytest
import yaml
from fake_api import FakeApi
from sites import Site, fake_connection

from spike_pipelines.adapters.kubernetes import Api
from spike_pipelines.domain.errors import AlreadyExists, ObjectMissing
from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, VERSION

CRD = Path(__file__).parent / "crd.yaml"
NO_CLUSTER = "no Kubernetes cluster: set KUBECONFIG to one you may create a namespace and a CRD in"


@pytest.fixture
def fake():
    """The small server, when a test is about its faults."""
    with FakeApi() as api:
        api.objects |= {path: {} for path in _collections("tests")}
        yield api


@pytest.fixture(params=["small server", pytest.param("cluster", marks=pytest.mark.kubernetes)])
def site(request):
    if request.param == "cluster":
        yield from _in_cluster(request.getfixturevalue("cluster_api"))
    else:
        fake = request.getfixturevalue("fake")
        api = fake_connection(fake)
        yield Site(api, "tests", fake)
        api.close()


@pytest.fixture(scope="session")
def cluster_api():
    """Connected, and the resource is known there. An operator's own CRD is left as it is."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(NO_CLUSTER)
    api = Api.connect(os.environ["KUBECONFIG"])
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with contextlib.suppress(AlreadyExists):
        api.post(definitions, yaml.safe_load(CRD.read_text()))
    _until_served(api)
    yield api
    api.close()


def _until_served(api):
    deadline = time.monotonic() + 30
    while True:
        try:
            return api.get(f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        except ObjectMissing:
            assert time.monotonic() < deadline, "the CRD is not served after 30 s"
            time.sleep(0.1)


def _in_cluster(api):
    namespace = f"spike-tests-{uuid.uuid4().hex[:8]}"
    api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    _until_service_account(api, namespace)
    yield Site(api, namespace)
    api.delete(f"/api/v1/namespaces/{namespace}")


def _until_service_account(api, namespace):
    """Pods are refused before their namespace has one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except ObjectMissing:
            assert time.monotonic() < deadline, "no default service account after 30 s"
            time.sleep(0.05)


def _collections(namespace):
    yield f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
    yield f"/api/v1/namespaces/{namespace}/pods"
    yield f"/api/v1/namespaces/{namespace}/events"
    yield f"/api/v1/namespaces/{namespace}/configmaps"
