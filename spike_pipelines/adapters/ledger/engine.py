"""Connections to the ledger's PostgreSQL, and what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from spike_pipelines.domain.errors import Duplicate, InvariantBroken, Transient

_ONE_REGISTRATION = "files_staging_key_key"

# No request of ours may wait for ever: on a lost server, on a lock, or on a slow statement.
# Keepalives notice a server that is gone without a word within about 15 s.
_CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "spike-pipelines",
    "options": (
        "-c timezone=UTC -c synchronous_commit=on -c statement_timeout=30000 -c lock_timeout=10000 "
        "-c idle_in_transaction_session_timeout=60000"
    ),
}


def create_engine(url: str) -> sa.Engine:
    """An engine for a `postgresql+psycopg2://` URL; a broken connection is replaced before use."""
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=5, max_overflow=10, pool_timeout=10, connect_args=_CONNECT_ARGS
    )


@contextmanager
def translated() -> Iterator[None]:
    """Database errors as the domain's: `Transient` where trying again is right, else a broken invariant.

    A connection lost during COMMIT is `Transient` too: whether it committed, only the ledger can tell.
    """
    try:
        yield
    except IntegrityError as error:
        if _constraint(error) == _ONE_REGISTRATION:
            raise Duplicate("a file is registered already, with another batch", field="files") from error
        raise InvariantBroken(f"the ledger refused a write: {_short(error)}") from error
    except OperationalError as error:
        raise Transient(f"the ledger database does not answer: {_short(error)}") from error
    except sa.exc.TimeoutError as error:
        raise Transient(f"no free connection to the ledger database: {error}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Transient(f"the connection to the ledger database broke: {_short(error)}") from error
        raise


def _constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that a write broke, where the driver tells it (psycopg2 does)."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None)


def _short(error: DBAPIError) -> str:
    """The server's own words, without the statement and its parameters."""
    return " ".join(str(error.orig).split())[:500]
