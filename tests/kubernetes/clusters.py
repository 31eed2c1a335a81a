"""The cluster that KUBECONFIG names, and a namespace of a test's own in it."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import pytest
import yaml
from sites import Site

from spike_pipelines.adapters.kubernetes import Api
from spike_pipelines.domain.errors import AlreadyExists, ObjectMissing
from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, VERSION

CRD = Path(__file__).parent / "crd.yaml"
NO_CLUSTER = "no Kubernetes cluster: set KUBECONFIG to one you may create a namespace and a CRD in"


@contextlib.contextmanager
def connected():
    """The resource is known there. An operator's own CRD is left as it is."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(NO_CLUSTER)
    api = Api.connect(os.environ["KUBECONFIG"])
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with contextlib.suppress(AlreadyExists):
        api.post(definitions, yaml.safe_load(CRD.read_text()))
    _until_served(api)
    yield api
    api.close()


@contextlib.contextmanager
def site_in(api):
    namespace = f"spike-tests-{uuid.uuid4().hex[:8]}"
    api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    _until_service_account(api, namespace)
    yield Site(api, namespace)
    api.delete(f"/api/v1/namespaces/{namespace}")


def _until_served(api):
    deadline = time.monotonic() + 30
    while True:
        try:
            return api.get(f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        except ObjectMissing:
            assert time.monotonic() < deadline, "the CRD is not served after 30 s"
            time.sleep(0.1)


def _until_service_account(api, namespace):
    """Pods are refused before their namespace has one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except ObjectMissing:
            assert time.monotonic() < deadline, "no default service account after 30 s"
            time.sleep(0.05)
