"""Iceberg tables, what readers see."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports.store import ParquetFooter


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A file that readers of a dataset see: `s3://` URI, rows, bytes and UTC hour."""

    uri: str
    rows: int
    size: int
    hour: datetime


class Catalog(Protocol):
    """Iceberg tables: what readers see. Each change is one snapshot that carries a sequence number."""

    def ensure_table(self, table: str, spike: Spike, *, dead_letters: bool) -> None:
        """Create the table if it is not there, with columns from the spike's schema, partitioned by hour."""

    def misfit(
        self,
        table: str,
        spike: Spike,
        files: Iterable[tuple["LiveFile", ParquetFooter]],
        *,
        dead_letters: bool,
    ) -> str | None:
        """Why one of the files could not be published to the table as `ensure_table` would leave it, or None.
        Its footer alone is asked: the file, named by where it will be, need not be there. Changes nothing.
        Raises `InvalidSpec`, `Transient`."""

    def sequence(self, table: str) -> int:
        """The ledger sequence number of the current snapshot; 0 for a table without one."""

    def publish(
        self,
        table: str,
        *,
        sequence: int,
        add: Iterable[LiveFile],
        remove: Iterable["LiveFile | str"],
        base: int | None = None,
    ) -> bool:
        """Bring the table to `sequence` in one snapshot. False if it is there already (or beyond).

        `base` is the sequence number the change was computed from: `Conflict` if the table is elsewhere,
        `TableAltered` if it lacks a file to remove. Without it, files that are there already are looked
        for first, which costs more the larger an hour is, and one to remove that is not there counts as
        removed. To remove by URI alone costs a look at every file; a `LiveFile` says the hour.
        """

    def files(self, table: str) -> Mapping[str, int]:
        """URI → rows of every data file in the current snapshot (for the audit). A file by which others
        hide rows of these (Iceberg's deletes) has less than 0."""


class SnapshotCatalog(Catalog, Protocol):
    def oldest_sequence(self, table: str) -> int:
        """The smallest sequence number a reader can still go back to; 0 if it cannot be told."""

    def sequence_at(self, table: str, at: datetime) -> int:
        """The sequence number that readers saw at a time, as far as the kept snapshots tell: never more,
        and 0 where they do not."""

    def expirable(self, table: str, *, before: datetime, keep: int) -> int:
        """How many snapshots `expire` would remove."""

    def expire(self, table: str, *, before: datetime, keep: int) -> int:
        """Remove snapshots older than `before`, never the newest `keep`; answers how many. The table's
        sequence number stays."""
