"""Where the API server has what we ask it for."""

from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, VERSION


def applications(namespace: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def config_maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def events(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"
