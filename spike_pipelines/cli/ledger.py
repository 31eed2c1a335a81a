"""`spike ledger`: bring its schema to this version, and redo what is derived from it."""

from typing import Annotated

import typer

from spike_pipelines.adapters.ledger import migrate
from spike_pipelines.cli.arguments import known
from spike_pipelines.cli.operations import request
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings


def project(
    name: Annotated[str | None, typer.Argument(help="Of the spike.", show_default="all")] = None,
    why: Annotated[str, typer.Option(help="Written down where a table differed.")] = "tables redone",
    who: Annotated[str | None, typer.Option(help="Who does it.", show_default="$USER@host")] = None,
    *,
    events: Annotated[
        bool, typer.Option("--events", help="Also let the next run tell Dagster of every hour again.")
    ] = False,
) -> None:
    """Bring Iceberg tables to the ledger's live files, and finish publication and clean-up."""
    platform = Platform()
    datasets = {state.spike for state in platform.ledger.datasets() if state.sequence}
    for spike in platform.spikes.values() if name is None else [known(platform.spikes, name)]:
        if spike.name not in datasets:
            typer.echo(f"{spike.name}: nothing was ever committed")
            continue
        for done in platform.projector.project(spike, request(who, why), events=events):
            change = f"{count_of(done.added, 'file')} added, {done.removed} removed"
            right = "as the ledger has it" if not done.added + done.removed else change
            typer.echo(f"{done.table} at #{done.sequence}: {right}")


def migrate_ledger() -> None:
    """Bring the ledger's schema to this version, as its owner; at it already, nothing happens."""
    migrate(Settings.from_env().admin_url())
    typer.echo("the ledger has this version's schema")


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The ledger's schema, and what is derived from it.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("project")(project)
    group.command("migrate")(migrate_ledger)
    app.add_typer(group, name="ledger")
