"""What the charts promise: one values file for Helm and Python, names, versions, restricted pods."""

import importlib.util
import json
from pathlib import Path

import pytest
from chart_tools import CHARTS, ROOT, resources
from ruamel.yaml import YAML
from test_snapshots import CASES

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.domain.kubernetes_names import (
    DNS_1035,
    FILE_LABEL,
    PART_OF_LABEL,
    SPEC_DIGEST_ANNOTATION,
    SPEC_HASH_ANNOTATION,
    SPIKE_LABEL,
    resource_name,
)

HERE = Path(__file__).parent
SHIPPED = sorted((ROOT / "deployments" / "applications").glob("*.yaml"))
AWKWARD = HERE / "values" / "crt-refund-v2-1.3.yaml"
SPOT = HERE / "values" / "spot.yaml"
FILES = [*SHIPPED, AWKWARD]


def named(path: Path) -> str:
    return path.stem


def application(rendered: str) -> dict:
    [found] = [r for (kind, _), r in resources(rendered).items() if kind == "SparkApplication"]
    return found


@pytest.mark.parametrize("path", FILES, ids=named)
def test_an_application_file_as_it_stands_is_a_values_file(path, helm):
    done = helm("lint", "--strict", CHARTS / "spike", "-f", path)
    assert done.returncode == 0, done.stdout


def test_the_platform_chart_passes_lint(helm):
    done = helm("lint", "--strict", CHARTS / "spike-platform")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=named)
def test_file_resource_and_driver_have_one_version(path, render, tmp_path):
    """The driver reads what Helm wrote into the ConfigMap: it must be the same spike, of the same version."""
    spike, rendered = load_application(path), render("spike", SPOT, path)
    found, name = application(rendered), spike.resource_name
    assert found["metadata"]["annotations"][SPEC_HASH_ANNOTATION] == spike.version
    for role in ("driver", "executor"):
        assert found["spec"][role]["annotations"][SPEC_HASH_ANNOTATION] == spike.version
    kept = resources(rendered)["ConfigMap", f"{name}-{spike.version}"]
    [(file, text)] = kept["data"].items()
    (tmp_path / file).write_text(text)
    assert load_application(tmp_path / file) == spike


def test_another_platform_is_another_deployment_of_the_same_version(render):
    """Another image is something to go back from, and the application file is what it was."""
    values = ([], ["--set=platform.image=a:1"], ["--set=platform.image=a:2"], ["--set=platform.image=a:2"])
    notes = [application(render("spike", SHIPPED[0], *v))["metadata"]["annotations"] for v in values]
    assert len({n[SPEC_HASH_ANNOTATION] for n in notes}) == 1
    digests = [n[SPEC_DIGEST_ANNOTATION] for n in notes]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_what_a_spec_reads_is_there_as_long_as_somebody_may_go_back_to_it(path, render):
    """A file of its own for each version, which no later one changes and no release takes away."""
    version, rendered = load_application(path).version, render("spike", path)
    spec = application(rendered)["spec"]["driver"]["template"]["spec"]
    [name] = [v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v]
    kept = resources(rendered)["ConfigMap", name]
    assert name.endswith(f"-{version}")
    assert kept["immutable"] is True
    assert kept["metadata"]["labels"][FILE_LABEL] == version
    assert kept["metadata"]["labels"][SPIKE_LABEL] == path.stem
    assert kept["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade,pre-rollback",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }


@pytest.mark.parametrize("path", FILES, ids=named)
def test_names_are_those_of_the_domain(path, render):
    found = application(render("spike", path))
    assert found["metadata"]["name"] == resource_name(path.stem)
    assert found["metadata"]["labels"][SPIKE_LABEL] == path.stem
    assert found["metadata"]["labels"][PART_OF_LABEL[0]] == PART_OF_LABEL[1]


@pytest.mark.parametrize("case", CASES)
def test_every_rendered_name_is_a_dns_1035_label(case, render):
    chart, *values = CASES[case]
    for kind, name in resources(render(chart, *values)):
        assert DNS_1035.fullmatch(name), f"{kind} {name}"
        assert len(name) <= 63


@pytest.mark.parametrize("name", ["a" * 51, "Payout", "1st", "a_b"])
def test_a_name_that_kubernetes_refuses_is_refused_before(name, helm):
    done = helm("template", CHARTS / "spike", "-f", SHIPPED[0], "--set-string", f"name={name}")
    assert done.returncode != 0
    assert "name" in done.stderr


@pytest.mark.parametrize(
    ("set_", "told"),
    [
        ("trigge=10s", "trigge"),
        ("driver.memroy=1g", "memroy"),
        ("driver.memory=1gb", "memory"),
        ("executor.instances=0", "instances"),
        ("objectives.lagg=1s", "lagg"),
        ("trigger=10", "trigger"),
        ("platform.imagePolicy=Always", "imagePolicy"),
        ("platform.spot.enabled=perhaps", "enabled"),
        ("imagePullPolicy=Sometimes", "imagePullPolicy"),
        ("platform.appender.audience=", "audience"),  # such a token is one for the API server
    ],
)
def test_a_typo_is_refused_by_the_values_schema(set_, told, helm):
    done = helm("lint", CHARTS / "spike", "-f", SHIPPED[0], "--set", set_)
    assert done.returncode != 0
    assert told in done.stdout


def test_a_typo_in_the_platforms_values_is_refused(helm):
    done = helm("lint", CHARTS / "spike-platform", "--set", "appender.replica=3")
    assert done.returncode != 0
    assert "replica" in done.stdout


@pytest.mark.parametrize(
    "key", ["appender.audience", "spikes.namespace", "dagster.namespace", "dagster.serviceAccount"]
)
def test_what_kubernetes_would_take_for_something_else_may_not_be_empty(key, helm):
    done = helm("lint", CHARTS / "spike-platform", "--set", f"{key}=")
    assert done.returncode != 0
    assert key.partition(".")[2] in done.stdout


def test_a_missing_application_file_is_told_as_such(helm):
    done = helm("template", CHARTS / "spike", "--kube-version", "1.33.0")
    assert done.returncode != 0
    assert "name" in done.stderr


def test_what_has_no_key_of_its_own_is_merged_over_the_rest(render):
    spec = application(render("spike", AWKWARD))["spec"]
    assert spec["timeToLiveSeconds"] == 3600
    assert spec["restartPolicy"] == {
        "type": "Always",
        "onFailureRetryInterval": 3,
        "onSubmissionFailureRetryInterval": 10,
    }
    assert spec["executor"]["deleteOnTermination"] is False
    assert spec["executor"]["instances"] == 2


def test_the_files_own_configuration_goes_before_the_platforms_and_that_before_the_charts(render):
    conf = application(render("spike", SPOT, AWKWARD))["spec"]["sparkConf"]
    assert conf["spark.ui.retainedJobs"] == "9"
    assert conf["spark.locality.wait"] == "3s"
    assert conf["spark.decommission.enabled"] == "true"


def placed_on(spec: dict, role: str) -> str:
    terms = spec[role]["template"]["spec"]["affinity"]["nodeAffinity"]
    [term] = terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [expression] = term["matchExpressions"]
    return expression["values"][0]


def test_a_driver_may_stay_on_demand_while_its_executors_are_on_spot(render):
    spec = application(render("spike", SPOT, AWKWARD))["spec"]
    assert placed_on(spec, "driver") == "on-demand"
    assert "tolerations" not in spec["driver"]["template"]["spec"]
    assert placed_on(spec, "executor") == "spot"
    assert [t["key"] for t in spec["executor"]["template"]["spec"]["tolerations"]] == ["spot", "gpu"]
    assert "podAntiAffinity" in spec["executor"]["template"]["spec"]["affinity"]


WORDS = ("true", "123", "1e3", "null", "on")  # text to whoever wrote it in quotes, and something else to YAML


def texts(found, path=()):
    """Every value below a key that Kubernetes takes text for, with its place."""
    if isinstance(found, dict):
        for key, value in found.items():
            assert isinstance(key, str), (path, key)
            yield from texts(value, (*path, key))
    elif isinstance(found, list):
        for value in found:
            yield from texts(value, path)
    elif path[-1] in TEXT or path[-2:-1] in [("labels",), ("matchLabels",), ("annotations",)]:
        yield path, found


TEXT = {
    "name", "namespace", "key", "values", "serviceAccountName", "serviceAccount", "secretName", "host",
    "hosts", "audience", "priorityClassName", "interval", "image", "ingressClassName", "resourceNames",
    "value", "imagePullSecrets", "spark.x", "fs.x",
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_text_that_looks_like_something_else_stays_text(word, helm, tmp_path):
    platform = {
        "image": word, "imagePullSecrets": [word], "s3Endpoint": word, "s3CredentialsSecret": word,
        "eventLog": word, "sparkConf": {"spark.x": word}, "hadoopConf": {"fs.x": word},
        "appender": {"url": word, "audience": word},
        "spot": {"enabled": True, "label": word, "spotValue": word, "onDemandValue": word, "taint": word},
        "podMonitor": {"enabled": True, "labels": {"x": word}, "interval": word},
    }  # fmt: skip
    pods = {"priorityClassName": word, "nodeSelector": {"key": word}}
    values = {"platform": platform, "driver": pods, "executor": pods}
    (tmp_path / "spike.yaml").write_text(json.dumps(values))
    values = {
        "image": word, "sparkImage": word, "imagePullSecrets": [word], "kafkaBootstrap": word,
        "spikes": {"namespace": word, "applicationsConfigMap": word},
        "appender": {"ledgerSecret": word, "audience": word},
        "history": {
            "s3CredentialsSecret": word,
            "ingress": {"enabled": True, "className": word, "host": word, "tlsSecret": word},
        },
        "dagster": {"namespace": word, "serviceAccount": word, "mayDeploy": True},
        "networkPolicy": {"monitoringNamespace": word, "ingressNamespace": word},
        "monitoring": {"enabled": True, "interval": word},
        "dashboards": {"label": word},
    }  # fmt: skip
    (tmp_path / "spike-platform.yaml").write_text(json.dumps(values))
    for chart, more in (("spike", ["-f", SHIPPED[0], "--set-string", "name=on"]), ("spike-platform", [])):
        given = ("-n", word, "--kube-version=1.33.0", *more, "-f", tmp_path / f"{chart}.yaml")
        done = helm("template", word.replace("e", "x"), CHARTS / chart, *given)
        assert done.returncode == 0, done.stderr
        for document in YAML(typ="safe").load_all(done.stdout):
            assert not [path for path, text in texts(document) if not isinstance(text, str)]


def test_nothing_and_no_are_said_as_well_as_something(render, tmp_path):
    """0, false and an empty text are values; null is the same as silence."""
    said = {"terminationGracePeriodSeconds": 0}
    values = {"driver": said, "sparkConf": {"spark.locality.wait": ""}, "spot": {"executor": None}}
    (tmp_path / "own.yaml").write_text(json.dumps(values))
    spec = application(render("spike", SPOT, SHIPPED[0], tmp_path / "own.yaml"))["spec"]
    graces = [
        spec[role]["template"]["spec"]["terminationGracePeriodSeconds"] for role in ("driver", "executor")
    ]
    assert graces == [0, 60]
    assert spec["sparkConf"]["spark.locality.wait"] == ""
    assert placed_on(spec, "executor") == "spot"


def test_without_spot_nodes_pods_go_anywhere(render):
    spec = application(render("spike", SHIPPED[0]))["spec"]
    for role in ("driver", "executor"):
        assert not {"affinity", "tolerations"} & set(spec[role]["template"]["spec"])


def pod_specs(rendered: str):
    for (kind, name), resource in resources(rendered).items():
        if kind == "SparkApplication":
            for role in ("driver", "executor"):
                yield f"{name} {role}", resource["spec"][role]["template"]["spec"]
        elif kind == "Pod":
            yield name, resource["spec"]
        elif kind in ("Deployment", "Job"):
            yield name, resource["spec"]["template"]["spec"]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_fits_the_restricted_profile(case, render):
    chart, *values = CASES[case]
    for name, spec in pod_specs(render(chart, *values)):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_only_drivers_have_a_token_for_the_appender_and_one_for_kubernetes(render):
    spec = application(render("spike", SHIPPED[0]))["spec"]
    driver, executor = (spec[role]["template"]["spec"] for role in ("driver", "executor"))
    assert driver["automountServiceAccountToken"] is True
    [token] = [
        v["projected"]["sources"][0]["serviceAccountToken"] for v in driver["volumes"] if "projected" in v
    ]
    assert token["audience"] == "spike-appender"
    assert executor["automountServiceAccountToken"] is False
    assert "volumes" not in executor


def test_the_rules_of_prometheus_have_one_source(render):
    rendered = resources(render("spike-platform", "--set=monitoring.enabled=true"))
    source = YAML(typ="safe").load(ROOT / "deployments" / "prometheus" / "spike.rules.yaml")
    assert rendered["PrometheusRule", "spike-platform"]["spec"] == source


@pytest.mark.parametrize("name", ["fleet", "spike", "pods"])
def test_the_dashboards_have_one_source(name, render):
    rendered = resources(render("spike-platform"))["ConfigMap", f"spike-platform-dashboard-{name}"]
    assert rendered["data"][f"spike-{name}.json"] == (ROOT / f"deployments/grafana/{name}.json").read_text()


def test_audience_and_address_are_the_same_in_both_charts():
    spike, platform = (
        YAML(typ="safe").load(CHARTS / chart / "values.yaml") for chart in ("spike", "spike-platform")
    )
    assert spike["platform"]["appender"]["audience"] == platform["appender"]["audience"]
    assert spike["platform"]["appender"]["url"] == (
        f"http://spike-platform-appender.spike-platform.svc:{platform['appender']['port']}"
    )


def test_schemas_and_readmes_are_what_the_code_builds():
    spec = importlib.util.spec_from_file_location("charts", CHARTS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.files().items():
        assert path.read_text() == text, "run .venv/bin/python deployments/charts/build.py"
