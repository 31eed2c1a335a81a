"""An application file that changed under a spike's rows is refused, before anything is written."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from builders import BUCKET

from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.domain.errors import Refused, SpecChanged
from spike_pipelines.domain.spike import Dataset, Location

pytestmark = pytest.mark.real


def moved(spike, key):
    return replace(
        spike,
        **{
            "dataset": {"dataset": Dataset("other", spike.dataset.start)},
            "final": {"final": Location(BUCKET, "other")},
            "staging": {"staging": Location("other", "staging")},
            "topic": {"topic": "other"},
        }[key],
    )


KEYS = ["dataset", "final", "staging", "topic"]


def rows(world):
    with world.ledger._engine.connect() as db:
        return {t.name: db.scalar(sa.select(sa.func.count()).select_from(t)) for t in metadata.sorted_tables}


@pytest.fixture
def bound(world):
    """A spike with a batch that waits."""
    spike = world.spike()
    world.broker.create("other", 1)
    world.driver(spike).stage()
    return spike


@pytest.mark.parametrize("settled", [False, True], ids=["a batch waits", "files are live"])
@pytest.mark.parametrize("key", KEYS)
def test_a_move_is_refused_and_nothing_is_written(world, bound, key, settled):
    if settled:
        world.settle(bound)
    before = rows(world)
    with pytest.raises(SpecChanged, match=key):
        world.driver(moved(bound, key), after=1)
    assert rows(world) == before
    assert world.driver(bound, after=1).opened.epoch.number == 2


@pytest.mark.parametrize("key", KEYS)
def test_a_move_under_a_driver_that_runs_refuses_its_next_batch(world, bound, key):
    driver = world.driver(bound, after=1)
    batch = driver.write()
    driver.spike = moved(bound, key)
    before = rows(world)
    with pytest.raises(Refused, match=key):
        driver.register(batch)
    assert rows(world) == before


@pytest.mark.parametrize("key", ["dataset", "final", "staging"])
def test_a_move_does_not_promote_what_waits_to_another_place(world, bound, key):
    with pytest.raises(SpecChanged, match=key):
        world.promoter().promote(moved(bound, key), limit=9)
    (batch,) = world.ledger.last_batches(bound.name, 9)
    assert (batch.state, world.keys("other/")) == ("staged", [])
    world.settle(bound)
    assert world.dataset(bound).sequence == 1


def test_a_spike_without_rows_may_move(world):
    spike = world.spike()
    world.broker.create("other", 1)
    world.driver(spike)
    driver = world.driver(moved(spike, "dataset"), after=1)
    driver.stage()
    assert driver.token.number == 2


def test_what_a_refused_file_names_is_not_made(world, bound):
    world.registrar.note_refusal(moved(bound, "dataset"), "spec_changed", "put it back", "a")
    assert world.ledger.refusals()[bound.name].message == "put it back"
    assert [d.name for d in world.ledger.datasets()] == [bound.dataset.name]


def test_a_change_of_type_is_refused_once_a_batch_was_written_with_it(world):
    spike = world.spike()
    other = replace(spike, schema="id STRING")
    world.driver(other)  # nothing was written: the file may be mended
    world.driver(spike, after=1).stage()
    with pytest.raises(SpecChanged, match="column 'id' is BIGINT and cannot become STRING"):
        world.driver(other, after=2)
    world.settle(spike)
    with pytest.raises(SpecChanged, match="'id'"):
        world.driver(other, after=2)
    assert world.driver(replace(spike, schema="id BIGINT, more DATE"), after=2).token.number == 3
