"""A rewind takes along what swaps made of the batches that go, and splits no file of theirs."""

import pytest
from builders import HOUR
from rereading import AS_BEFORE, mended
from test_backfill_earlier import BELOW, A, committed, earlier
from test_operate import ask, operator, to
from test_swap import breaches, planned, producing, ran, rows, swapped, swapper  # noqa: F401 - `ran` is a fixture

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.rewind import Earliest
from spike_pipelines.domain.spike import Start
from spike_pipelines.services import operate
from spike_pipelines.services.swap import SwapRefused
from spike_pipelines.services.where import Fate, Finder

pytestmark = pytest.mark.real


@pytest.mark.parametrize("times", [1, 2])
def test_a_rewind_into_a_swap_supersedes_all_its_batches_and_the_swap(world, ran, times):  # noqa: F811
    ran.stage(4, 0, 0)
    for _ in range(times):
        swapped(world, ran.spike, final=1)
    world.settle(ran.spike)
    done = operator(world).rewind(ran.spike, to(ran.spike, 7), ask())
    assert [m.to for m in done.moves] == [0], "the first batch shares a file with the second"
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 0, "payouts_dead_letters": 0}
    assert breaches(world) == {}
    again = world.driver(ran.spike, "b")
    for _ in range(3):
        again.stage(4, 2, 1)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 12, "payouts_dead_letters": 6}
    assert breaches(world) == {}
    assert swapped(world, ran.spike).batch
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_what_no_swap_ties_to_the_point_stays(world, ran):  # noqa: F811
    swapped(world, ran.spike, final=1)
    ran.stage(4, 0, 0)
    world.settle(ran.spike)
    operator(world).rewind(ran.spike, to(ran.spike, 14), ask())
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 9, "payouts_dead_letters": 3}
    assert breaches(world) == {}


def test_earliest_keeps_a_swap_whose_first_batch_is_gone_from_kafka(world, ran):  # noqa: F811
    swapped(world, ran.spike, final=1)
    ran.stage(4, 0, 0)
    world.settle(ran.spike)
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    assert [m.to for m in operator(world).rewind(ran.spike, Earliest(), ask()).moves] == [14]
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_earliest_ends_where_an_older_hour_is_tied_to_a_batch_that_kafka_has_no_more(world, monkeypatch):
    """With that batch in sight both stay; out of sight the older hour would go: in turns, for ever."""
    spike = world.spike(start=Start.LATEST, partitions=2, records=0)
    for index, log in enumerate(BELOW):
        world.broker.append(spike.topic, index, *log)
    driver = world.driver(spike)
    world.broker.append(spike.topic, 1, *[HOUR] * 14)
    for _ in range(2):
        driver.stage(4, 2, 1, index=1)
        world.settle(spike)
    earlier(world, spike, A, fates=AS_BEFORE)
    second, *tied = sorted(
        world.ledger.dead_letter_files("payouts", None, None, 9), key=lambda f: (f.hour != HOUR, -f.batch)
    )
    mended(world, spike, tied)
    world.broker.delete_records(spike.topic, 1, before=14)
    looks, look = [], operate.align_up

    def bounded(points, units):
        looks.append(points)
        assert len(looks) < 9, "it never ends"
        return look(points, units)

    monkeypatch.setattr(operate, "align_up", bounded)
    plan = operator(world).plan(spike, Earliest())
    assert [b.number for b in plan.superseded] == [second.batch]
    operator(world).rewind(spike, Earliest(), ask())
    assert committed(world) == {0: 19, 1: 14}
    world.settle(spike)
    assert breaches(world) == {}


def test_what_was_read_from_a_deleted_topic_goes_with_no_rewind(world, ran):  # noqa: F811
    """A replay over both topics' dead letters ties their batches: nobody could read the older ones again."""
    spike = ran.spike
    world.broker.delete(spike.topic)
    world.broker.create(spike.topic, 1)
    world.broker.append(spike.topic, 0, *[HOUR] * 100)
    operator(world).accept_loss(spike, ask())
    world.driver(spike, "b").stage(4, 2, 1)
    world.settle(spike)
    swapped(world, spike, final=1)
    world.settle(spike)
    before = rows(world, spike)
    with pytest.raises(Refused, match="belongs to a topic that was deleted"):
        operator(world).rewind(spike, to(spike, 0), ask())
    assert operator(world).rewind(spike, Earliest(), ask()) is None, "no whole unit can be read again"
    world.settle(spike)
    assert rows(world, spike) == before == {"payouts": 13, "payouts_dead_letters": 5}
    assert breaches(world) == {}


def test_a_swap_that_is_under_way_is_refused_by_a_rewind_of_its_batches(world, ran):  # noqa: F811
    swap = planned(world, ran.spike)
    produce = producing(world, ran.spike)

    def meanwhile(*arguments):
        batch = produce(*arguments)
        operator(world).rewind(ran.spike, Earliest(), ask())
        return batch

    with pytest.raises(SwapRefused):
        swapper(world).finish(ran.spike, swap.number, meanwhile)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 0, "payouts_dead_letters": 0}
    assert breaches(world) == {}


def test_a_swap_that_comes_between_plan_and_rewind_refuses_it(world, ran):  # noqa: F811
    """The dataset's row serialises them: the rewind then sees a swap that it did not plan with."""
    numbers = [b.number for b in world.ledger.last_batches("payouts", 9)]
    swapped(world, ran.spike, final=1)
    with pytest.raises(Refused, match="were replaced by a swap"), world.ledger.begin() as tx:
        tx.supersede(numbers, tx.next_sequence("payouts"), 1)


def test_a_dead_letter_that_was_replayed_is_found_where_it_is_now(world, ran):  # noqa: F811
    swap = swapped(world, ran.spike, final=1)
    (final,) = [f for f in world.ledger.record(swap.batch).files if f.kind is FileKind.FINAL]
    old = [f.final_key for n in world.ledger.sources("payouts")[swap.batch]
           for f in world.ledger.record(n).files if f.kind is FileKind.DEAD_LETTER]  # fmt: skip

    class Reader:
        def holds(self, bucket, key, partition, offset):
            return key in {*old, final.final_key}

    finder = Finder(world.ledger, world.broker, Reader(), world.spikes)
    (found,) = finder.offset(ran.spike.topic, 0, 5).found
    assert (found.fate, found.file.id) == (Fate.FINAL, final.id)
