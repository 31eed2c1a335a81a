"""A new dataset from an old topic, over a real ledger: a spike of its own beside the old one."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import BUCKET, HOUR, NEXT_HOUR, parquet
from rereading import Reading, backfilled, backfiller, breaches, rows
from test_operate import ask, operator, to
from test_swap import planned

from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.errors import Lost, Refused, TopicMissing
from spike_pipelines.domain.fork import ForkLoses
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.domain.operations import OperationKind
from spike_pipelines.domain.spike import Dataset, Location, Start
from spike_pipelines.services.backfill import Ask
from spike_pipelines.services.fork import Forker
from spike_pipelines.services.swap import Swapper, swap_prefix

pytestmark = pytest.mark.real


@pytest.fixture
def ran(world):
    """Two published batches of seven records each, of fourteen that there are."""
    driver = world.driver(world.spike(records=14))
    driver.stage(4, 2, 1)
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    return driver


def forker(world):
    return Forker(world.ledger, world.broker)


def made(world, spike, since):
    new = replace(
        spike,
        name="payouts-new",
        start=since,
        dataset=Dataset("payouts_new", spike.dataset.start),
        final=Location(spike.final.bucket, "moved/final"),
    )
    world.spikes[new.name] = new
    return new


def test_the_new_spike_begins_where_was_said_and_the_old_one_stays(world, ran):
    before = rows(world, ran.spike)
    found = forker(world).look(ran.spike, HOUR, accept_loss=False)
    forker(world).begin(ran.spike, made(world, ran.spike, HOUR), found, None)
    assert breaches(world) == {}
    new = world.driver(world.spikes["payouts-new"])
    assert new.opened.offsets == {r.partition: r.start for r in found.pieces}
    assert [len(r) for r in found.pieces] == [14]
    new.stage(12, 1, 1)
    world.settle(new.spike)
    assert (rows(world, ran.spike), rows(world, new.spike)) == (before, (12, 1))
    assert all(k.startswith("moved/final/payouts_new") for k in world.keys("moved/"))
    assert breaches(world) == {}


def test_its_hours_are_backfilled_like_any_others(world, ran):
    new = world.driver(made(world, ran.spike, HOUR))
    new.stage(4, 2, 1)
    new.stage(4, 2, 1)
    world.settle(new.spike)
    assert backfilled(world, new.spike).records == 10
    world.settle(new.spike)
    assert backfilled(world, ran.spike).records == 10
    world.settle(ran.spike)
    assert rows(world, ran.spike) == rows(world, new.spike) == (8, 4)
    assert breaches(world) == {}


def test_what_kafka_no_longer_has_is_refused_or_accepted_with_who_and_why(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=9)
    with pytest.raises(ForkLoses, match=r"payouts-topic:0\[0,9\)"):
        forker(world).look(ran.spike, HOUR, accept_loss=False)
    found = forker(world).look(ran.spike, HOUR, accept_loss=True)
    assert [(r.start, r.end) for r in found.pieces] == [(9, 14)]
    forker(world).begin(ran.spike, made(world, ran.spike, HOUR), found, ask())
    assert list(world.driver(world.spikes["payouts-new"]).opened.offsets.values()) == [9]
    (operation,) = world.ledger.operations("payouts", 9)
    assert (operation.kind, operation.author.why) == (OperationKind.ACCEPT_LOSS, "a test")
    assert operation.summary.startswith("payouts-new is made without payouts-topic:0[0,9)")
    assert breaches(world) == {}


@pytest.mark.parametrize("accepted", [False, True])
def test_what_kafka_deletes_before_the_new_driver_starts_is_told_to_it(world, ran, accepted):
    if accepted:
        world.broker.delete_records(ran.spike.topic, 0, before=3)
    found = forker(world).look(ran.spike, HOUR, accept_loss=accepted)
    new = made(world, ran.spike, HOUR)
    forker(world).begin(ran.spike, new, found, ask() if accepted else None)
    world.broker.delete_records(ran.spike.topic, 0, before=9)
    with pytest.raises(Lost, match=f"the next record to read is {3 * accepted}, and Kafka's log starts at 9"):
        world.driver(new)
    operator(world).accept_loss(new, ask())
    assert list(world.driver(new).opened.offsets.values()) == [9]


def test_what_kafka_deletes_while_it_is_looked_at_counts_as_lost(world, ran, monkeypatch):
    at_time = world.broker.offsets_at

    def slowly(*arguments):
        found = at_time(*arguments)
        world.broker.delete_records(ran.spike.topic, 0, before=9)
        return found

    monkeypatch.setattr(world.broker, "offsets_at", slowly)
    with pytest.raises(ForkLoses, match=r"payouts-topic:0\[0,9\)"):
        forker(world).look(ran.spike, HOUR, accept_loss=False)


def test_who_takes_all_that_kafka_has_takes_what_it_has_then(world, ran):
    new = made(world, ran.spike, Start.EARLIEST)
    forker(world).begin(ran.spike, new, forker(world).look(ran.spike, None, accept_loss=False), None)
    world.broker.delete_records(ran.spike.topic, 0, before=9)
    assert list(world.driver(new).opened.offsets.values()) == [9]


def test_a_fork_that_wrote_no_file_is_begun_again_and_one_that_ran_is_not(world, ran):
    new = made(world, ran.spike, HOUR)
    for since in (HOUR, NEXT_HOUR, HOUR):
        found = forker(world).look(ran.spike, since, accept_loss=False)
        forker(world).begin(ran.spike, new, found, None)
        assert world.ledger.all_positions()[new.name].keys() == found.starts.keys()
        assert [p.baseline for p in world.ledger.all_positions()[new.name].values()] == [
            found.pieces[0].start
        ]
    every = forker(world).look(ran.spike, None, accept_loss=False)
    with pytest.raises(Refused, match="choose another name"):
        forker(world).begin(ran.spike, new, every, None)
    world.driver(new)
    with pytest.raises(Refused, match="choose another name"):
        forker(world).begin(ran.spike, new, found, None)


def test_what_is_gone_of_earlier_hours_is_no_loss(world):
    spike = world.spike(records=7)
    old = world.driver(spike)
    old.stage(0, 0, 7)
    world.execute("UPDATE batch_hours SET hour = hour - interval '1 day' WHERE records_filtered > 0")
    world.broker.append(spike.topic, 0, *[NEXT_HOUR] * 7)
    old.stage(4, 2, 1)
    world.settle(spike)
    world.broker.delete_records(spike.topic, 0, before=7)
    found = forker(world).look(spike, HOUR, accept_loss=False)
    assert (found.lost, [(r.start, r.end) for r in found.pieces]) == ((), [(7, 14)])


def test_what_the_old_spike_has_of_the_hour_that_a_time_lies_in_counts(world, ran):
    assert [(r.start, r.end) for r in world.ledger.fed_ranges("payouts", HOUR + timedelta(minutes=30))] == [
        (0, 14)
    ]
    assert world.ledger.fed_ranges("payouts", NEXT_HOUR + timedelta(hours=1)) == ()


def test_a_topic_that_is_gone_is_said_to_be(world, ran):
    world.broker.delete(ran.spike.topic)
    with pytest.raises(TopicMissing, match="no topic payouts-topic"):
        forker(world).look(ran.spike, None, accept_loss=False)


# offsets that are asked for


def of(world, spike, start, end):
    topic = world.broker.topics([spike.topic])[spike.topic]
    return [OffsetRange(Partition(spike.topic, topic.topic_id, 0), start, end)]


def test_offsets_are_of_the_hours_that_their_batches_counted_records_for(world):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    driver.stage(0, 0, 7)
    driver.stage(4, 2, 1)  # staged, not committed
    world.promoter().promote(driver.spike, limit=2)
    ledger = world.ledger
    assert ledger.fed_hours("payouts", of(world, driver.spike, 6, 7)) == (HOUR, NEXT_HOUR)
    assert ledger.fed_hours("payouts", of(world, driver.spike, 7, 14)) == (HOUR,)
    assert ledger.fed_hours("payouts", of(world, driver.spike, 14, 21)) == ()
    assert ledger.fed_hours("others", of(world, driver.spike, 0, 7)) == ()


def test_offsets_are_of_the_hour_too_that_a_replay_moved_their_records_into(world):
    """A dead letter was out of range, and is not any more: it is in the hour of its own timestamp now."""
    driver = world.driver(world.spike())
    driver.stage(0, 2, 5)
    driver.stage(0, 0, 7)
    world.settle(driver.spike)
    swapped(world, driver.spike, NEXT_HOUR, 2)
    first, second = of(world, driver.spike, 0, 1), of(world, driver.spike, 7, 8)
    assert world.ledger.fed_hours("payouts", first) == (HOUR, NEXT_HOUR)
    assert world.ledger.fed_hours("payouts", second) == (HOUR,)
    operator(world).rewind(driver.spike, to(driver.spike, 0), ask())
    assert world.ledger.fed_hours("payouts", first) == ()


def swapped(world, spike, hour, count):
    """A replay of all dead letters, of which each is a row of the hour."""

    def produce(swap, _replaced, _keep_alive):
        info = world.store.put(BUCKET, swap_prefix(spike, swap) + "a/x.parquet", parquet(count, hour))
        file = StagedFile("a/x.parquet", FileKind.FINAL, hour, count, info.size, info.etag)
        return NewBatch((), (file,), count, (HourCounts(hour, count, 0, 0),), "2.0")

    swap = planned(world, spike)
    Swapper(world.ledger, world.promoter()).finish(spike, swap.number, produce)


def test_an_hour_of_asked_offsets_is_read_again_whole(world, ran):
    reading = Reading(world)
    for hour in world.ledger.fed_hours("payouts", of(world, ran.spike, 2, 3)):
        backfiller(world, reading).backfill(ran.spike, hour, Ask(ask()))
    assert [order.hour for order in reading.orders] == [HOUR, NEXT_HOUR]
    assert [(r.start, r.end) for r in reading.orders[0].pieces] == [(0, 14)]
