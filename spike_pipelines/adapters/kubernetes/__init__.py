"""Spikes as SparkApplications of a Kubernetes cluster, through the official client."""

from spike_pipelines.adapters.kubernetes.api import Api
from spike_pipelines.adapters.kubernetes.cluster import KubernetesCluster

__all__ = ["Api", "KubernetesCluster"]
