"""The stand-in's submission: nothing that the chart writes is left out."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from spark_submit import SparkSubmit

CHART = Path(__file__).parents[1] / "charts" / "snapshots" / "spike.yaml"
# What Spark is not told: its own version, and what the image has anyway.
APART = {"type", "pythonVersion", "sparkVersion", "restartPolicy"}


@pytest.fixture
def app():
    documents = YAML(typ="safe").load_all(CHART.read_text())
    app = next(d for d in documents if d and d["kind"] == "SparkApplication")
    app["metadata"]["uid"] = "uid-1"
    return app


def leaves(found):
    if isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from leaves(part)
    else:
        yield str(found)


def test_every_value_of_the_chart_reaches_spark_or_a_pod_template(app, tmp_path):
    told = SparkSubmit("https://api", "spikes", tmp_path).arguments(app, "submission-1")
    templates = "".join(path.read_text() for path in tmp_path.iterdir())
    spec = {key: value for key, value in app["spec"].items() if key not in APART}
    for role in ("driver", "executor"):
        template = spec[role].pop("template")
        assert json.dumps(template)[1:-1] in templates
    missing = [leaf for leaf in leaves(spec) if not any(leaf in word for word in told)]
    assert not missing


def test_a_driver_is_known_by_its_submission_and_goes_with_its_resource(app, tmp_path):
    told = SparkSubmit("https://api", "spikes", tmp_path).arguments(app, "submission-1")
    assert "spark.kubernetes.driver.label.sparkoperator.k8s.io/submission-id=submission-1" in told
    template = json.loads((tmp_path / "submission-1-driver.json").read_text())
    (owner,) = template["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("SparkApplication", "uid-1")
    assert "ownerReferences" not in (tmp_path / "submission-1-executor.json").read_text()
