"""The real parts, started once for a whole pytest session, in a folder of their own on free ports."""

import contextlib
import secrets
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from builders import World, empty
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from spike_pipelines.adapters.ledger import SqlLedger, migrate
from spike_pipelines.stack import process
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.kafka import PORTS as KAFKA_PORTS
from spike_pipelines.stack.parts.kafka import Kafka
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.parts.postgres_roles import ROLES
from spike_pipelines.stack.parts.s3 import PORTS as S3_PORTS
from spike_pipelines.stack.parts.s3 import S3, S3Ports
from spike_pipelines.stack.ports import remembered

settings.load_profile("ci")  # everywhere the same examples, and no deadline that a busy machine misses


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-snapshots", action="store_true", help="write what charts render to tests/charts/snapshots"
    )


def pytest_configure() -> None:
    """A script's background job has SIGINT ignored; Dagster's code would hand that on to SIGTERM, and then
    nothing that a later test starts could be asked to end."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A whole stack lives to the end of the session and takes half the machine: its tests are the last."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


class Files(LoadFileScheduling):
    """For `pytest -n`: a file is one process's, and whole stacks are all the same one's, never two."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Files:
    return Files(config, log)


@pytest.fixture(scope="session")
def stack_dir() -> Iterator[Path]:
    """Short on purpose (some parts open sockets below it), and not kept: data of tests is scratch."""
    with tempfile.TemporaryDirectory(prefix="spike-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(stack_dir: Path) -> Iterator[Postgres]:
    """With the empty databases `ledger`, `iceberg` and `dagster`: `postgres.url("ledger")`."""
    port = remembered(stack_dir / "postgres-ports.json", ["postgres"])["postgres"]
    roles = {role: secrets.token_hex(8) for role in ROLES}
    postgres = Postgres(stack_dir / "postgres", port, secrets.token_hex(8), roles)
    with running(postgres.part(), stack_dir):
        yield postgres


@pytest.fixture(scope="session")
def s3(stack_dir: Path) -> Iterator[S3]:
    """With the bucket `spike-lake`: `s3.endpoint`, `s3.access_key`, `s3.secret_key`, `s3.client()`."""
    ports = remembered(stack_dir / "s3-ports.json", S3_PORTS)
    s3 = S3(
        data=stack_dir / "s3",
        ports=S3Ports.of(ports),
        access_key=secrets.token_hex(8),
        secret_key=secrets.token_hex(16),
        buckets=("spike-lake",),
    )
    with running(s3.part(), stack_dir):
        yield s3


@pytest.fixture(scope="session")
def kafka(stack_dir: Path) -> Iterator[Kafka]:
    """A one-node Kafka without topics: `kafka.bootstrap`, `kafka.create_topics({"name": partitions})`."""
    ports = remembered(stack_dir / "kafka-ports.json", KAFKA_PORTS)
    kafka = Kafka(data=stack_dir / "kafka", port=ports["kafka"], controller_port=ports["kafka.controller"])
    with running(kafka.part(), stack_dir):
        yield kafka


@pytest.fixture(scope="session")
def ledger_url(postgres: Postgres) -> str:
    """A migrated database that `ledger` empties before each test."""
    admin = sa.create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE ledger_of_tests")
    admin.dispose()
    url = postgres.url("ledger_of_tests")
    migrate(url)
    return url


@pytest.fixture(scope="session")
def session_ledger(ledger_url: str) -> Iterator[SqlLedger]:
    """Does not wait for the disk at each commit: nobody cuts the power of a test."""
    ledger = SqlLedger(ledger_url)

    @sa.event.listens_for(ledger._engine, "connect")
    def hurry(connection, _):
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION synchronous_commit = off")
        connection.commit()

    yield ledger
    ledger.close()


@pytest.fixture
def ledger(session_ledger: SqlLedger) -> SqlLedger:
    """A real ledger without a row in it."""
    empty(session_ledger)
    return session_ledger


@pytest.fixture
def world(ledger: SqlLedger) -> World:
    """The appender's side: a real ledger; broker, object store and catalog in memory."""
    return World(ledger)


@contextlib.contextmanager
def running(part: Part, folder: Path) -> Iterator[None]:
    """The part, ready and furnished; ended whatever happens."""
    log = folder / f"{part.name}.log"
    started = process.launch(part, log)
    try:
        process.await_ready(part, started, log)
        yield
    finally:
        process.end(part, started)
