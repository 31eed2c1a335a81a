"""`spike prometheus`: what to start a Prometheus with, to watch the stack that runs here."""

import typer

from spike_pipelines.settings import Settings
from spike_pipelines.stack import running
from spike_pipelines.stack.prometheus import configuration


def prometheus() -> None:
    """Print a configuration: spike prometheus > prometheus.yaml; prometheus --config.file=prometheus.yaml"""
    stack = running.find(Settings.from_env().state_dir)
    typer.echo(configuration(stack.state_dir.root, stack.environment["SPIKE_APPENDER_URL"]), nl=False)


def register(app: typer.Typer) -> None:
    app.command("prometheus")(prometheus)
