"""Closing hours over a real ledger: what closes, what does not, what is late, what an operation reopens."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest
from builders import HOUR, NEXT_HOUR
from test_operate import operator, to

from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.operations import Author
from spike_pipelines.orchestration.assets import partition_key
from spike_pipelines.orchestration.closed import with_closed_hours
from spike_pipelines.services.close import Closer
from spike_pipelines.services.operate import Request

pytestmark = pytest.mark.real

ONE = timedelta(hours=1)


@pytest.fixture
def closer(world):
    return Closer(world.ledger, world.broker, world.broker, world.spikes)


def begun(world, *, partitions=1, records=0, hours_ago=3, **changes):
    """The driver of a spike that has been there for so long: with the usual lateness all but the last two
    of these hours are due."""
    spike = world.spike(partitions=partitions, records=records, **changes)
    driver = world.driver(spike)
    world.execute(f"UPDATE spikes SET created_at = clock_timestamp() - interval '{hours_ago} hours'")
    return driver


def arrive(world, spike, records, index=0):
    world.broker.append(spike.topic, index, *[HOUR] * records)


def closed(world, dataset="payouts"):
    """Hours closed, as how long ago in whole hours, newest first."""
    books = world.ledger.hour_books(dataset, 1000)
    return [b.hour for b in books if b.closing and b.closing.closed_at]


def waiting(world):
    return [c.hour for c in world.ledger.hours_view().datasets["payouts"].waiting]


def test_an_idle_topic_closes_every_hour_that_is_due_and_none_that_is_not(world, closer):
    begun(world)
    seen = closer.close()["payouts"]
    newest = hour_of(world.ledger.now()) - 2 * ONE
    assert closed(world) == [newest, newest - ONE]
    assert seen.closed == newest
    assert (seen.waiting, seen.problem) == (None, None)


def test_a_partition_that_lags_keeps_the_hour_open_until_it_has_committed_what_had_arrived(world, closer):
    driver = begun(world, partitions=2)
    arrive(world, driver.spike, 12, index=1)
    seen = closer.close()["payouts"]
    assert (seen.closed, [str(b) for b in seen.behind]) == (
        None,
        ["payouts-topic:1 has committed up to 0 of 12"],
    )
    driver.stage(index=1)
    world.settle(driver.spike)
    arrive(world, driver.spike, 60, index=1)  # came later: nobody waits for it
    assert closer.close()["payouts"].behind[0].committed == 6
    driver.stage(index=1)
    assert closer.close()["payouts"].closed is None  # staged is not committed
    world.settle(driver.spike)
    assert closer.close()["payouts"].closed is not None
    assert waiting(world) == []


def test_of_two_hours_that_wait_the_one_that_is_not_reached_stays_open(world, closer):
    driver = begun(world, records=6)
    closer.close()
    (p,) = driver.ends
    world.ledger.await_ends("payouts", {HOUR: HOUR + 2 * ONE}, {p: 7}, world.ledger.now())
    driver.stage()
    world.settle(driver.spike)
    closer.close()
    assert closed(world)
    assert waiting(world) == [HOUR]


def test_an_hour_is_looked_at_again_where_nobody_can_rewind_any_more(world, closer):
    driver = begun(world, records=6)
    driver.stage()
    world.settle(driver.spike)

    class Late:
        """A rewind comes between the look and the closing."""

        def __getattr__(self, name):
            return getattr(world.ledger, name)

        def begin(self):
            operator(world).rewind(driver.spike, to(driver.spike, 0), Request("r", Author("ann", "why")))
            return world.ledger.begin()

    replace(closer, ledger=Late()).close()
    assert closed(world) == []
    assert waiting(world)


def test_looking_changes_nothing(world, closer):
    begun(world)
    assert closer.look()["payouts"].closed is None
    assert waiting(world) == [] == closed(world)


def test_a_broker_that_does_not_answer_closes_nothing_and_is_named(world, closer):
    begun(world)
    world.broker.up = False
    seen = closer.close()["payouts"]
    assert (seen.closed, seen.problem) == (None, "the broker in memory is down")
    later = closer.look()["payouts"]  # has no effect, and knows it all the same
    first = hour_of(world.ledger.now()) - 3 * ONE
    assert (later.waiting, later.due_at, later.unobserved) == (first, first + 2 * ONE, True)
    world.broker.up = True
    assert closer.close()["payouts"].closed is not None


def test_one_topics_trouble_is_its_own(world, closer):
    class AllOrNothing:
        """As a real broker: who asks for a dark topic too gets no answer at all."""

        def topics(self, names):
            if world.broker.dark & set(names):
                raise Transient("partition 0 has no leader")
            return world.broker.topics(names)

    begun(world)
    world.driver(world.spike("session", records=0))
    world.execute("UPDATE spikes SET created_at = clock_timestamp() - interval '3 hours'")
    world.broker.dark = {"payouts-topic"}
    seen = replace(closer, broker=AllOrNothing()).close()
    assert (seen["payouts"].closed, seen["session"].problem) == (None, None)
    assert "has no leader" in seen["payouts"].problem
    assert seen["session"].closed is not None


def test_a_topic_that_is_gone_closes_nothing_and_is_named(world, closer):
    driver = begun(world)
    world.broker.delete(driver.spike.topic)
    seen = closer.close()["payouts"]
    assert seen.problem == "topic payouts-topic does not exist: nothing tells what had arrived"
    assert (seen.closed, waiting(world)) == (None, [])


def test_a_dataset_that_was_renamed_is_not_taken_for_the_old_one(world, closer):
    driver = begun(world)
    renamed = replace(driver.spike, dataset=replace(driver.spike.dataset, name="pay"))
    with world.ledger.begin() as tx:
        tx.lock_spike("payouts", "pay")
    world.spikes["payouts"] = renamed
    closer.close()
    assert closed(world) == []
    assert closed(world, "pay") != []


def test_a_ledger_that_does_not_answer_is_unknown_for_all(world, closer):
    class Down:
        def hours_view(self):
            raise Transient("the ledger database does not answer")

    begun(world)
    for seen in (replace(closer, ledger=Down()).close(), replace(closer, ledger=Down()).look()):
        assert seen["payouts"].problem == "the ledger database does not answer"


def test_a_spike_that_never_read_closes_nothing(world, closer):
    begun(world)
    world.execute("DELETE FROM positions")
    assert closer.close()["payouts"].closed is None


def test_an_hour_from_before_the_spike_closes_where_it_has_files(world, closer):
    driver = begun(world, records=6)
    driver.stage()
    world.settle(driver.spike)
    closer.close()
    assert {HOUR, NEXT_HOUR} <= set(closed(world))


def test_an_older_hour_waits_for_the_one_that_the_spike_began_within(world, closer):
    driver = begun(world, records=6, hours_ago=0)
    driver.stage()
    world.settle(driver.spike)
    assert closer.close()["payouts"].waiting is None
    assert (waiting(world), closed(world)) == ([], [])


def test_the_lateness_of_the_application_file_counts(world, closer):
    driver = begun(world)
    spike = replace(driver.spike, dataset=replace(driver.spike.dataset, lateness=timedelta(days=2)))
    world.spikes["payouts"] = spike
    assert closer.close()["payouts"].closed is None
    assert waiting(world) == []


def test_closing_twice_and_by_two_is_closing_once(world, closer):
    begun(world)
    closer.close()
    first = world.ledger.hour_books("payouts", 9)
    replace(closer).close()
    assert world.ledger.hour_books("payouts", 9) == first


def test_a_look_that_died_after_the_ends_were_written_down_is_gone_on_with(world, closer):
    driver = begun(world, records=6)

    class Dies:
        def __getattr__(self, name):
            return getattr(world.ledger, name)

        def begin(self):
            raise Transient("killed")

    driver.stage()
    world.settle(driver.spike)
    assert replace(closer, ledger=Dies()).close()["payouts"].problem == "killed"
    ends = [c.ends for c in world.ledger.hours_view().datasets["payouts"].waiting]
    arrive(world, driver.spike, 50)
    assert closer.close()["payouts"].closed is not None
    books = world.ledger.hour_books("payouts", 9)
    assert [b.closing.ends for b in books if b.closing] == ends


# late


def late(world, closer):
    """An hour with 4 rows in time, 2 of them in `HOUR`, and 2 late ones."""
    driver = begun(world, records=6)
    driver.stage(dead=1)
    world.settle(driver.spike)
    closer.close()
    arrive(world, driver.spike, 6)
    driver.stage(dead=0, filtered=2)
    world.settle(driver.spike)
    return driver


def book(world, hour=HOUR):
    return next(b for b in world.ledger.hour_books("payouts", 1000) if b.hour == hour)


def test_what_a_live_batch_commits_to_a_closed_hour_is_late_and_listed(world, closer):
    late(world, closer)
    assert (book(world).rows, book(world).late_files, book(world).late_records) == (4, 1, 2)
    (file,) = world.ledger.late_files("payouts", [HOUR])
    assert (file.rows, file.hour, file.added) == (2, HOUR, 2)


def test_a_closed_hour_is_told_once_and_again_when_it_changes(world, closer):
    driver = begun(world, records=6)
    driver.stage()
    world.promoter().promote(driver.spike, limit=100)
    closer.close()
    assert world.ledger.untold_hours(100) == ()  # readers do not see the commit yet
    world.settle(driver.spike)
    untold = world.ledger.untold_hours(100)
    told = {b.hour: b for b in untold}
    assert (told[HOUR].rows, told[HOUR].sequence, told[HOUR].late_files) == (2, 1, 0)
    world.ledger.mark_told({b.closing.id: b.sequence for b in untold})
    assert world.ledger.untold_hours(100) == ()
    arrive(world, driver.spike, 6)
    driver.stage(dead=0, filtered=2)
    world.settle(driver.spike)
    again = {b.hour: b for b in world.ledger.untold_hours(100)}
    assert set(again) == {HOUR, NEXT_HOUR} & set(told)
    assert (again[HOUR].rows, again[HOUR].sequence, again[HOUR].late_records) == (4, 2, 2)


def test_a_change_that_readers_do_not_see_yet_is_not_told(world, closer):
    driver = begun(world, records=6)
    driver.stage()
    world.settle(driver.spike)
    closer.close()
    world.ledger.mark_told({b.closing.id: b.sequence for b in world.ledger.untold_hours(100)})
    arrive(world, driver.spike, 6)
    driver.stage(dead=0, filtered=2)
    world.promoter().promote(driver.spike, limit=100)
    assert world.ledger.untold_hours(100) == ()
    world.settle(driver.spike)
    assert [b.sequence for b in world.ledger.untold_hours(100)] == [2, 2]


def test_an_hour_that_is_closed_by_a_commit_is_told_once_readers_see_it(world, closer):
    driver = begun(world, records=12)
    driver.stage()
    world.settle(driver.spike)
    driver.stage()
    world.promoter().promote(driver.spike, limit=100)
    closer.close()
    assert closed(world)
    assert world.ledger.untold_hours(100) == ()
    world.settle(driver.spike)
    assert {b.sequence for b in world.ledger.untold_hours(100)} == {2}


def test_telling_is_bounded_and_loses_nothing(world, closer):
    driver = begun(world, hours_ago=6)
    closer.close()
    assert closed(world)
    assert world.ledger.untold_hours(9) == ()  # nothing was ever published: readers have no table
    arrive(world, driver.spike, 6)
    driver.stage()
    world.settle(driver.spike)
    closer.close()
    hours = []
    while books := world.ledger.untold_hours(2):
        assert len(books) <= 2
        hours += [b.hour for b in books]
        world.ledger.mark_told({b.closing.id: b.sequence for b in books})
    assert hours == sorted(closed(world))


def test_a_sensors_ticks_close_tell_and_mark_on_a_real_ledger(world, closer):
    class Platform:
        ledger = world.ledger

    def lag(_, cursor, now):
        return dg.SensorResult(asset_events=[], cursor=cursor)

    def tick(cursor):
        return with_closed_hours(Platform(), cursor, lag, world.ledger.now())

    Platform.closer = closer
    driver = begun(world, records=6)
    driver.stage()
    world.settle(driver.spike)
    first = tick(None)
    assert {partition_key(HOUR), partition_key(NEXT_HOUR)} <= {e.partition for e in first.asset_events}
    assert {e.partition for e in tick(None).asset_events} == {e.partition for e in first.asset_events}
    second = tick(first.cursor)
    assert second.asset_events == []
    assert tick(second.cursor).asset_events == tick(None).asset_events == []


# what a rewind takes back


def rewound(world, driver, offset):
    request = Request(f"r-{offset}", Author("ann", "INC-7"))
    operator(world).rewind(driver.spike, to(driver.spike, offset), request)
    world.publisher.publish(driver.spike, world.dataset(driver.spike))


def test_a_rewind_below_what_an_hour_needed_reopens_it_by_name_and_it_closes_again(world, closer):
    driver = late(world, closer)
    before = book(world).closing
    untold = world.ledger.untold_hours(100)
    world.ledger.mark_told({b.closing.id: b.sequence for b in untold})
    rewound(world, driver, 0)
    assert closed(world) == []
    after = book(world).closing
    assert (after.closed_at, after.ends, after.hour) == (None, before.ends, before.hour)
    with world.ledger._engine.connect() as db:
        query = (
            "SELECT o.who, o.kind FROM closings c JOIN operations o ON o.id = c.reopened_by WHERE c.id = %s"
        )
        assert tuple(db.exec_driver_sql(query, (before.id,)).one()) == ("ann", "rewind")
    assert closer.close()["payouts"].closed is None
    again = world.driver(driver.spike, "b")
    again.stage()
    world.settle(driver.spike)
    assert closer.close()["payouts"].closed is not None
    assert HOUR in {b.hour for b in world.ledger.untold_hours(100)}


def test_an_hour_that_was_reopened_is_not_told_until_it_closes_and_is_counted_once(world, closer):
    driver = late(world, closer)
    world.ledger.mark_told({b.closing.id: b.sequence for b in world.ledger.untold_hours(100)})
    rewound(world, driver, 0)
    assert world.ledger.untold_hours(100) == ()
    again = world.driver(driver.spike, "b")
    again.stage()
    world.settle(driver.spike)
    assert world.ledger.untold_hours(100) == ()
    closer.close()
    told = {b.hour: b for b in world.ledger.untold_hours(100)}
    assert told[HOUR] == book(world)
    assert (told[HOUR].rows, told[HOUR].files, told[HOUR].late_files) == (2, 2, 0)


def test_a_rewind_of_what_was_late_leaves_the_hour_closed_and_tells_it_again(world, closer):
    driver = late(world, closer)
    world.ledger.mark_told({b.closing.id: b.sequence for b in world.ledger.untold_hours(100)})
    rewound(world, driver, 6)
    assert HOUR in closed(world)
    told = {b.hour: b for b in world.ledger.untold_hours(100)}
    assert (told[HOUR].rows, told[HOUR].late_files) == (2, 0)


# who wrote what


def written(world):
    return {
        (w.version, w.hour): (w.files, w.records, w.filtered) for w in world.ledger.written_hours("payouts")
    }


def test_live_files_are_counted_by_version_and_hour(world, closer):
    late(world, closer)
    world.execute(
        "UPDATE batches SET application_version = '2.0' WHERE number = (SELECT max(number) FROM batches)"
    )
    assert written(world) == {
        ("1.0", HOUR): (2, 3, 1),
        ("1.0", NEXT_HOUR): (1, 2, 0),
        ("2.0", HOUR): (1, 2, 2),
        ("2.0", NEXT_HOUR): (1, 2, 0),
    }
    assert world.ledger.written_hours("session") == ()
