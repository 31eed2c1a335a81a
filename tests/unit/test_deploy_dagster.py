"""`spike deploy` and Dagster: the job, and the code location that is loaded again."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest
from dagster_k8s.job import (
    DagsterK8sJobConfig,
    UserDefinedDagsterK8sConfig,
    construct_dagster_k8s_job,
)
from ruamel.yaml import YAML

from spike_pipelines.adapters.applications import fingerprint, read_applications
from spike_pipelines.adapters.dagster_reload import reload_location
from spike_pipelines.domain.rollout import Rollout, RolloutVerdict
from spike_pipelines.orchestration.build import build
from spike_pipelines.orchestration.deploy import deploy
from spike_pipelines.services.rollout import Outcome
from spike_pipelines.settings import Settings

FOLDER = Path(__file__).parents[2] / "deployments" / "applications"
CHART = Path(__file__).parents[2] / "deployments" / "charts" / "spike-platform"
NAME = "crt-payout-v1-1.0"


@dataclass
class FakePlatform:
    """Its deployments end as told, and write down what they were given."""

    outcome: Outcome
    settings: Settings = field(default_factory=lambda: Settings(applications_dir=FOLDER))
    given: list = field(default_factory=list)

    def deployment(self, tell):
        return self

    def deploy(self, spike, path, patience):
        self.given.append((spike.name, path.read_text(), patience.total_seconds()))
        return self.outcome


def run(platform, **config):
    resource = dg.ResourceDefinition.hardcoded_resource(platform)
    configured = {"ops": {"deploy_spike": {"config": {"spike": NAME, **config}}}}
    return deploy.execute_in_process(
        run_config=configured, resources={"platform": resource}, raise_on_error=False
    )


def outcome(state, back_to=None):
    return Outcome(RolloutVerdict(state, "because of this"), back_to)


def test_the_job_deploys_the_file_that_the_code_location_reads():
    platform = FakePlatform(outcome(Rollout.STABLE))
    assert run(platform, patience_seconds=60.0).success
    assert platform.given == [(NAME, (FOLDER / f"{NAME}.yaml").read_text(), 60.0)]


def test_the_job_deploys_the_text_it_is_given():
    platform = FakePlatform(outcome(Rollout.STABLE))
    text = (FOLDER / f"{NAME}.yaml").read_text().replace("10s", "11s")
    assert run(platform, application=text).success
    assert platform.given[0][1] == text


@pytest.mark.parametrize("state", [Rollout.FAILED, Rollout.UNDECIDED])
def test_the_job_fails_with_the_reason_unless_the_spike_is_stable(state):
    done = run(FakePlatform(outcome(state, back_to=2)))
    [failure] = [e for e in done.all_events if e.is_step_failure]
    message = str(failure.event_specific_data.user_failure_data.description)
    assert message == f"{state}: because of this; revision 2 is back"


def test_only_the_runs_that_deploy_have_the_account_that_may():
    account = YAML(typ="safe").load(CHART / "values.yaml")["dagster"]["deployServiceAccount"]
    of_run = UserDefinedDagsterK8sConfig.from_dict(json.loads(deploy.tags["dagster-k8s/config"]))
    config = DagsterK8sJobConfig(job_image="i", dagster_home="/d", service_account_name="dagster")
    job = construct_dagster_k8s_job(config, args=["x"], job_name="run", user_defined_k8s_config=of_run)
    assert job.spec.template.spec.service_account_name == account
    definitions = build(read_applications(FOLDER), Settings(cluster="kubernetes"))
    others = [job for job in definitions.jobs if job.name != "deploy"]
    assert not any("dagster-k8s/config" in job.tags for job in others)


def test_the_job_has_the_location_loaded_again():
    platform = FakePlatform(outcome(Rollout.STABLE))
    with webserver(LOADED) as (url, asked):
        platform.settings = platform.settings.model_copy(update={"dagster_url": url})
        assert run(platform).success
    assert len(asked) == 1


def test_the_location_is_loaded_again_once_its_files_have_changed(tmp_path):
    """Not before: a deployment is ahead of the mount by a minute, and a reload then loads what was."""
    (tmp_path / f"{NAME}.yaml").write_text((FOLDER / f"{NAME}.yaml").read_text())
    with webserver(LOADED) as (url, asked):
        settings = Settings(cluster="kubernetes", applications_dir=tmp_path, dagster_url=url)
        definitions = build(read_applications(tmp_path), settings, fingerprint(tmp_path))
        (sensor,) = [s for s in definitions.sensors if s.name == "reload_sensor"]
        with dg.build_sensor_context() as context:
            assert "those that were loaded" in sensor(context).skip_message
            assert not asked
            (tmp_path / f"{NAME}.yaml").unlink()
            assert "loaded again" in sensor(context).skip_message
            assert len(asked) == 1


def test_a_text_of_another_spike_is_refused():
    done = run(FakePlatform(outcome(Rollout.STABLE)), spike="another", application="name: x\n")
    assert not done.success


def test_the_job_is_there_on_kubernetes_only():
    for cluster, there in (("kubernetes", True), ("processes", False)):
        definitions = build(read_applications(FOLDER), Settings(cluster=cluster))
        names = {job.name for job in definitions.jobs}
        assert ("deploy" in names) is there


@contextmanager
def webserver(answer):
    """Dagster's, as far as it reloads a location."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps({"data": {"reloadRepositoryLocation": answer}}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LOADED = {
    "__typename": "WorkspaceLocationEntry",
    "name": "spike-pipelines",
    "locationOrLoadError": {
        "__typename": "RepositoryLocation",
        "name": "spike-pipelines",
        "repositories": [],
    },
}


def test_the_location_that_the_chart_calls_so_is_loaded_again():
    with webserver(LOADED) as (url, asked):
        assert reload_location(url) is None
    assert asked[0]["variables"] == {"repositoryLocationName": "spike-pipelines"}
    assert "name: spike-pipelines" in (FOLDER.parent / "dagster-values.yaml").read_text()


@pytest.mark.parametrize(
    "answer",
    [
        {"__typename": "ReloadNotSupported", "message": "not so"},
        {"__typename": "RepositoryLocationNotFound", "message": "unknown"},
    ],
)
def test_a_location_that_was_not_loaded_is_told_and_fails_nothing(answer):
    with webserver(answer) as (url, _):
        assert "did not reload spike-pipelines" in reload_location(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense"])
def test_a_webserver_that_is_not_there_is_told_and_fails_nothing(url):
    assert url in reload_location(url)


def test_an_application_without_a_file_is_told(tmp_path):
    platform = FakePlatform(outcome(Rollout.STABLE), Settings(applications_dir=tmp_path))
    assert not run(platform).success
    assert platform.given == []
