"""What a call costs does not grow with what it is about: one statement for one file and for a thousand."""

import pytest
import sqlalchemy as sa
from builders import HOUR, World, new_batch, staged_file

from spike_pipelines.domain.batch import BatchState, HourCounts
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import Intent

pytestmark = pytest.mark.real


class Statements:
    """Counts what goes to the database: each execution, and each row of an `executemany`."""

    def __init__(self, ledger):
        self._engine, self.seen = ledger._engine, 0

    def _count(self, conn, cursor, statement, parameters, context, many):  # noqa: PLR0917 - SQLAlchemy's
        self.seen += len(parameters) if many else 1

    def __enter__(self):
        sa.event.listen(self._engine, "before_cursor_execute", self._count)
        return self

    def __exit__(self, *_):
        sa.event.remove(self._engine, "before_cursor_execute", self._count)


def through_the_ledger(world, driver, files):
    """Statements to write the intents and to commit a batch of so many files."""
    (p, start) = next(iter(driver.ends.items()))
    listed = [staged_file(f"{start}/part-{i}.parquet", rows=1) for i in range(files)]
    made = new_batch(
        OffsetRange(p, start, start + files), files=listed, hours=[HourCounts(HOUR, files, 0, 0)]
    )
    number = driver.register(made).batch.number
    spike, ledger = driver.spike, world.ledger
    with ledger.begin() as tx:
        ids = [file.id for file in tx.files(number)]
    with Statements(ledger) as intending, ledger.begin() as tx:
        tx.set_state(number, BatchState.STAGED, BatchState.INTENDED)
        tx.intend([Intent(i, f"final/{i}") for i in ids])
    with Statements(ledger) as committing, ledger.begin() as tx:
        tx.set_state(number, BatchState.INTENDED, BatchState.COMMITTED)
        tx.advance_committed(spike.name, "live", made.ranges)
        sequence = tx.commit_files(spike.dataset.name, number, {i: f"etag-{i}" for i in ids})
    live = [f for f in ledger.live_files(spike.dataset.name, sequence) if f.batch == number]
    assert [(f.final_key, f.final_etag) for f in live] == [(f"final/{i}", f"etag-{i}") for i in ids]
    return intending.seen, committing.seen


def test_intents_and_commits_take_as_many_statements_for_a_thousand_files_as_for_one(world: World):
    driver = world.driver(world.spike(records=2_000, max_staged_batches=10))
    assert through_the_ledger(world, driver, 1) == through_the_ledger(world, driver, 1_000)
