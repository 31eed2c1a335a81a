"""A reader who looks at every Iceberg snapshot of every dataset while the faults go on, and holds it against
the ledger: exactly the files that were live at the snapshot's sequence number, or it is a partial view."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from spike_pipelines.adapters.iceberg import SEQUENCE, IcebergCatalog
from spike_pipelines.adapters.iceberg_connect import translated
from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import Ledger

LOOK_SECONDS = 4.0  # a table keeps its 30 newest snapshots at least; commits are seconds apart


@dataclass(slots=True)
class Reader:
    """`snapshots` were checked; `partial` says of each breach what was wrong. `looks` counts whole rounds
    over all tables that no fault cut short."""

    catalog: IcebergCatalog
    ledger: Ledger
    spikes: Mapping[str, Spike]
    looks: int = 0
    snapshots: int = 0
    partial: list[str] = field(default_factory=list)
    _checked: dict[str, set[int]] = field(default_factory=dict)
    _manifests: dict[str, frozenset[tuple[str, int]]] = field(default_factory=dict)

    def look(self) -> None:
        """All that is new in all tables. Raises `Transient` where a server does not answer: what could not
        be looked at is looked at the next time."""
        for spike in self.spikes.values():
            for kind, name in spike.dataset.tables.items():
                table = self.catalog.load(name)
                if table is not None:
                    self._look(spike, kind, name, table)
        self.looks += 1

    def _look(self, spike: Spike, kind: FileKind, name: str, table: Table) -> None:
        checked = self._checked.setdefault(name, set())
        new = [s for s in table.metadata.snapshots if s.snapshot_id not in checked]
        if not new:
            return
        newest = self._live(spike, kind, max(_sequence(s) for s in new))
        for snapshot in new:
            if (seen := self._files(name, table, snapshot)) is None:
                continue  # it was expired meanwhile: no reader sees it any more
            sequence = _sequence(snapshot)
            live = {_uri(spike, f): f.rows for f in newest if f.added is not None and f.added <= sequence}
            if seen != live:  # a file may have been live then and be no more: ask for just that moment
                live = {_uri(spike, f): f.rows for f in self._live(spike, kind, sequence)}
            if seen != live:
                self.partial.append(
                    f"{name} #{sequence} (snapshot {snapshot.snapshot_id}): {_differ(seen, live)}"
                )
            checked.add(snapshot.snapshot_id)
            self.snapshots += 1

    def _live(self, spike: Spike, kind: FileKind, sequence: int) -> list[LedgerFile]:
        return [f for f in self.ledger.live_files(spike.dataset.name, sequence) if f.kind is kind]

    def _files(self, name: str, table: Table, snapshot: Snapshot) -> dict[str, int] | None:
        """URI → rows; None if the snapshot is no longer kept. Raises `Transient`."""
        found: dict[str, int] = {}
        try:
            with translated(f"read snapshot {snapshot.snapshot_id} of {name}"):
                for manifest in snapshot.manifests(table.io):
                    for uri, rows in self._entries(table, manifest):
                        found[uri] = rows + found.get(uri, 0)  # a file that is in it twice has other rows
        except Transient:
            current = self.catalog.load(name)
            kept = {s.snapshot_id for s in current.metadata.snapshots} if current else set()
            if snapshot.snapshot_id in kept:
                raise
            return None
        return found

    def _entries(self, table: Table, manifest: ManifestFile) -> frozenset[tuple[str, int]]:
        """A manifest is never changed once written, so it is read once."""
        known = self._manifests.get(manifest.manifest_path)
        if known is None:
            entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
            known = frozenset((e.data_file.file_path, e.data_file.record_count) for e in entries)
            self._manifests[manifest.manifest_path] = known
        return known


def _sequence(snapshot: Snapshot) -> int:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    return int(properties.get(SEQUENCE, "0"))


def _uri(spike: Spike, file: LedgerFile) -> str:
    return f"s3://{spike.final.bucket}/{file.final_key}"


def _differ(seen: Mapping[str, int], live: Mapping[str, int]) -> str:
    return "; ".join(_differences(seen, live))


def _differences(seen: Mapping[str, int], live: Mapping[str, int]) -> Iterator[str]:
    if missing := sorted(live.keys() - seen.keys()):
        yield f"{count_of(len(missing), 'live file is', 'live files are')} missing, as {missing[0]}"
    if strange := sorted(seen.keys() - live.keys()):
        yield f"{count_of(len(strange), 'file is', 'files are')} not live, as {strange[0]}"
    if other := sorted(uri for uri in seen.keys() & live.keys() if seen[uri] != live[uri]):
        yield f"{count_of(len(other), 'file has', 'files have')} other rows, as {other[0]}"
