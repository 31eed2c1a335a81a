"""An application file that changed under a spike's rows is refused, before anything is written."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from builders import BUCKET
from rereading import backfilled
from test_operate import ask, clean, hold, operator
from test_project import project
from test_retain import aborted_with_copies, grow_old, orphan, retainer
from test_swap import new_swap, planned, producing, swapper

from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.domain.errors import Refused, SpecChanged
from spike_pipelines.domain.rewind import Earliest
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


def retain(world, spike):
    """Of this spike only, as its file has it now."""
    return list(replace(retainer(world), spikes={spike.name: spike}).run())


ACTS = {
    "rewind": lambda world, spike: operator(world).rewind(spike, Earliest(), ask()),
    "accept_loss": lambda world, spike: operator(world).accept_loss(spike, ask()),
    "backfill": backfilled,
    "replay": lambda world, spike: swapper(world).plan(spike, new_swap(world, spike)),
    "publish": lambda world, spike: world.publisher.publish(spike, world.ledger.datasets()[0]),
    "project": project,
    "clean": lambda world, spike: world.publisher.clean(spike),
    "retain": retain,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("key", KEYS)
def test_nobody_acts_on_rows_by_a_file_that_names_another_place(world, bound, key, act):
    world.settle(bound)
    before = rows(world)
    with pytest.raises(SpecChanged, match=key):
        ACTS[act](world, moved(bound, key))
    assert rows(world) == before


@pytest.mark.parametrize("act", ["clean", "retain"])
def test_nothing_is_deleted_where_another_environment_keeps_its_own(world, act):
    """The file names a bucket that has objects of the same keys: they are not ours, and ours stay known."""
    spike = world.spike()
    world.driver(spike).stage()
    world.promoter().promote(spike, limit=9)
    world.publisher.publish(spike, world.dataset(spike))
    operator(world).rewind(spike, Earliest(), ask())
    world.publisher.publish(spike, world.dataset(spike))
    world.execute("UPDATE operations SET at = at - interval '9 days'")
    theirs = {key: object() for key in world.keys("")}
    world.store._buckets["theirs"] = dict(theirs)
    other = replace(spike, staging=Location("theirs", "staging"), final=Location("theirs", "final"))
    before = rows(world)
    with pytest.raises(SpecChanged, match="staging"):
        ACTS[act](world, other)
    assert world.store._buckets["theirs"] == theirs
    assert rows(world) == before
    with world.ledger._engine.connect() as db:
        assert not db.exec_driver_sql("SELECT 1 FROM files WHERE condemned_at IS NOT NULL").all()


def test_copies_of_an_aborted_intent_are_not_left_behind_either(world):
    spike = world.spike()
    driver = world.driver(spike)
    driver.stage(4, 2, 0)
    world.settle(spike)
    aborted_with_copies(world, driver)
    world.execute(
        "UPDATE files SET state = 'superseded', removed = added + 1, swept_at = clock_timestamp() "
        "WHERE state = 'live'"
    )
    with pytest.raises(SpecChanged, match="final"):
        world.driver(moved(spike, "final"), after=1)
    for _ in range(2):
        retain(world, spike)
        grow_old(world)
    assert world.driver(moved(spike, "final"), after=1).token.number == 2


def test_a_spike_whose_file_moved_delays_the_retention_of_no_other(world, bound):
    world.settle(bound)
    other = world.driver(world.spike("session"))
    orphan(world, other.spike, 1)
    world.execute("UPDATE epochs SET state = 'retired'")
    grow_old(world)
    world.spikes[bound.name] = moved(bound, "final")
    with pytest.raises(SpecChanged, match="retention is not done: payouts: final"):
        list(retainer(world).run())
    assert world.keys("staging/session/") == []


@pytest.mark.parametrize("act", ["release", "discard"])
def test_nobody_decides_on_a_held_batch_by_a_file_that_names_another_dataset(world, bound, act):
    number = hold(world, world.driver(bound, after=1))
    before = rows(world)
    with pytest.raises(SpecChanged, match="dataset"):
        getattr(operator(world), act)(moved(bound, "dataset"), number, ask())
    assert rows(world) == before


def test_a_swap_is_not_finished_by_a_file_that_names_another_place(world, bound):
    world.settle(bound)
    swap = planned(world, bound)
    with pytest.raises(SpecChanged, match="final"):
        swapper(world).finish(moved(bound, "final"), swap.number, producing(world, bound))
    assert swapper(world).finish(bound, swap.number, producing(world, bound)).state == "swapped"


def test_superseded_files_are_not_left_behind_either(world, bound):
    """Publication would look for them in the new place: they would stay in the table, beside what is read
    again; and so would retention."""
    world.settle(bound)
    operator(world).rewind(bound, Earliest(), ask())
    with pytest.raises(SpecChanged, match="final"):
        world.publisher.publish(moved(bound, "final"), world.dataset(bound))
    world.settle(bound)
    assert world.catalog.files(bound.dataset.name) == {}
    with pytest.raises(SpecChanged, match="final"):
        world.driver(moved(bound, "final"), "b")
    clean(world)
    world.execute("UPDATE files SET swept_at = clock_timestamp()")
    assert world.driver(moved(bound, "final"), "b").token.number > 1


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
