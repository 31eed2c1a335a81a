"""`spike deploy` as a job: from an application file as text, or the one that the code location reads."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dagster as dg

from spike_pipelines.adapters.applications import application_path, load_application
from spike_pipelines.adapters.dagster_reload import reload_location
from spike_pipelines.domain.rollout import Rollout
from spike_pipelines.platform import Platform
from spike_pipelines.services.rollout import Outcome

ACCOUNT = "dagster-deploy"  # `dagster.deployServiceAccount` of charts/spike-platform: no other run may deploy


class DeployConfig(dg.Config):
    """`application` is the text of the file; empty: as it is. `patience_seconds` until it must work."""

    spike: str
    application: str = ""
    patience_seconds: float = 600.0


@dg.op(required_resource_keys={"platform"})
def deploy_spike(context: dg.OpExecutionContext, config: DeployConfig) -> None:
    """Deploy, watch, and fail with the reason unless it is stable."""
    platform = context.resources.platform
    outcome = run_deploy(platform, config, context.log.info)
    if problem := reload_location(platform.settings.dagster_url):
        context.log.warning(problem)
    if outcome.verdict.state is not Rollout.STABLE:
        back = "" if outcome.back_to is None else f"; revision {outcome.back_to} is back"
        raise dg.Failure(f"{outcome.verdict.state}: {outcome.verdict.reason}{back}", allow_retries=False)
    context.log.info("stable: %s", outcome.verdict.reason)


def run_deploy(platform: Platform, config: DeployConfig, tell: Callable[[str], None]) -> Outcome:
    there = application_path(platform.settings.applications_dir, config.spike)
    text = config.application or there.read_text()
    with tempfile.TemporaryDirectory() as folder:
        path = application_path(Path(folder), config.spike)
        path.write_text(text)
        patience = timedelta(seconds=config.patience_seconds)
        return platform.deployment(tell).deploy(load_application(path), path, patience)


@dg.job(
    description="Installs or upgrades one spike, watches until it works, or takes it back.",
    tags={"dagster-k8s/config": {"pod_spec_config": {"service_account_name": ACCOUNT}}},
)
def deploy() -> None:
    deploy_spike()
