"""API servers: a small one of the tests' own, and the one that KUBECONFIG names if it does."""

import pytest
from clusters import connected, site_in
from fake_api import FakeApi
from sites import Site, fake_connection

from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, VERSION


@pytest.fixture
def fake():
    """The small server, when a test is about its faults."""
    with FakeApi() as api:
        api.objects |= {path: {} for path in _collections("tests")}
        yield api


@pytest.fixture(params=["small server", pytest.param("cluster", marks=pytest.mark.kubernetes)])
def site(request):
    if request.param == "cluster":
        with site_in(request.getfixturevalue("cluster_api")) as found:
            yield found
    else:
        fake = request.getfixturevalue("fake")
        api = fake_connection(fake)
        yield Site(api, "tests", fake)
        api.close()


@pytest.fixture(scope="session")
def cluster_api():
    with connected() as api:
        yield api


def _collections(namespace):
    yield f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
    yield f"/api/v1/namespaces/{namespace}/pods"
    yield f"/api/v1/namespaces/{namespace}/events"
    yield f"/api/v1/namespaces/{namespace}/configmaps"
