"""What each role may do in the ledger's database: least rights, given anew after every migration.

| role           | who                                        | may                                       |
| -------------- | ------------------------------------------ | ----------------------------------------- |
| the owner      | migrations, `spike token`                  | everything                                |
| `spike_api`    | the appender API                           | open epochs, stage batches; never commit  |
| `spike_worker` | appender runs, sensors, checks, `spike` …  | add and change rows; not tokens           |
| `spike_reader` | dashboards, people who look                | read; not tokens                          |

No role but the owner alters tables, and none deletes rows but the worker those of old lag. A role that
the server does not have is left out: then one role does everything, and nothing here is needed.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

API, WORKER, READER = "spike_api", "spike_worker", "spike_reader"
ROLES = (API, WORKER, READER)

_EVERYTHING = "ALL TABLES IN SCHEMA public"
GRANTS: Mapping[str, Sequence[str]] = {
    API: (
        f"GRANT SELECT ON {_EVERYTHING} TO {API}",
        f"GRANT INSERT ON spikes, datasets, epochs, positions TO {API}",
        f"GRANT INSERT ON batches, batch_ranges, batch_hours, files TO {API}",
        f"GRANT UPDATE ON spikes, epochs TO {API}",
        f"GRANT INSERT ON bindings TO {API}",
        f"GRANT UPDATE (used) ON bindings TO {API}",
        f"GRANT UPDATE (staged_end) ON positions TO {API}",
        f"GRANT UPDATE (last_used_at) ON tokens TO {API}",
    ),
    WORKER: (
        f"GRANT SELECT, INSERT, UPDATE ON {_EVERYTHING} TO {WORKER}",
        f"GRANT DELETE ON lag_latest, lag_history TO {WORKER}",
        f"REVOKE ALL ON tokens FROM {WORKER}",
        f"REVOKE INSERT, UPDATE ON alembic_version FROM {WORKER}",
    ),
    READER: (
        f"GRANT SELECT ON {_EVERYTHING} TO {READER}",
        f"REVOKE ALL ON tokens FROM {READER}",
    ),
}


def grant_all(connection: sa.Connection) -> None:
    """Bring the rights of those roles that exist to what is written above, within the transaction."""
    query = sa.text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
    for role in connection.scalars(query, {"names": list(ROLES)}).all():
        connection.exec_driver_sql(f"REVOKE ALL ON {_EVERYTHING} FROM {role}")
        for statement in GRANTS[role]:
            connection.exec_driver_sql(statement)
