"""Least rights in the database: each role can do its own work, and nothing beyond it."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import psycopg2
import pytest
import sqlalchemy as sa
from builders import World
from sqlalchemy.exc import DBAPIError, ProgrammingError

from spike_pipelines.adapters.ledger import SqlLedger, Tokens
from spike_pipelines.adapters.ledger.grants import API, READER, ROLES, WORKER
from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.domain.batch import FileKind
from spike_pipelines.ports import Recovery
from spike_pipelines.stack.parts.postgres_roles import CATALOG, DAGSTER

pytestmark = pytest.mark.real
REFUSED = "permission denied|must be owner|must be superuser"
TABLES = sorted(table.name for table in metadata.sorted_tables)


@pytest.fixture
def as_role(postgres, ledger_url):
    """The ledger, as a role sees it."""
    opened = []

    def open_as(role):
        ledger = SqlLedger(postgres.url("ledger_of_tests", role))
        opened.append(ledger)
        return ledger

    yield open_as
    for ledger in opened:
        ledger.close()


def attempt(ledger, statement):
    with ledger._engine.begin() as db:
        db.exec_driver_sql(statement)


def test_the_api_can_do_all_that_drivers_ask_and_the_worker_all_that_follows(world, as_role, postgres):
    api = World(as_role(API), world.broker, world.store, world.catalog, world.spikes)
    spike = api.spike()
    driver = api.driver(spike)
    driver.stage()
    driver.register(driver.write())
    api.registrar.heartbeat(
        spike, driver.token, phase="reading", problem=None, batch_started_at=None, read=driver.ends
    )
    api.registrar.note_refusal(spike, "lost", "gone", "a")
    api.driver(spike, after=1)
    assert len(api.ledger.backlog()) == 1
    assert len(api.ledger.last_batches(spike.name, 5)) == 2
    assert len(api.ledger.datasets()) == 1
    world.execute("ANALYZE batches, files")
    assert api.ledger.tally().rows["batches", "staged"] == 2

    worker = replace(api, ledger=as_role(WORKER))
    worker.settle(spike)
    state = worker.dataset(spike)
    assert state.sequence == state.published == 2
    assert len(worker.ledger.unreported(state.name)) == 2
    worker.ledger.mark_reported(state.name, 2, since=0)
    with worker.ledger.begin() as tx:
        tx.retire_epoch(spike.name, "a")
        tx.add_recovery(Recovery(spike.name, tx.now(), "restart", "it died", "DEAD"))
    assert all(finding.ok for finding in worker.audit().values())

    reader = as_role(READER)
    books = reader.books()
    assert len(books.coverage) == 1
    assert len(reader.live_files(state.name, 2)) == 6
    assert len(reader.changed_files(state.name, FileKind.FINAL, current=0, target=2)) == 4
    assert reader.recoveries(reader.now() - timedelta(hours=1))


def test_the_api_checks_tokens_and_cannot_make_them(ledger, ledger_url, postgres):
    admin, api = Tokens(ledger_url), Tokens(postgres.url("ledger_of_tests", API))
    issued = admin.issue("payouts")
    assert api.allows("payouts", issued.secret)
    assert admin.list()[0].last_used_at is not None
    for forbidden in (lambda: api.issue("payouts"), lambda: api.register("payouts", "mine")):
        with pytest.raises(ProgrammingError, match="permission denied"):
            forbidden()
    with pytest.raises(ProgrammingError, match="permission denied"):
        api.revoke("payouts", issued.id)
    admin.close(), api.close()


FORGETS = {(WORKER, f"DELETE FROM {table}") for table in ("lag_latest", "lag_history")}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in TABLES),
        "TRUNCATE files CASCADE",
        "DROP TABLE files CASCADE",
        "ALTER TABLE files ADD COLUMN mine TEXT",
        "ALTER TABLE files DISABLE TRIGGER ALL",
        "CREATE TABLE mine (id INT)",
        "CREATE INDEX mine ON files (id)",
        "UPDATE alembic_version SET version_num = '0001'",
        "GRANT ALL ON files TO PUBLIC",
        "SET ROLE postgres",
        "CREATE ROLE mine",
        "COPY files TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_no_role_deletes_or_alters_anything(world, as_role, role, statement):
    if (role, statement) in FORGETS:
        pytest.skip("old lag may be forgotten")
    world.driver(world.spike()).stage()
    before = rights(world)
    # A GRANT without the right to it is a mere warning where the role has another right to the table.
    warns = nullcontext() if statement.startswith("GRANT") else pytest.raises(DBAPIError, match=REFUSED)
    with warns:
        attempt(as_role(role), statement)
    assert rights(world) == before


def rights(world):
    """Who may do what, to which tables with which columns, and how many rows there are."""
    with world.ledger.begin() as tx:
        run = tx._db.exec_driver_sql
        grants = run(
            "SELECT relname, relacl::text, relnatts FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).all()
        return sorted(grants), [run(f'SELECT count(*) FROM "{name}"').scalar_one() for name in TABLES]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (API, "UPDATE positions SET committed_end = staged_end"),
        (API, "UPDATE positions SET baseline = 0"),
        (API, "UPDATE files SET state = 'live'"),
        (API, "UPDATE batches SET state = 'committed'"),
        (API, "UPDATE datasets SET sequence = 9"),
        (API, "INSERT INTO commits VALUES ('payouts', 9, 1, now())"),
        (API, "INSERT INTO leases VALUES ('promote:payouts', 9, 'me', now())"),
        (API, "UPDATE tokens SET expires_at = NULL"),
        (WORKER, "SELECT * FROM tokens"),
        (WORKER, "INSERT INTO tokens (spike, token_sha256) VALUES ('payouts', 'x')"),
        (READER, "SELECT * FROM tokens"),
        (READER, "UPDATE epochs SET state = 'retired'"),
        (READER, "INSERT INTO leases VALUES ('promote:payouts', 9, 'me', now())"),
    ],
)
def test_a_role_does_not_do_anothers_work(world, as_role, role, statement):
    with pytest.raises(ProgrammingError, match="permission denied"):
        attempt(as_role(role), statement)


@pytest.mark.parametrize(
    ("role", "database"),
    [
        (API, "iceberg"), (API, "dagster"), (WORKER, "iceberg"), (WORKER, "dagster"), (READER, "dagster"),
        (CATALOG, "ledger"), (CATALOG, "dagster"), (DAGSTER, "ledger"), (DAGSTER, "iceberg"),
    ],
)  # fmt: skip
def test_a_role_does_not_enter_a_database_that_is_not_its_own(postgres, role, database):
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(postgres.url(database, role).replace("+psycopg2", ""))


def test_readers_see_the_tables_that_the_catalogs_owner_makes_and_change_none(postgres):
    owner = sa.create_engine(postgres.url("iceberg", CATALOG))
    reader = sa.create_engine(postgres.url("iceberg", READER))
    with owner.begin() as db:
        db.exec_driver_sql("CREATE TABLE IF NOT EXISTS of_a_test (id INT)")
    with reader.connect() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM of_a_test").scalar_one() == 0
        with pytest.raises(ProgrammingError, match="permission denied"):
            db.exec_driver_sql("INSERT INTO of_a_test VALUES (1)")
    with owner.begin() as db:
        db.exec_driver_sql("DROP TABLE of_a_test")
    owner.dispose(), reader.dispose()
