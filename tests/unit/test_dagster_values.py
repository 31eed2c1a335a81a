"""The values of Dagster's own chart: as the embedded stack's dagster.yaml, and as Dagster takes them.

The chart itself is not here; that its keys are these was read in its schema (docs/deploying.md).
"""

import re
from pathlib import Path

import pytest
from dagster._config import process_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from kubernetes.client import V1PodSpec
from ruamel.yaml import YAML

from spike_pipelines.settings import Settings

ROOT = Path(__file__).parents[2]


def loaded(path):
    return YAML(typ="safe").load(path)


VALUES = loaded(ROOT / "deployments" / "dagster-values.yaml")
EMBEDDED = loaded(ROOT / "dagster.yaml")
DAEMON = VALUES["dagsterDaemon"]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]


def snake(name):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def snaked(found):
    return {snake(k): snaked(v) for k, v in found.items()} if isinstance(found, dict) else found


def without(found, key):
    return {k: v for k, v in found.items() if k != key}


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (DAEMON["runMonitoring"], EMBEDDED["run_monitoring"]),
        (DAEMON["sensors"], EMBEDDED["sensors"]),
        (DAEMON["schedules"], EMBEDDED["schedules"]),
        (without(VALUES["retention"], "enabled"), EMBEDDED["retention"]),
        (without(VALUES["concurrency"], "enabled"), EMBEDDED["concurrency"]),
        (VALUES["additionalInstanceConfig"]["nux"], EMBEDDED["nux"]),
        (
            DAEMON["runCoordinator"]["config"]["queuedRunCoordinator"],
            EMBEDDED["run_coordinator"]["config"],
        ),
    ],
)
def test_the_chart_is_told_what_the_embedded_stack_is_told(here, there):
    assert snaked(here) == there


def test_every_part_runs_the_same_image():
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    images = [code["image"], DAEMON["image"], VALUES["dagsterWebserver"]["image"]]
    assert images == [images[0]] * 3


def test_dagster_takes_what_runs_are_to_be_like():
    """Fields of pods that Kubernetes does not have are refused where the launcher reads them."""
    config = {
        "service_account_name": VALUES["global"]["serviceAccountName"],
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "image_pull_policy": LAUNCHER["imagePullPolicy"],
        "run_k8s_config": {
            snake(key): part for key, part in LAUNCHER["runK8sConfig"].items()
        },
    }  # fmt: skip
    checked = process_config(K8sRunLauncher.config_type(), config)
    assert checked.success, checked.errors
    pod = UserDefinedDagsterK8sConfig.from_dict(config["run_k8s_config"]).pod_spec_config
    assert pod["security_context"]["run_as_user"] == 185
    assert set(pod) <= set(V1PodSpec.openapi_types)


def test_dagster_stands_where_the_config_map_is_that_it_mounts():
    """Pods mount ConfigMaps of their own namespace only, and an optional one that is elsewhere is silence."""
    place = Settings().applications_config_map
    platform = loaded(ROOT / "deployments" / "charts" / "spike-platform" / "values.yaml")
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    (volume,) = [v for v in code["volumes"] if v["name"] == "applications"]
    assert place == f"{platform['dagster']['namespace']}/{volume['configMap']['name']}"
    page = (ROOT / "docs/deploying.md").read_text()
    (values,) = [v for v in code["volumes"] if v["name"] == "platform"]
    of_cluster = f"-n {platform['dagster']['namespace']} create configmap {values['configMap']['name']} "
    assert of_cluster in page
    env = {e["name"]: e["value"] for e in code["env"]}
    (mount,) = [m for m in code["volumeMounts"] if m["name"] == "platform"]
    assert env["SPIKE_CHART_VALUES"] == f"{mount['mountPath']}/platform.yaml"
    command = re.search(r"helm upgrade --install dagster [^`]*?-n (\S+)", page)
    assert command[1] == platform["dagster"]["namespace"]
