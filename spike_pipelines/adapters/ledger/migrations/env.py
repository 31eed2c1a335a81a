"""Alembic's entry point. Runs online only, in one transaction."""

from alembic import context

from spike_pipelines.adapters.ledger.engine import create_engine
from spike_pipelines.adapters.ledger.grants import grant_all
from spike_pipelines.adapters.ledger.schema import metadata

# Two processes may start at once: the second one waits and finds nothing to do.
_LOCK = 0x5917E

engine = create_engine(context.config.attributes["url"])
with engine.begin() as connection:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    context.configure(connection=connection, target_metadata=metadata)
    context.run_migrations()
    grant_all(connection)
engine.dispose()
