"""A ledger in memory, for tests that need speed: the real one's statements on SQLite.

It passes the contract suite of the real one, but for what only a server has: connections that break,
migrations, and transactions side by side (here they wait for each other).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from spike_pipelines.adapters.ledger.ledger import SqlLedger
from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.adapters.memory_dialect import MemoryDialect, micros


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _known(values: Iterable[Any]) -> list[Any]:
    """PostgreSQL's least and greatest leave NULLs out."""
    return [value for value in values if value is not None]


class MemoryLedger(SqlLedger):
    """`now` is the database's clock."""

    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self.now_is = now
        self._engine = sa.create_engine(
            f"{MemoryDialect.name}+ledger://",
            creator=self._connect,
            # One connection: a second transaction waits, as it would for the lock on its spike.
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=10,
        )
        for table in metadata.tables.values():
            for index in table.indexes:
                where = index.dialect_options["postgresql"]["where"]
                index.dialect_options["sqlite"]["where"] = where
        metadata.create_all(self._engine)

    def empty(self) -> None:
        """Forget everything. Numbers begin again."""
        with self._engine.begin() as db:
            for table in reversed(metadata.sorted_tables):
                db.exec_driver_sql(f'DELETE FROM "{table.name}"')  # noqa: S608 - our own table names

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(":memory:", check_same_thread=False)
        made.execute("PRAGMA foreign_keys = ON")
        functions: tuple[tuple[str, Callable[..., Any]], ...] = (
            ("clock_timestamp", lambda: micros(self.now_is())),
            ("now", lambda: micros(self.now_is())),
            ("greatest", lambda *values: max(_known(values), default=None)),
            ("least", lambda *values: min(_known(values), default=None)),
            ("set_config", lambda _name, value, _local: value),
            ("concat", lambda *parts: "".join(map(str, parts))),
        )
        for name, function in functions:
            made.create_function(name, -1, function)
        return made

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        with self._read() as db:
            yield db
