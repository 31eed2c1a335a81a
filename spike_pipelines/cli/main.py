"""The `spike` command. Each module beside this one registers its own commands."""

import os
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from spike_pipelines.cli import (
    applications,
    audit,
    backfill,
    chaos,
    deploy,
    dlq,
    hours,
    jars,
    lag,
    ledger,
    operations,
    produce,
    prometheus,
    read,
    retain,
    smoke,
    stack,
    token,
    up,
    where,
)
from spike_pipelines.domain.errors import SpikeError
from spike_pipelines.settings import Settings
from spike_pipelines.stack.loopback import spare_loopback
from spike_pipelines.stack.running import adopt

UNADOPTED = frozenset({"down"})  # it ends a stack also where nobody can say what that stack is


class Commands(TyperGroup):
    """Errors made for people are shown as such; a traceback means that we have a bug."""

    def invoke(self, ctx: Any) -> Any:
        spare_loopback(os.environ)
        try:
            return super().invoke(ctx)
        except SpikeError as error:
            Console(stderr=True, emoji=False).print(  # topic:a:1 is no picture
                f"spike: {error}", style="red", highlight=False, markup=False, soft_wrap=True
            )
            raise typer.Exit(1) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name not in UNADOPTED:
            adopt(Settings.from_env().state_dir)
        return name, command, rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Kafka topics to S3 exactly once, with Spark, kept alive by Dagster.",
)
COMMANDS = (
    up,
    stack,
    applications,
    produce,
    read,
    hours,
    where,
    lag,
    prometheus,
    audit,
    backfill,
    operations,
    ledger,
    dlq,
    retain,
    token,
    deploy,
    jars,
    smoke,
    chaos,
)
for module in COMMANDS:
    module.register(app)


if __name__ == "__main__":
    app()
