"""Redo what is derived from the ledger: tables, events, clean-up. Safe to repeat, also half-way.

Publication follows sequence numbers. A table that was dropped, restored, or altered by hand is compared
file by file instead, and brought to the ledger's live files in one snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.errors import Conflict, InvariantBroken, TableAltered, Transient
from spike_pipelines.domain.operations import NewOperation, OperationKind
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Catalog, DatasetState, Ledger, LiveFile
from spike_pipelines.services.bound import require_bound
from spike_pipelines.services.operate import Request
from spike_pipelines.services.publish import Publisher, live_file

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Projected:
    """One table: files added and removed (none: it was right), now at `sequence`."""

    table: str
    added: int
    removed: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Projector:
    ledger: Ledger
    catalog: Catalog
    publisher: Publisher

    def project(self, spike: Spike, request: Request, *, events: bool = False) -> tuple[Projected, ...]:
        """Bring both tables to the ledger's live files, remove staged objects that were published. With
        `events` the next appender run tells every hour again. Errors: `Conflict` for a spike without
        dataset, `InvariantBroken` where somebody else deleted rows of a table, `SpecChanged`, `Transient`."""
        require_bound(self.ledger, spike)
        done = tuple(
            self._table(spike, kind, table, replace(request, name=f"{request.name}/{table}"))
            for kind, table in spike.dataset.tables.items()
        )
        self.ledger.mark_published(spike.dataset.name, min(table.sequence for table in done))
        if events:
            self.ledger.forget_reported(spike.dataset.name)
        while self.publisher.clean(spike):
            continue
        return done

    def _table(self, spike: Spike, kind: FileKind, table: str, request: Request) -> Projected:
        state = self._state(spike)
        self.publisher.ensure_table(spike, kind, table, current=0, target=state.sequence)
        for _ in range(_ATTEMPTS):
            try:
                if done := self._once(spike, kind, table, request):
                    return done
            except (Conflict, TableAltered):
                continue  # a publication, or what others do to it, came between: compare again
        raise Transient(f"table {table} changes faster than it can be compared: try again later")

    def _once(self, spike: Spike, kind: FileKind, table: str, request: Request) -> Projected | None:
        """None if the table moved on while it was compared."""
        at = self.catalog.sequence(table)
        seen = self.catalog.files(table)
        if hiding := sorted(uri for uri, rows in seen.items() if rows < 0):
            raise InvariantBroken(
                f"somebody deleted rows of table {table}: {hiding[0]} hides them, which no change of files "
                "takes back. Drop the table, and project again"
            )
        state = self._state(spike)
        if self.catalog.sequence(table) != at:
            return None
        if at > state.sequence:
            self._raise_sequence(spike, table, request, above=at)
            return None
        live = self._live(spike, kind, state.sequence)
        add = [f for uri, f in live.items() if seen.get(uri) != f.rows]
        remove = [uri for uri in seen if uri not in live or seen[uri] != live[uri].rows]
        if not add and not remove and live.keys() == self._live(spike, kind, at).keys():
            return Projected(table, 0, 0, state.sequence)
        if at == state.sequence:
            self._raise_sequence(spike, table, request, above=at)
            return None
        added = [f for f in add if f.uri not in remove]
        done = self.catalog.publish(table, sequence=state.sequence, add=added, remove=remove, base=at)
        if not done or len(added) < len(add):
            return None  # somebody was first; or entries that differed are out, and go in at the next look
        return Projected(table, len(add), len(remove), state.sequence)

    def _raise_sequence(self, spike: Spike, table: str, request: Request, *, above: int) -> None:
        """A number of its own for a change that no commit made, audited."""
        summary = f"table {table} at #{above} differs from the ledger: brought back to its live files"
        with self.ledger.begin() as tx:
            tx.lock_spike(spike.name, spike.dataset.name)
            sequence = tx.next_sequence(spike.dataset.name, above=above)
            tx.add_operation(
                NewOperation(
                    f"{request.name}/{sequence}",
                    spike.name,
                    OperationKind.PROJECT,
                    request.author,
                    summary,
                    sequence=sequence,
                )
            )

    def _live(self, spike: Spike, kind: FileKind, sequence: int) -> Mapping[str, LiveFile]:
        files: tuple[LedgerFile, ...] = self.ledger.live_files(spike.dataset.name, sequence)
        made = (live_file(spike, f) for f in files if f.kind is kind)
        return {f.uri: f for f in made}

    def _state(self, spike: Spike) -> DatasetState:
        for state in self.ledger.datasets():
            if state.name == spike.dataset.name:
                return state
        raise Conflict(f"the ledger has no dataset {spike.dataset.name}: {spike.name} never committed")
