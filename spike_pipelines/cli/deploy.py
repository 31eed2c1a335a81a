"""`spike deploy`: a spike into the cluster, seen through until it works, or taken back; `spike undeploy`."""

from pathlib import Path
from typing import Annotated

import typer

from spike_pipelines.adapters.application_schema import duration
from spike_pipelines.adapters.applications import SUFFIX, application_path, load_application
from spike_pipelines.adapters.dagster_reload import reload_location
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.rollout import Rollout
from spike_pipelines.platform import Platform
from spike_pipelines.services.rollout import Outcome

LOOK_AT = "`spike lag`, `spike status` and the driver's log say more"


def deploy(
    name: Annotated[str, typer.Argument(help="Of the spike, or the path of its application file.")],
    patience: Annotated[str, typer.Option(help="How long it may take until it works, as in 10m.")] = "10m",
) -> None:
    """Install or upgrade a spike with Helm and watch it: a new driver must open an epoch and commit, with its
    lag within the objective. Then its spec is marked stable; else the last good one is brought back.

    Ends with 0 if it works, 1 if it was taken back or could not be, 3 if it stays and somebody must look.
    """
    try:
        wait = duration(patience)
    except ValueError as error:
        raise InvalidSpec(f"--patience {patience}: {error}") from error
    platform = Platform()
    path = _file(name, platform.settings.applications_dir)
    outcome = platform.deployment(typer.echo).deploy(load_application(path), path, wait)
    _reload(platform)
    for line in told(outcome):
        typer.echo(line)
    raise typer.Exit(exit_code(outcome))


def told(outcome: Outcome) -> tuple[str, ...]:
    """What a tired person needs to know."""
    reason = outcome.verdict.reason
    match outcome.verdict.state:
        case Rollout.STABLE:
            return (f"stable: {reason}",)
        case Rollout.FAILED if outcome.back_to is not None:
            return (f"failed: {reason}", f"revision {outcome.back_to} is back; {LOOK_AT}")
        case Rollout.FAILED:
            return (f"failed: {reason}", f"nothing earlier to go back to: it stays as it is; {LOOK_AT}")
        case _:
            return (f"undecided: {reason}", f"it stays, not marked stable; {LOOK_AT}")


def exit_code(outcome: Outcome) -> int:
    return {Rollout.STABLE: 0, Rollout.FAILED: 1}.get(outcome.verdict.state, 3)


def _file(name: str, folder: Path) -> Path:
    path = Path(name) if name.endswith(SUFFIX) else application_path(folder, name)
    if not path.is_file():
        raise InvalidSpec(
            f"{path.absolute()} is not there: start in the repository, or set SPIKE_APPLICATIONS_DIR; "
            "`spike applications` lists those that are"
        )
    return path


def undeploy(name: Annotated[str, typer.Argument(help="Of the spike, as in crt-payout-v1-1.0.")]) -> None:
    """End a spike of the cluster: first its file goes, which Dagster and appender read, then its release.

    What it committed stays, in the dataset and in the ledger. Batches that are staged and not committed wait
    for its file; deployed again, it goes on where it was.
    """
    platform = Platform()
    was_there = platform.deployment(typer.echo).undeploy(name)
    typer.echo(f"{name} is ended" if was_there else f"there is no release of {name}: nothing to end")
    _reload(platform)


def _reload(platform: Platform) -> None:
    if problem := reload_location(platform.settings.dagster_url):
        typer.echo(problem)


def register(app: typer.Typer) -> None:
    app.command("deploy")(deploy)
    app.command("undeploy")(undeploy)
