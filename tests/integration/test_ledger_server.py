"""What only a server can show: durability of a commit, and rows that are locked."""

import psycopg2
import pytest
import sqlalchemy as sa

from spike_pipelines.adapters.ledger.engine import create_engine

pytestmark = pytest.mark.real


@pytest.fixture
def careless(ledger_url):
    """A database whose owner set commits not to wait for the disk."""
    name = sa.make_url(ledger_url).database
    admin = sa.create_engine(ledger_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as db:
        db.exec_driver_sql(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        yield ledger_url
        db.exec_driver_sql(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    admin.dispose()


def test_a_commit_waits_for_the_disk_whatever_the_databases_default_is(careless):
    engine = create_engine(careless)
    with engine.connect() as db:
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    engine.dispose()


def test_a_lease_that_was_asked_for_stays_until_the_transaction_ends(ledger, ledger_url):
    """Else it could be taken over between the question and the commit that relies on the answer."""
    lease = ledger.acquire("payouts", "test", 60)
    with ledger.begin() as tx:
        tx.require_lease(lease)
        with psycopg2.connect(
            sa.make_url(ledger_url).set(drivername="postgresql").render_as_string(False)
        ) as db:
            cursor = db.cursor()
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                cursor.execute("SELECT 1 FROM leases WHERE resource = 'payouts' FOR UPDATE NOWAIT")
        db.close()
