"""`spike where`: from a record of Kafka to the file it is in, and back."""

from typing import Annotated

import typer

from spike_pipelines.cli.shown import describe, file_line
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.rewind import parse_place
from spike_pipelines.platform import Platform


def where(
    offset: Annotated[str | None, typer.Option(help="topic:partition:offset of a record.")] = None,
    file: Annotated[str | None, typer.Option(help="s3:// URI or key of a file, final or staged.")] = None,
) -> None:
    """Which batch, file and Dagster run a record went through; which offsets a file comes from."""
    if (offset is None) == (file is None):
        raise InvalidSpec("spike where: give --offset topic:partition:offset, or --file KEY")
    if offset is not None:
        _offset(offset)
    else:
        assert file is not None
        _file(file)


def _offset(text: str) -> None:
    place, platform = parse_place(text), Platform()
    answer = platform.finder.offset(*place)
    for sentence in answer.sentences:
        typer.echo(f"{text}: {sentence}")
    for found in answer.found:
        batch = found.record.batch
        typer.echo(f"{text}: {batch.spike}: {found.sentence}")
        if found.uri:
            typer.echo(f"  in {found.uri}")
        typer.echo(describe(found.record, platform.spikes.get(batch.spike)))


def _file(key: str) -> None:
    platform = Platform()
    record, file = platform.finder.file(key)
    spike = platform.spikes.get(record.batch.spike)
    typer.echo(file_line(file, spike))
    typer.echo(describe(record, spike))


def register(app: typer.Typer) -> None:
    app.command("where")(where)
