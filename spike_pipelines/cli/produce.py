"""`spike produce`."""

import typer

from spike_pipelines.producer.command import produce


def register(app: typer.Typer) -> None:
    app.command("produce")(produce)
