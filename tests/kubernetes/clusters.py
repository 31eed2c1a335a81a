"""The cluster that KUBECONFIG names, and a namespace of a test's own in it."""

import contextlib
import os
import uuid
from pathlib import Path

import pytest
import yaml
from sites import Site
from waiting import once_free_of

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
    once_free_of(ObjectMissing, lambda: api.get(f"/apis/{GROUP}/{VERSION}/{PLURAL}"))
    yield api
    api.close()


@contextlib.contextmanager
def site_in(api):
    namespace = f"spike-tests-{uuid.uuid4().hex[:8]}"
    api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    once_free_of(ObjectMissing, lambda: api.get(account))  # before, pods are refused
    yield Site(api, namespace)
    api.delete(f"/api/v1/namespaces/{namespace}")
