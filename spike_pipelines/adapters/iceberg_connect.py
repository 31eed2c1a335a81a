"""Connecting to an Iceberg catalog, and what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import boto3
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import RESTError
from requests.exceptions import RequestException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.settings import Settings

CATALOG = "spikes"  # what its rows are filed under, and PYICEBERG_CATALOG__SPIKES__* is its environment
CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 30


def connect(settings: Settings) -> Catalog:
    """The catalog of `settings.catalog_url`: a SQL database, `http(s)://…` (REST) or `glue:`.

    Whatever else a REST or Glue catalog needs (a token, say) comes from pyiceberg's own environment,
    `PYICEBERG_CATALOG__SPIKES__TOKEN`. Raises `Transient`, `InvalidSpec`.
    """
    url = settings.require("catalog_url")
    with translated("connect to the Iceberg catalog"):
        return load_catalog(CATALOG, **_catalog(url), **_storage(settings))


def _catalog(url: str) -> dict[str, str]:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return {"type": "rest", "uri": url}
    if scheme == "glue":
        return {"type": "glue"}
    return {"type": "sql", "uri": _bounded(url), "pool_pre_ping": "true"}


def _bounded(url: str) -> str:
    """The SQL URL with hard timeouts, where the database has them."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidSpec(f"SPIKE_CATALOG_URL is not a database URL, http(s):// or glue: {error}") from error
    if parsed.get_backend_name() == "postgresql":
        limits = {
            "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s",
        }
        parsed = parsed.update_query_dict({k: v for k, v in limits.items() if k not in parsed.query})
    return parsed.render_as_string(hide_password=False)


def _storage(settings: Settings) -> dict[str, str]:
    """pyiceberg's file access (Arrow's S3 client). Credentials are the SDK's own."""
    found = {
        "warehouse": settings.warehouse.rstrip("/"),
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        "s3.region": boto3.session.Session().region_name or "us-east-1",
        "s3.connect-timeout": "5",
        "s3.request-timeout": "30",
    }
    return found | ({"s3.endpoint": settings.s3_endpoint} if settings.s3_endpoint else {})


@contextmanager
def translated(action: str) -> Iterator[None]:
    """The database's, the REST catalog's and the object store's errors: nothing was decided, try again."""
    try:
        yield
    except SQLAlchemyError as error:
        raise Transient(f"{action}: the catalog's database does not answer: {_first_line(error)}") from error
    except (RESTError, RequestException) as error:
        raise Transient(f"{action}: the catalog failed: {_first_line(error)}") from error
    except OSError as error:
        raise Transient(f"{action}: the warehouse in S3 does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
