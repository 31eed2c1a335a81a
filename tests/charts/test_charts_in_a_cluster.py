"""The charts in a real cluster, any that KUBECONFIG names: accepted by its API server, taken back."""

import base64
import gzip
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from chart_tools import CHARTS, RESOURCE, ROOT, find_helm, kubectl, resources

from spike_pipelines.adapters import helm as helm_adapter
from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.helm import HelmReleases
from spike_pipelines.domain.errors import Conflict, InvalidSpec
from spike_pipelines.domain.kubernetes_names import FILE_LABEL

HERE = Path(__file__).parent
PAYOUT = ROOT / "deployments" / "applications" / "crt-payout-v1-1.0.yaml"


@pytest.mark.parametrize("application", [PAYOUT, HERE / "values" / "crt-refund-v2-1.3.yaml"])
def test_a_real_api_server_accepts_all_that_a_spike_is(application, namespace, helm):
    """But for the pod of `helm test`, whose account is not there yet."""
    given = ("-n", namespace, "-f", application, "--kube-version=1.33.0", "--skip-tests")
    done = helm("template", "x", CHARTS / "spike", *given)
    told = kubectl("apply", "-n", namespace, "--dry-run=server", "-f", "-", given=done.stdout)
    assert f"sparkapplication.sparkoperator.k8s.io/{application.stem.replace('.', '-')} created" in told


def test_a_real_api_server_accepts_all_that_the_platform_is(namespace, helm):
    settings = f"spikes.namespace={namespace},spikes.createNamespace=false,history.ingress.enabled=true"
    done = helm(
        "template",
        "x",
        CHARTS / "spike-platform",
        "-n",
        namespace,
        "--set",
        settings,
        "--kube-version=1.33.0",
    )
    kubectl("apply", "-n", namespace, "--dry-run=server", "-f", "-", given=done.stdout)


@pytest.mark.parametrize("role", ["driver", "executor", "test"])
def test_restricted_pod_security_lets_every_pod_of_a_spike_in(role, namespace, render):
    rendered = resources(render("spike", HERE / "values" / "spot.yaml", PAYOUT))
    if role == "test":
        spec = rendered["Pod", "crt-payout-v1-1-0-test"]["spec"]
        del spec["serviceAccountName"]  # it is not there yet
    else:
        spec = rendered["SparkApplication", "crt-payout-v1-1-0"]["spec"][role]["template"]["spec"]
        spec["containers"][0]["image"] = "spark"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": spec}
    kubectl("apply", "-n", namespace, "--dry-run=server", "-f", "-", given=json.dumps(pod))


MAY = {
    f"get {RESOURCE}", f"list {RESOURCE}", f"create {RESOURCE}", f"patch {RESOURCE}", f"watch {RESOURCE}",
    "get pods", "list pods", "delete pods", "get pods/log", "list events", "create events",
}  # fmt: skip
MAY_NOT = {
    f"delete {RESOURCE}", "create pods", "get secrets", "list secrets", "create pods/exec",
    "patch configmaps", "create serviceaccounts/token", "delete events", "create rolebindings",
}  # fmt: skip


def test_the_supervisor_may_do_what_its_adapter_does_and_no_more(namespace, helm):
    """Without the rights to deploy, which are a Role of their own."""
    settings = (
        f"spikes.namespace={namespace},spikes.createNamespace=false,dagster.mayDeploy=false,"
        f"dagster.namespace={namespace},dagster.serviceAccount=dagster"
    )
    given = ("-n", namespace, "--set", settings, "--kube-version=1.33.0", "-s", "templates/rbac.yaml")
    rights = resources(helm("template", namespace, CHARTS / "spike-platform", *given).stdout)
    for kind in ("Role", "RoleBinding"):
        kubectl("apply", "-f", "-", given=json.dumps(rights[kind, f"{namespace}-supervisor"]))
    account = f"--as=system:serviceaccount:{namespace}:dagster"
    for verb, expected in [*((v, "yes") for v in MAY), *((v, "no") for v in MAY_NOT)]:
        asked = ["kubectl", "-n", namespace, "auth", "can-i", *verb.split(), account]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.strip() == expected, f"{verb}: {done.stdout}{done.stderr}"


@pytest.fixture
def releases(namespace, helm):
    return HelmReleases(namespace, CHARTS / "spike", ROOT / "deployments" / "platform.yaml", find_helm())


@pytest.fixture
def edited(tmp_path):
    """A spike of this test's own: its application file with another trigger, as a path and a `Spike`."""
    name = f"crt-payout-v1-{uuid.uuid4().hex[:6]}.0"

    def edit(trigger: str):
        path = tmp_path / f"{name}.yaml"
        text = PAYOUT.read_text().replace("crt-payout-v1-1.0", name).replace("trigger: 10s", trigger)
        path.write_text(text)
        return load_application(path), path

    return edit


def version_in(namespace: str, name: str) -> str:
    found = json.loads(kubectl("-n", namespace, "get", RESOURCE, name, "-o", "json"))
    return found["metadata"]["annotations"]["spike-pipelines.io/spec-hash"]


def files_of(namespace: str, spike) -> set[str]:
    """Versions whose application file is there."""
    selector = f"spike-pipelines.io/spike={spike.name},{FILE_LABEL}"
    found = json.loads(kubectl("-n", namespace, "get", "configmaps", "-l", selector, "-o", "json"))
    return {item["metadata"]["labels"][FILE_LABEL] for item in found["items"]}


def test_a_spike_is_deployed_upgraded_and_taken_back(releases, edited, namespace):
    good, path = edited("trigger: 10s")
    first = releases.deploy(good, path)
    assert (first.revision, first.changed) == (1, True)
    assert version_in(namespace, good.resource_name) == good.version
    assert releases.good_revision(good, 1, None) is None

    again = releases.deploy(good, path)
    assert (again.revision, again.changed) == (2, False)

    bad, path = edited("trigger: 11s")
    third = releases.deploy(bad, path)
    assert (third.revision, third.changed) == (3, True)
    assert version_in(namespace, bad.resource_name) == bad.version

    assert releases.good_revision(bad, 3, "another") is None
    assert releases.good_revision(bad, 3, first.spec) == 2
    assert files_of(namespace, good) == {good.version, bad.version}, "the way back has its file"
    assert releases.good_revision(bad, 3, None) == 2
    releases.roll_back(bad, 2)
    assert version_in(namespace, bad.resource_name) == good.version
    assert files_of(namespace, good) == {good.version, bad.version}
    assert releases.good_revision(bad, 3, None) is None, "another one was deployed since"

    _, path = edited("trigger: 12s")
    path.write_text(releases.application(bad, 2))
    assert load_application(path) == good


def test_an_ended_release_leaves_nothing_but_its_files(releases, edited, namespace):
    spike, path = edited("trigger: 10s")
    releases.deploy(spike, path)
    assert releases.uninstall(spike.resource_name)
    assert not releases.uninstall(spike.resource_name)
    mark = f"app.kubernetes.io/instance={spike.resource_name}"
    kinds = f"serviceaccounts,roles,rolebindings,{RESOURCE}"
    assert kubectl("-n", namespace, "get", kinds, "-l", mark, "-o", "name") == ""


def test_deploying_one_spike_touches_no_other_resource(releases, edited, namespace):
    spike, path = edited("trigger: 10s")
    releases.deploy(spike, path)
    others = ("configmaps,serviceaccounts,roles,rolebindings", RESOURCE)
    mark = f"app.kubernetes.io/instance!={spike.resource_name}"

    def versions() -> str:
        column = "custom-columns=K:.kind,N:.metadata.name,V:.metadata.resourceVersion"
        return kubectl("-n", namespace, "get", ",".join(others), "-l", mark, "-o", column)

    before = versions()
    releases.deploy(*edited("trigger: 11s"))
    assert versions() == before


def test_a_resource_deleted_by_hand_comes_back_with_the_next_deployment(releases, edited, namespace):
    spike, path = edited("trigger: 10s")
    releases.deploy(spike, path)
    kubectl("-n", namespace, "delete", RESOURCE, spike.resource_name)
    releases.deploy(spike, path)
    assert version_in(namespace, spike.resource_name) == spike.version


def test_a_mistake_is_told_and_leaves_what_was_there(releases, edited, namespace):
    spike, path = edited("trigger: 10s")
    releases.deploy(spike, path)
    path.write_text(path.read_text() + "trigggger: 1s\n")
    with pytest.raises(InvalidSpec, match="trigggger"):
        releases.deploy(spike, path)
    assert version_in(namespace, spike.resource_name) == spike.version


def set_status(namespace: str, name: str, revision: int, status: str) -> None:
    """As a helm that was killed leaves a revision: in the Secret's label, and packed in its data."""
    secret = f"sh.helm.release.v1.{name}.v{revision}"
    found = json.loads(kubectl("-n", namespace, "get", "secret", secret, "-o", "json"))
    packed = base64.b64decode(base64.b64decode(found["data"]["release"]))
    release = json.loads(gzip.decompress(packed))
    release["info"]["status"] = status
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    patch = {"data": {"release": packed}, "metadata": {"labels": {"status": status}}}
    kubectl("-n", namespace, "patch", "secret", secret, "--type=merge", "-p", json.dumps(patch))


@pytest.mark.parametrize("revisions", [1, 2])
def test_a_deployment_that_died_half_way_is_waited_for_and_then_ended(
    revisions, releases, edited, namespace, monkeypatch
):
    for number in range(revisions):
        spike, path = edited(f"trigger: {number + 1}s")
        releases.deploy(spike, path)
    if revisions > 1:  # the one before stands while an upgrade is pending
        set_status(namespace, spike.resource_name, 1, "deployed")
    pending = "pending-upgrade" if revisions > 1 else "pending-install"
    set_status(namespace, spike.resource_name, revisions, pending)
    with pytest.raises(Conflict, match="being deployed by somebody else"):
        releases.deploy(spike, path)
    monkeypatch.setattr(helm_adapter, "ABANDONED", helm_adapter.timedelta(0))
    releases.deploy(spike, path)
    assert version_in(namespace, spike.resource_name) == spike.version
