"""Iceberg tables behind the `Catalog` port: `spikes.<dataset>`, one snapshot a publication.

The sequence number stands in the snapshot's properties (for time travel) and in the table's (which
snapshots outlive expiry and foreign maintenance), written in one commit. That commit is a
compare-and-swap on the table's newest snapshot, so a number is applied once.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import TableUpdate
from pyiceberg.table.update.snapshot import ExpireSnapshots

from spike_pipelines.adapters import iceberg_files as data
from spike_pipelines.adapters import iceberg_history as history
from spike_pipelines.adapters.iceberg_connect import connect, translated
from spike_pipelines.adapters.iceberg_schema import (
    check_extends,
    dead_letter_schema,
    final_schema,
    hour_spec,
)
from spike_pipelines.adapters.iceberg_sweep import sweep
from spike_pipelines.domain.errors import Conflict, InvariantBroken, TableAltered, Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import LiveFile, ParquetFooter
from spike_pipelines.settings import Settings

log = logging.getLogger(__name__)

NAMESPACE = "spikes"
SEQUENCE = "spike.sequence"
ATTEMPTS = 5
PROPERTIES = {
    "format-version": "2",
    # A retry inside pyiceberg would add the files again without asking for the sequence number.
    "commit.retry.num-retries": "0",
    # Small manifests are merged 25 at a time, into ones small enough to be rewritten quickly.
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "25",
    "commit.manifest.target-size-bytes": str(1024 * 1024),
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
    "write.summary.partition-limit": "0",
}


class _Publication(Transaction):
    """A pyiceberg transaction that works its metadata out once per step, instead of some sixteen times a
    commit: each is a deep copy of every snapshot there is, and was two thirds of a publication's time."""

    _seen: tuple[TableMetadata, tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        base, updates = self._table.metadata, self._updates
        if self._seen is None or self._seen[0] is not base or self._seen[1] is not updates:
            self._seen = (base, updates, super().table_metadata)
        return self._seen[2]


@dataclass(frozen=True, slots=True)
class _Change:
    """A publication. A file in both `add` and `remove` is removed. `expected` are those of `remove` that the
    table must have: with a base it is known which those are."""

    sequence: int
    base: int | None
    add: tuple[LiveFile, ...]
    remove: Mapping[str, datetime | None]
    expected: frozenset[str]

    @classmethod
    def of(
        cls, sequence: int, base: int | None, add: Iterable[LiveFile], remove: Iterable[LiveFile | str]
    ) -> "_Change":
        add = tuple(add)
        gone = {r if isinstance(r, str) else r.uri: None if isinstance(r, str) else r.hour for r in remove}
        expected = frozenset() if base is None else frozenset(gone) - {file.uri for file in add}
        return cls(sequence, base, tuple(file for file in add if file.uri not in gone), gone, expected)

    @property
    def looked_up(self) -> tuple[set[str], set[datetime] | None]:
        """URIs to look for in the table, and their hours if all are known. With a base nobody can have
        added these files before."""
        known = {} if self.base is not None else {file.uri: file.hour for file in self.add}
        sought = known | dict(self.remove)
        hours = {hour for hour in sought.values() if hour is not None}
        return set(sought), None if None in sought.values() else hours


class IcebergCatalog:
    """Implements `ports.Catalog` over any pyiceberg catalog."""

    def __init__(self, catalog: Catalog, retention: history.Retention | None = None) -> None:
        self._catalog = catalog
        self._retention = retention or history.Retention()
        self._judged = data.Judged()

    @classmethod
    def connect(cls, settings: Settings) -> "IcebergCatalog":
        return cls(connect(settings))

    def close(self) -> None:
        """Give the database's connections back."""
        self._catalog.close()

    def tables(self) -> tuple[str, ...]:
        """Names of the tables there are, in order."""
        with translated("list tables"):
            try:
                return tuple(sorted(name[-1] for name in self._catalog.list_tables(NAMESPACE)))
            except NoSuchNamespaceError:
                return ()

    def load(self, table: str) -> Table | None:
        with translated(f"load table {table}"):
            try:
                return self._catalog.load_table((NAMESPACE, table))
            except NoSuchTableError:
                return None

    def ensure_table(self, table: str, spike: Spike, *, dead_letters: bool) -> None:
        """Raises `InvalidSpec`, naming the column, where the spike's schema does not extend the table's."""
        schema = _wanted(spike, dead_letters=dead_letters)
        for _ in range(ATTEMPTS):
            found = self.load(table)
            try:
                if found is None:
                    self._create(table, schema, hour_spec(schema, dead_letters=dead_letters))
                else:
                    _evolve(found, table, schema)
                return
            except (TableAlreadyExistsError, CommitFailedException):
                log.info("table %s was changed meanwhile: looking again", table)
        raise Transient(f"table {table} was changed by others {ATTEMPTS} times in a row: try again later")

    def misfit(
        self,
        table: str,
        spike: Spike,
        files: Iterable[tuple[LiveFile, ParquetFooter]],
        *,
        dead_letters: bool,
    ) -> str | None:
        schema, found = _wanted(spike, dead_letters=dead_letters), self.load(table)
        if found is None:
            draft = _new(schema, hour_spec(schema, dead_letters=dead_letters))
        else:
            draft = _evolved(found, table, schema)
        return data.misfit(f"{NAMESPACE}.{table}", draft, files, self._judged)

    def sequence(self, table: str) -> int:
        found = self.load(table)
        return 0 if found is None else _sequence(found)

    def publish(
        self,
        table: str,
        *,
        sequence: int,
        add: Iterable[LiveFile],
        remove: Iterable[LiveFile | str],
        base: int | None = None,
    ) -> bool:
        change = _Change.of(sequence, base, add, remove)
        for _ in range(ATTEMPTS):
            found = self._existing(table)
            if _sequence(found) >= sequence:
                return False
            if base is not None and _sequence(found) != base:
                raise Conflict(f"table {table} is at {_sequence(found)}, the change begins at {base}")
            try:
                self._apply(found, table, change)
                return True
            except CommitFailedException:
                log.info("table %s was changed meanwhile: looking again", table)
            except Transient:
                # The commit's outcome may be unknown: what the table says now decides.
                if self.sequence(table) >= sequence:
                    return True
                raise
        raise Transient(f"table {table} was changed by others {ATTEMPTS} times in a row: try again later")

    def files(self, table: str) -> Mapping[str, int]:
        found = self._existing(table)
        rows: dict[str, int] = {}
        with translated(f"read the files of table {table}"):
            for file in data.data_files(found):
                if file.file_path in rows:
                    raise InvariantBroken(f"{file.file_path} is in table {table} twice (I2)")
                rows[file.file_path] = file.record_count
            rows |= {file.file_path: -max(1, file.record_count) for file in data.delete_files(found)}
        return rows

    def oldest_sequence(self, table: str) -> int:
        found = self.load(table)
        if found is None:
            return 0
        numbers = history.sequences(
            [s.summary[SEQUENCE] if s.summary else None for s in found.metadata.snapshots]
        )
        return min(numbers, default=_sequence(found))

    def sequence_at(self, table: str, at: datetime) -> int:
        found = self.load(table)
        kept = found.metadata.snapshots if found else []
        numbers = history.sequences([s.summary[SEQUENCE] if s.summary else None for s in kept])
        seen = [n for n, s in zip(numbers, kept, strict=True) if s.timestamp_ms <= at.timestamp() * 1000]
        return seen[-1] if seen else 0

    def expirable(self, table: str, *, before: datetime, keep: int) -> int:
        found = self.load(table)
        return 0 if found is None else len(_older(found, before, keep))

    def expire(self, table: str, *, before: datetime, keep: int) -> int:
        for _ in range(ATTEMPTS):
            found = self.load(table)
            gone = () if found is None else _older(found, before, keep)
            if found is None or not gone:
                return 0
            metadata = found.metadata
            moments = _history(found)
            try:
                with translated(f"expire snapshots of table {table}"):
                    transaction = _Publication(found)
                    ExpireSnapshots(transaction).by_ids(list(gone)).commit()
                    transaction.commit_transaction()
            except CommitFailedException:
                log.info("table %s was changed meanwhile: looking again", table)
                continue
            sweep(found, metadata, moments, gone)
            return len(gone)
        raise Transient(f"table {table} was changed by others {ATTEMPTS} times in a row: try again later")

    def _existing(self, table: str) -> Table:
        found = self.load(table)
        if found is None:
            raise Conflict(f"table {NAMESPACE}.{table} is not there: ensure it first")
        return found

    def _create(self, table: str, schema: Schema, spec: PartitionSpec) -> None:
        with translated(f"create table {table}"):
            self._catalog.create_namespace_if_not_exists(NAMESPACE)
            self._catalog.create_table(
                (NAMESPACE, table), schema, partition_spec=spec, properties=_properties(schema)
            )

    def _apply(self, found: Table, table: str, change: _Change) -> None:
        with translated(f"publish {change.sequence} to table {table}"):
            there = data.find(found, *change.looked_up)
            known = {file.file_path for file in there}
            if missing := change.expected - known:
                raise TableAltered(table, missing)
            new = data.from_footers(
                found, [file for file in change.add if file.uri not in known], self._judged
            )
            gone = [file for file in there if file.file_path in change.remove]
            moments = _history(found)
            protected = {ref.snapshot_id for ref in found.metadata.refs.values()}
            expired = history.expirable(moments, self._retention, datetime.now(UTC), protected)
            before = found.metadata
            _commit(found, change.sequence, new, gone, expired)
        sweep(found, before, moments, expired)


def _sequence(table: Table) -> int:
    return int(table.properties.get(SEQUENCE, "0"))


def _history(table: Table) -> tuple[history.Moment, ...]:
    return tuple(
        history.Moment.of(s.snapshot_id, s.parent_snapshot_id, s.timestamp_ms)
        for s in table.metadata.snapshots
    )


def _older(table: Table, before: datetime, keep: int) -> tuple[int, ...]:
    protected = {ref.snapshot_id for ref in table.metadata.refs.values()}
    return history.older(_history(table), before, keep, protected)


def _wanted(spike: Spike, *, dead_letters: bool) -> Schema:
    return dead_letter_schema() if dead_letters else final_schema(spike.schema)


def _properties(schema: Schema) -> dict[str, str]:
    # Parquet from Spark has no field ids: readers find columns by name.
    return PROPERTIES | {"schema.name-mapping.default": schema.name_mapping.model_dump_json()}


def _new(schema: Schema, spec: PartitionSpec) -> TableMetadata:
    """A table as it would be made; nothing is."""
    return new_table_metadata(schema, spec, UNSORTED_SORT_ORDER, "", _properties(schema))


def _evolved(found: Table, table: str, schema: Schema) -> TableMetadata:
    """The table with the columns that it would get; nothing is changed. Raises `InvalidSpec`."""
    check_extends(table, found.schema(), schema)
    draft = Transaction(found)
    with draft.update_schema() as change:
        change.union_by_name(schema)
    return draft.table_metadata


def _evolve(found: Table, table: str, schema: Schema) -> None:
    check_extends(table, found.schema(), schema)
    with translated(f"change the columns of table {table}"), found.update_schema() as change:
        change.union_by_name(schema)


def _commit(
    table: Table,
    sequence: int,
    new: Iterable[DataFile],
    gone: Collection[DataFile],
    expired: Collection[int],
) -> None:
    """One catalog commit. Raises `CommitFailedException` if the table's newest snapshot is another by now."""
    properties = {SEQUENCE: str(sequence)}
    transaction = _Publication(table).set_properties(properties)
    update = transaction.update_snapshot(snapshot_properties=properties)
    snapshot = update.overwrite() if gone else update.merge_append()
    for file in new:
        snapshot.append_data_file(file)
    for file in gone:
        snapshot.delete_data_file(file)
    snapshot.commit()
    if expired:
        ExpireSnapshots(transaction).by_ids(list(expired)).commit()
    transaction.commit_transaction()
