"""`spike token …`: who may speak for a spike at the appender. A token is shown once, when it is made."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from spike_pipelines.adapters.application_schema import duration
from spike_pipelines.adapters.applications import load_applications
from spike_pipelines.adapters.ledger import Issued, TokenInfo, Tokens
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.settings import Settings
from spike_pipelines.stack.state import StateDir, write_private

Name = Annotated[str, typer.Argument(help="The spike, as in `spike applications`.")]

app = typer.Typer(no_args_is_help=True, help="Bearer tokens of spikes: new, rotate, list, revoke.")


@app.command()
def new(name: Name) -> None:
    """Make another token for a spike. It is printed now and never again."""
    with _tokens() as tokens:
        _show(name, tokens.issue(_known(name)))


@app.command()
def rotate(
    name: Name, grace: Annotated[str, typer.Option(help="How long the old ones go on, as in 30m.")] = "1h"
) -> None:
    """Make a new token and let all others of the spike end after the grace time.

    Where drivers read theirs from the embedded stack's state folder, it is put there and not printed.
    """
    try:
        seconds = duration(grace)
    except ValueError as error:
        raise InvalidSpec(f"--grace {grace}: {error}") from error
    with _tokens() as tokens:
        issued = tokens.rotate(_known(name), seconds)
    file = StateDir(Settings.from_env().state_dir).token_file(name)
    if file.exists():
        write_private(file, issued.secret)
        print(f"token {issued.id} of {name} is in {file}; the old ones end in {grace}")
    else:
        _show(name, issued)


@app.command(name="list")
def show() -> None:
    """Every token there was: its number, use and end, never itself."""
    with _tokens() as tokens:
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(_table(tokens.list()))


@app.command()
def revoke(name: Name, number: Annotated[int, typer.Argument(help="As in `spike token list`.")]) -> None:
    """Refuse a token from now on."""
    with _tokens() as tokens:
        tokens.revoke(name, number)
    print(f"token {number} of {name} is refused from now on")


@contextmanager
def _tokens() -> Iterator[Tokens]:
    tokens = Tokens(Settings.from_env().admin_url())
    try:
        yield tokens
    finally:
        tokens.close()


def _known(name: str) -> str:
    folder = Settings.from_env().applications_dir
    if name not in {spike.name for spike in load_applications(folder)}:
        raise InvalidSpec(f"no application file in {folder} describes {name}: see `spike applications`")
    return name


def _show(name: str, issued: Issued) -> None:
    """The token alone on standard output, so that it can go straight into a secret store."""
    print(f"token {issued.id} of {name}; it is not shown again:", file=sys.stderr)
    print(issued.secret)


def _table(tokens: tuple[TokenInfo, ...]) -> Table:
    shown = Table(box=box.SIMPLE)
    for heading in ("spike", "token", "made", "last used", "ends", ""):
        shown.add_column(heading)
    for t in tokens:
        times = [
            f"{at:%Y-%m-%d %H:%M:%SZ}" if at else "-" for at in (t.created_at, t.last_used_at, t.expires_at)
        ]
        shown.add_row(t.spike, str(t.id), *times, "live" if t.live else "over")
    return shown


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="token")
