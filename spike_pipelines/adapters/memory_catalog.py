"""A catalog in memory, for tests that need speed. Passes the same suite as Iceberg."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from spike_pipelines.domain.ddl import parse
from spike_pipelines.domain.errors import Conflict, TableAltered
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import LiveFile, ParquetFooter


@dataclass(frozen=True, slots=True)
class _Moment:
    sequence: int
    at: datetime


@dataclass(slots=True)
class _Table:
    """`history` are the snapshots that are kept, by number and time only: nobody travels here."""

    sequence: int = 0
    files: dict[str, LiveFile] = field(default_factory=dict)
    history: list[_Moment] = field(default_factory=list)

    def older(self, before: datetime, keep: int) -> list[_Moment]:
        return [m for m in self.history[: max(0, len(self.history) - max(keep, 1))] if m.at < before]


class MemoryCatalog:
    """Implements `ports.Catalog`. Knows the files, not their columns: it cannot judge a schema."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._lock = Lock()

    def ensure_table(self, table: str, spike: Spike, *, dead_letters: bool) -> None:
        _check_schema(spike, dead_letters=dead_letters)
        with self._lock:
            self._tables.setdefault(table, _Table())

    def misfit(
        self,
        table: str,  # noqa: ARG002 there are no columns to compare with
        spike: Spike,
        files: Iterable[tuple[LiveFile, ParquetFooter]],
        *,
        dead_letters: bool,
    ) -> str | None:
        _check_schema(spike, dead_letters=dead_letters)
        wrong = (file for file, footer in files if footer.rows != file.rows)
        return next((f"{file.uri} has another number of rows" for file in wrong), None)

    def sequence(self, table: str) -> int:
        with self._lock:
            return self._tables[table].sequence if table in self._tables else 0

    def publish(
        self,
        table: str,
        *,
        sequence: int,
        add: Iterable[LiveFile],
        remove: Iterable[LiveFile | str],
        base: int | None = None,
    ) -> bool:
        add = tuple(add)
        gone = {r if isinstance(r, str) else r.uri for r in remove}
        with self._lock:
            found = self._existing(table)
            if found.sequence >= sequence:
                return False
            if base is not None and found.sequence != base:
                raise Conflict(f"table {table} is at {found.sequence}, the change begins at {base}")
            if base is not None and (missing := gone - found.files.keys() - {file.uri for file in add}):
                raise TableAltered(table, missing)
            merged = found.files | {file.uri: file for file in add}
            found.files = {uri: file for uri, file in merged.items() if uri not in gone}
            found.sequence = sequence
            found.history.append(_Moment(sequence, datetime.now(UTC)))
        return True

    def files(self, table: str) -> Mapping[str, int]:
        with self._lock:
            return {uri: file.rows for uri, file in self._existing(table).files.items()}

    def oldest_sequence(self, table: str) -> int:
        with self._lock:
            found = self._tables.get(table)
            return min((m.sequence for m in found.history), default=found.sequence) if found else 0

    def sequence_at(self, table: str, at: datetime) -> int:
        with self._lock:
            found = self._tables.get(table)
            seen = [m.sequence for m in found.history if m.at <= at] if found else []
            return seen[-1] if seen else 0

    def expirable(self, table: str, *, before: datetime, keep: int) -> int:
        with self._lock:
            found = self._tables.get(table)
            return len(found.older(before, keep)) if found else 0

    def expire(self, table: str, *, before: datetime, keep: int) -> int:
        with self._lock:
            found = self._tables.get(table)
            gone = found.older(before, keep) if found else []
            if found:
                found.history = [moment for moment in found.history if moment not in gone]
            return len(gone)

    def _existing(self, table: str) -> _Table:
        if table not in self._tables:
            raise Conflict(f"table {table} is not there: ensure it first")
        return self._tables[table]


def _check_schema(spike: Spike, *, dead_letters: bool) -> None:
    if not dead_letters:
        parse(spike.schema)
