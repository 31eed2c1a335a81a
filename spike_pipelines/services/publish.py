"""Publication: a dataset's Iceberg tables follow the ledger. A projection, safe to repeat."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.binding import schema_of
from spike_pipelines.domain.errors import SpikeError, WrongNumber
from spike_pipelines.domain.promotion import LedgerFile, publication
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Catalog, DatasetState, Ledger, LiveFile, ObjectStore
from spike_pipelines.services.bound import require_bound

_CLEAN_AT_ONCE = 200  # batches


@dataclass(frozen=True, slots=True)
class Publisher:
    ledger: Ledger
    catalog: Catalog
    store: ObjectStore

    def publish(self, spike: Spike, state: DatasetState) -> None:
        """Bring both tables of the dataset to `state.sequence`, one snapshot each. Errors: `SpecChanged`,
        `WrongNumber`, `Transient`."""
        require_bound(self.ledger, spike)
        for kind, table in spike.dataset.tables.items():
            current = self.catalog.sequence(table)
            if current > state.sequence:
                self._check_not_ahead(spike, table, current)
            elif current > state.published:
                self._check_shows(spike, kind, table, current, state)
            self.ensure_table(spike, kind, table, current=current, target=state.sequence)
            changed = self.ledger.changed_files(
                spike.dataset.name, kind, current=current, target=state.sequence
            )
            plan = publication(changed, current=current, target=state.sequence)
            self._check_not_there(spike, table, plan.add, state)
            if plan.add or plan.remove:
                self.catalog.publish(
                    table,
                    sequence=plan.sequence,
                    add=[live_file(spike, f) for f in plan.add],
                    remove=[live_file(spike, f) for f in plan.remove],
                    base=current,
                )
        self.ledger.mark_published(spike.dataset.name, state.sequence)

    def _check_not_ahead(self, spike: Spike, table: str, at: int) -> None:
        """A table ahead of its ledger takes no commit until the ledger is there again. That is asked now:
        somebody else may have published what came since the caller looked."""
        now = next(d.sequence for d in self.ledger.datasets() if d.name == spike.dataset.name)
        if at > now:
            raise WrongNumber(f"table {table} is at #{at}, its ledger at #{now} only")

    def _check_shows(self, spike: Spike, kind: FileKind, table: str, at: int, state: DatasetState) -> None:
        """A publication was not written down: its process died, another one is at it, or the ledger has lost
        those commits and given their numbers to others, whose files the table lacks."""
        changed = self.ledger.changed_files(spike.dataset.name, kind, current=state.published, target=at)
        plan = publication(changed, current=state.published, target=at)
        if not plan.add:
            return
        missing = {live_file(spike, f).uri for f in plan.add} - self.catalog.files(table).keys()
        if missing and self.catalog.sequence(table) == at:
            raise WrongNumber(f"table {table} is at #{at} and lacks {min(missing)}")

    def _check_not_there(
        self, spike: Spike, table: str, add: Iterable[LedgerFile], state: DatasetState
    ) -> None:
        """What was published before is to be added again to a table that was dropped or went back. If it only
        lost its number, it has the files."""
        again = {live_file(spike, f).uri for f in add if f.added is not None and f.added <= state.published}
        if again and (there := again & self.catalog.files(table).keys()):
            number = self.catalog.sequence(table)
            raise WrongNumber(f"table {table} is at #{number} and has {min(there)}, which came later")

    def ensure_table(self, spike: Spike, kind: FileKind, table: str, *, current: int, target: int) -> None:
        """The table with the columns that were written up to `target`: those of the batches, which this
        process's application file may have been loaded before, or after, and never those of nobody's files.
        Errors: `InvalidSpec`, `Transient`."""
        if kind is FileKind.DEAD_LETTER:
            self.catalog.ensure_table(table, spike, dead_letters=True)
            return
        written = self.ledger.written_between(spike.dataset.name, current=current, target=target)
        for schema in dict.fromkeys(schema_of(spike, w) for w in written):
            self.catalog.ensure_table(table, replace(spike, schema=schema), dead_letters=False)

    def show(self, spike: Spike) -> SpikeError | None:
        """What was committed just now, to readers, instead of waiting for the next appender run; the error,
        where only that run can. If one is at it as well, one of the two does it."""
        state = next((d for d in self.ledger.datasets() if d.name == spike.dataset.name), None)
        if state is None or state.published >= state.sequence:
            return None
        try:
            self.publish(spike, state)
            self.clean(spike)
        except SpikeError as error:
            return error
        return None

    def clean(self, spike: Spike) -> int:
        """Delete the staged objects of published batches (I9); answers how many batches. Errors:
        `SpecChanged`, `Transient`."""
        require_bound(self.ledger, spike)
        ready = self.ledger.cleanable(spike.name, _CLEAN_AT_ONCE)
        self.store.delete(spike.staging.bucket, [key for keys in ready.values() for key in keys])
        if ready:
            self.ledger.mark_cleaned(ready)
        return len(ready)


def live_file(spike: Spike, file: LedgerFile) -> LiveFile:
    return LiveFile(f"s3://{spike.final.bucket}/{file.final_key}", file.rows, file.size, file.hour)
