"""Epochs, registration and heartbeats over a real ledger: what a driver may do, and what repeats do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest
from builders import HOUR, IDLE_LIMIT, Driver, new_batch

from spike_pipelines.domain.batch import BatchState, FileKind
from spike_pipelines.domain.errors import (
    Fenced,
    Gap,
    Held,
    InvariantBroken,
    Lost,
    Overlap,
    Refused,
    SpecChanged,
    TooManyStaged,
    TopicChanged,
    TopicMissing,
    Transient,
    Truncated,
)
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.rewind import parse_target
from spike_pipelines.domain.spike import Start
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.register import EpochToken, Registrar

pytestmark = pytest.mark.real


def silent(world, spike, seconds):
    """As if the open epoch had last been heard of so long ago."""
    world.execute(
        "UPDATE epochs SET heartbeat_at = clock_timestamp() - make_interval(secs => %(s)s)"
        " WHERE spike = %(spike)s AND state = 'open'",
        s=seconds, spike=spike.name,
    )  # fmt: skip


def staged(world, spike):
    return {p.index: x.staged_end for p, x in world.ledger.all_positions()[spike.name].items()}


def beat(driver: Driver, **changes):
    arguments = {"phase": "reading", "problem": None, "batch_started_at": None, "read": {}, **changes}
    driver.world.registrar.heartbeat(driver.spike, driver.token, **arguments)


# epochs


def test_opening_answers_every_current_partition(world):
    spike = world.spike(partitions=3)
    driver = world.driver(spike)
    assert {p.index: offset for p, offset in driver.opened.offsets.items()} == {0: 0, 1: 0, 2: 0}
    assert driver.opened.epoch.number == 1
    assert len(driver.opened.epoch.nonce) == 32


def test_a_request_whose_reply_was_lost_gets_the_same_epoch(world):
    spike = world.spike()
    first = world.driver(spike)
    again = world.driver(spike)
    assert again.token == first.token
    resynced = world.driver(spike, after=1)
    assert (resynced.token.number, world.driver(spike, after=1).token) == (2, resynced.token)


def test_a_resync_goes_on_from_the_staged_end_and_fences_the_epoch_given_up(world):
    spike = world.spike()
    first = world.driver(spike)
    first.stage(final=7, dead=0, filtered=0)
    again = world.driver(spike, after=1)
    assert list(again.opened.offsets.values()) == [7]
    with pytest.raises(Fenced):
        first.stage()


def test_a_newcomer_is_held_until_the_owner_is_idle_and_the_owner_is_then_fenced_for_ever(world):
    spike = world.spike()
    a = world.driver(spike, "a")
    with pytest.raises(Held):
        world.driver(spike, "b")
    silent(world, spike, 21)
    b = world.driver(spike, "b")
    assert b.token.number == 2
    for after in (None, 1):
        with pytest.raises(Fenced):
            world.driver(spike, "a", after)
    with pytest.raises(Fenced):
        beat(a)
    with pytest.raises(Fenced):
        a.stage()
    b.stage()


def test_a_heartbeat_keeps_newcomers_waiting(world):
    spike = world.spike()
    a = world.driver(spike, "a")
    silent(world, spike, 19)
    beat(a)
    silent_since = world.ledger.epochs()[spike.name].heartbeat_at
    assert world.ledger.now() - silent_since < timedelta(seconds=10)
    with pytest.raises(Held):
        world.driver(spike, "b")


def test_a_retired_driver_is_fenced_at_once_and_its_spike_free(world):
    spike = world.spike()
    a = world.driver(spike, "a")
    with world.ledger.begin() as tx:
        tx.retire_epoch(spike.name, "a")
    with pytest.raises(Fenced):
        a.stage()
    assert world.driver(spike, "b").token.number == 2


def test_two_drivers_that_open_at_the_same_moment_are_one_owner_and_one_that_waits(world):
    spike = world.spike()
    together = Barrier(2)

    def open_epoch(name):
        together.wait()
        try:
            return world.driver(spike, name).token.number
        except Held:
            return None

    with ThreadPoolExecutor(2) as pool:
        assert sorted(map(str, pool.map(open_epoch, "ab"))) == ["1", "None"]


def test_the_baseline_is_written_down_once(world):
    spike = world.spike(start=Start.LATEST, records=40)
    world.driver(spike)
    world.broker.append(spike.topic, 0, HOUR)
    (position,) = world.ledger.all_positions()[spike.name].values()
    assert (position.baseline, position.committed_end, position.staged_end) == (40, 40, 40)
    assert list(world.driver(spike, after=1).opened.offsets.values()) == [40]


def test_a_start_by_time_is_looked_up_at_the_broker(world):
    spike = world.spike(start=HOUR + timedelta(minutes=1), records=5)
    world.broker.append(spike.topic, 0, HOUR + timedelta(minutes=2))
    assert list(world.driver(spike).opened.offsets.values()) == [5]


def test_a_partition_that_appears_later_begins_at_zero(world):
    spike = world.spike(start=Start.LATEST, records=9)
    driver = world.driver(spike)
    world.broker.add_partitions(spike.topic, 2)
    world.broker.append(spike.topic, 1, HOUR, HOUR)
    again = world.driver(spike, after=1)
    assert {p.index: offset for p, offset in again.opened.offsets.items()} == {0: 9, 1: 0}
    again.stage(2, 0, 0, index=1)
    assert driver.opened.epoch.number == 1


def test_lost_records_refuse_an_epoch_and_change_nothing(world):
    spike = world.spike()
    world.driver(spike).stage(5, 0, 0)
    world.broker.delete_records(spike.topic, 0, before=6)
    with pytest.raises(Lost):
        world.driver(spike, after=1)
    assert world.ledger.epochs()[spike.name].number == 1


class ComesBack:
    """A broker whose log end is that of a replica that is behind, the first `times` it is asked."""

    def __init__(self, broker, topic, end, times):
        self._broker, self._topic, self._end, self.left = broker, topic, end, times

    def __getattr__(self, name):
        return getattr(self._broker, name)

    def topics(self, names):
        found = dict(self._broker.topics(names))
        if self.left:
            self.left -= 1
            found[self._topic] = replace(found[self._topic], log_end={0: self._end, 1: self._end})
        return found


def test_a_log_that_was_cut_off_refuses_epochs_and_batches_and_a_rewind_goes_on(world):
    spike = world.spike(partitions=2)
    driver = world.driver(spike)
    driver.stage(5, 0, 0, index=0)
    world.settle(spike)
    world.broker.truncate(spike.topic, 0, 3)
    with pytest.raises(Truncated, match="ends at 3: 2 offsets were cut off"):
        driver.stage(5, 0, 0, index=1)
    with pytest.raises(Truncated):
        world.driver(spike, after=1)
    assert staged(world, spike) == {0: 5, 1: 0}
    operator = Operator(world.ledger, world.broker, world.store)
    request = Request("r", Author("ann", "an unclean election"))
    operator.rewind(spike, parse_target(f"{spike.topic}:0:3"), request)
    assert {p.index: o for p, o in world.driver(spike, "b").opened.offsets.items()} == {0: 0, 1: 0}


def test_a_replica_that_is_behind_is_asked_again_and_not_blamed(world):
    spike = world.spike(partitions=2)
    driver = world.driver(spike)
    driver.stage(5, 0, 0)
    slow = ComesBack(world.broker, spike.topic, 4, times=1)
    registrar = Registrar(world.ledger, slow, IDLE_LIMIT)
    assert registrar.open_epoch(spike, "a", 1, "1.0").epoch.number == 2
    assert slow.left == 0
    slow.left = 2
    with pytest.raises(Truncated):
        registrar.open_epoch(spike, "a", 2, "1.0")


def test_a_slip_in_the_topic_of_the_file_is_told_as_one_not_as_a_topic_to_create(world):
    spike = world.spike()
    driver = world.driver(spike)
    batch = driver.write()
    driver.register(batch)
    slip = replace(spike, topic="payouts-tpoic")
    with pytest.raises(SpecChanged, match=f"put {spike.topic} back"):
        world.driver(slip, after=1)


def test_a_topic_made_again_refuses_epochs_and_batches(world):
    spike = world.spike()
    driver = world.driver(spike)
    batch = driver.write()
    world.broker.delete(spike.topic)
    with pytest.raises(TopicMissing):
        driver.register(batch)
    world.broker.create(spike.topic)
    world.broker.append(spike.topic, 0, *[HOUR] * 100)
    with pytest.raises(TopicChanged):
        driver.register(batch)
    with pytest.raises(TopicChanged):
        world.driver(spike, after=1)
    assert staged(world, spike) == {0: 0}


def test_a_broker_that_does_not_answer_decides_nothing(world):
    spike = world.spike()
    driver = world.driver(spike)
    batch = driver.write()
    world.broker.up = False
    with pytest.raises(Transient):
        driver.register(batch)
    with pytest.raises(Transient):
        world.driver(spike, after=1)
    world.broker.up = True
    assert driver.register(batch).new


# registration


def test_a_registered_batch_is_staged_with_its_files_below_the_epochs_prefix(world):
    spike = world.spike()
    done = world.driver(spike).stage(4, 1, 1)
    assert (done.new, done.batch.state) == (True, BatchState.STAGED)
    assert staged(world, spike) == {0: 6}
    with world.ledger.begin() as tx:
        files = tx.files(done.batch.number)
    assert [f.kind for f in files].count(FileKind.DEAD_LETTER) == 1
    assert all(f.staging_key.startswith("staging/payouts/00000001/") for f in files)


def test_the_same_batch_again_answers_as_the_first_time(world):
    driver = world.driver(world.spike())
    batch = driver.write()
    first, again = driver.register(batch), driver.register(batch)
    assert (first.new, again.new) == (True, False)
    assert again.batch.number == first.batch.number
    assert staged(world, driver.spike) == {0: 6}


def test_of_two_file_lists_for_one_identity_the_first_stands(world):
    driver = world.driver(world.spike())
    first, other = driver.write(attempt=1), driver.write(attempt=2)
    number = driver.register(first).batch.number
    again = driver.register(other)
    assert (again.new, again.batch.number) == (False, number)
    with world.ledger.begin() as tx:
        assert all("/a1/" in f.staging_key for f in tx.files(number))


def test_a_batch_is_answered_the_same_after_it_was_committed(world):
    driver = world.driver(world.spike())
    batch = driver.write()
    driver.register(batch)
    world.settle(driver.spike)
    again = driver.register(batch)
    assert (again.new, again.batch.state) == (False, BatchState.COMMITTED)


def shifted(batch, by):
    (r,) = batch.ranges
    return replace(batch, ranges=(OffsetRange(r.partition, r.start + by, r.end + by),))


@pytest.mark.parametrize(("by", "error"), [(1, Gap), (-1, Overlap)])
def test_a_batch_that_does_not_continue_is_refused_and_leaves_nothing(world, by, error):
    driver = world.driver(world.spike())
    driver.stage()
    with pytest.raises(error):
        driver.register(shifted(driver.write(), by))
    assert staged(world, driver.spike) == {0: 6}
    assert world.ledger.backlog()[0].batches == 1


@pytest.mark.parametrize("wrong", ["nonce", "number", "newer"])
def test_a_batch_without_the_token_is_fenced(world, wrong):
    spike = world.spike()
    world.driver(spike)
    driver = world.driver(spike, after=1)
    token = {
        "nonce": EpochToken(2, "0" * 32),
        "number": EpochToken(1, driver.token.nonce),
        "newer": EpochToken(3, driver.token.nonce),
    }[wrong]
    with pytest.raises(Fenced):
        world.registrar.register(spike, token, driver.write())
    assert world.ledger.backlog() == ()


def test_a_fenced_driver_does_not_even_get_a_repeats_answer(world):
    spike = world.spike()
    driver = world.driver(spike)
    batch = driver.write()
    driver.register(batch)
    world.driver(spike, after=1)
    with pytest.raises(Fenced):
        driver.register(batch)


def test_beyond_the_bound_drivers_wait_and_repeats_do_not(world):
    driver = world.driver(world.spike(max_staged_batches=2))
    driver.stage()
    second = driver.write()
    driver.register(second)
    third = driver.write()
    with pytest.raises(TooManyStaged) as full:
        driver.register(third)
    assert full.value.retry_after_seconds > 0
    assert not driver.register(second).new
    driver.ends = dict.fromkeys(driver.ends, 12)
    world.settle(driver.spike)
    assert driver.register(third).new


def test_an_end_beyond_the_brokers_is_refused(world):
    driver = world.driver(world.spike(records=5))
    with pytest.raises(Refused, match="ends beyond"):
        driver.stage()


def test_an_unknown_partition_and_another_topic_are_refused(world):
    spike = world.spike()
    other = world.spike("session")
    driver = world.driver(spike)
    (mine,) = driver.ends
    (theirs,) = world.driver(other).ends
    for stranger in (Partition(mine.topic, mine.topic_id, 7), theirs):
        with pytest.raises(Refused):
            driver.register(new_batch(OffsetRange(stranger, 0, 5)))


def test_empty_ranges_beside_others_are_no_news(world):
    spike = world.spike(partitions=2)
    driver = world.driver(spike)
    zero, one = sorted(driver.ends)
    driver.register(new_batch(OffsetRange(zero, 0, 5), OffsetRange(one, 0, 0)))
    assert staged(world, spike) == {0: 5, 1: 0}


def test_a_batch_of_a_partition_newer_than_the_epoch_begins_at_zero(world):
    spike = world.spike()
    driver = world.driver(spike)
    world.broker.add_partitions(spike.topic, 2)
    world.broker.append(spike.topic, 1, *[HOUR] * 5)
    (zero,) = driver.ends
    one = replace(zero, index=1)
    with pytest.raises(Gap):
        driver.register(new_batch(OffsetRange(one, 1, 5)))
    driver.register(new_batch(OffsetRange(one, 0, 5)))
    assert staged(world, spike) == {0: 0, 1: 5}


def test_of_two_registrations_of_one_batch_at_once_one_is_new(world):
    driver = world.driver(world.spike())
    batch = driver.write()
    together = Barrier(4)

    def register(_):
        together.wait()
        return driver.register(batch)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(register, range(4)))
    assert sorted(d.new for d in done) == [False, False, False, True]
    assert len({d.batch.number for d in done}) == 1


def test_a_grant_beside_a_registration_orders_them(world):
    """Either the batch was first, and the new epoch goes on behind it; or it is fenced, and is not there."""
    spike = world.spike()
    for turn in range(6):
        driver = world.driver(spike, f"driver-{turn}")
        batch = driver.write()
        silent(world, spike, 60)
        together = Barrier(2)

        def register(driver=driver, batch=batch, together=together):
            together.wait()
            try:
                return driver.register(batch).new
            except Fenced:
                return False

        def take_over(turn=turn, together=together):
            together.wait()
            return world.driver(spike, f"thief-{turn}")

        with ThreadPoolExecutor(2) as pool:
            registered, thief = pool.submit(register), pool.submit(take_over)
            expected = batch.ranges[0].end if registered.result() else batch.ranges[0].start
            assert list(thief.result().opened.offsets.values()) == [expected]
        world.settle(spike)
        silent(world, spike, 60)


# heartbeats and refusals


def test_a_heartbeat_tells_phase_problem_and_offsets(world):
    driver = world.driver(world.spike())
    beat(driver, phase="waiting", problem="appender behind", batch_started_at=HOUR, read=driver.ends)
    seen = world.ledger.epochs()["payouts"]
    assert (seen.phase, seen.problem, seen.batch_started_at) == ("waiting", "appender behind", HOUR)


def test_an_epoch_granted_takes_the_last_refusal_back(world):
    spike = world.spike()
    world.registrar.note_refusal(spike, "topic_missing", "create it", "a")
    assert world.ledger.refusals()["payouts"].driver == "a"
    world.driver(spike)
    assert world.ledger.refusals() == {}


def test_one_spikes_dataset_cannot_be_taken_by_another(world):
    spike = world.spike()
    world.driver(spike)
    thief = world.spike("thief", dataset=spike.dataset)
    with pytest.raises(InvariantBroken, match="belongs to spike payouts"):
        world.driver(thief)
    assert set(world.ledger.epochs()) == {"payouts"}
