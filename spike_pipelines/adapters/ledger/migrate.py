"""Bring a ledger database to this version's schema."""

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config

from spike_pipelines.adapters.ledger.engine import translated


def config(url: str, script_location: str) -> Config:
    made = Config()
    made.set_main_option("script_location", script_location)
    made.attributes["url"] = url  # not an option: the URL has a password, and `%` means something there
    return made


def migrate(url: str) -> None:
    """Upgrade to the newest revision; at it already, nothing happens. Raises `Transient` if the database
    does not answer."""
    with as_file(files("spike_pipelines.adapters.ledger") / "migrations") as folder, translated():
        command.upgrade(config(url, str(folder)), "head")
