"""`spike jars`: Spark's connectors in a folder, for an image."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from spike_pipelines.stack.jars import spark_jars


def jars(folder: Annotated[Path, typer.Argument(help="Made where it is not there.")]) -> None:
    """Put the connector jars that PySpark does not bring (Kafka, S3A) into a folder, checked and locked."""
    folder.mkdir(parents=True, exist_ok=True)
    for jar in spark_jars():
        shutil.copyfile(jar, folder / jar.name)
        typer.echo(jar.name)


def register(app: typer.Typer) -> None:
    app.command("jars")(jars)
