"""Roles of the embedded PostgreSQL: each process logs in as the one that may do what it does, no more.

The ledger's owner is the superuser, whom only migrations and `spike token` use; what the others may do
in it is in `adapters/ledger/grants.py`. Iceberg's catalog and Dagster's storage have owners of their own.
"""

from collections.abc import Mapping

from psycopg2.extensions import encrypt_password
from sqlalchemy import Connection, text

from spike_pipelines.adapters.ledger.grants import API, READER, WORKER

CATALOG, DAGSTER = "spike_catalog", "spike_dagster"
ROLES = (API, WORKER, READER, CATALOG, DAGSTER)
OWNED = {"iceberg": CATALOG, "dagster": DAGSTER}
MAY_CONNECT = {"ledger": (API, WORKER, READER), "iceberg": (CATALOG, READER), "dagster": (DAGSTER,)}


def create_roles(connection: Connection, passwords: Mapping[str, str]) -> None:
    """Each with its password of now. The server is sent a verifier, so that no log has a password."""
    existing = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    raw = connection.connection.dbapi_connection
    for role, password in passwords.items():
        verifier = encrypt_password(password, role, raw, "scram-sha-256")
        verb = "ALTER" if role in existing else "CREATE"
        connection.exec_driver_sql(
            f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{verifier}'"
        )


def separate_databases(connection: Connection) -> None:
    """Nobody connects to a database that is not theirs."""
    for database, owner in OWNED.items():
        connection.exec_driver_sql(f"ALTER DATABASE {database} OWNER TO {owner}")
    for database, roles in MAY_CONNECT.items():
        connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {', '.join(roles)}")


def let_readers_see_the_catalog(connection: Connection) -> None:
    """In the database `iceberg`, now and when pyiceberg has made its tables."""
    connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
    connection.exec_driver_sql(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {CATALOG} IN SCHEMA public GRANT SELECT ON TABLES TO {READER}"
    )
