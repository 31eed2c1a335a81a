"""Hours that are older than the ledger, over a real one: read below where the spike began, each record once,
beside rewinds of before and behind it, and killed anywhere.

Kafka's log below is in no order; one record of far ahead lies early in it, which blinds every lookup for
where an hour ends.
"""

import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from builders import HOUR, NEXT_HOUR, empty
from dying import Dead, Trap, Trapped, expire_leases
from rereading import ALL_GOOD, AS_BEFORE, MENDED, Dying, Reading, backfiller, breaches, mended, replay, rows
from test_operate import ask, operator
from test_swap import producing
from typer.testing import CliRunner

from spike_pipelines.cli import backfill as command
from spike_pipelines.cli.main import app
from spike_pipelines.domain.backfill import Expired
from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.errors import LeaseLost, Refused, Transient
from spike_pipelines.domain.operations import OperationKind
from spike_pipelines.domain.rewind import Earliest, ToOffsets
from spike_pipelines.domain.spike import Start
from spike_pipelines.domain.swap import SwapKind, SwapState
from spike_pipelines.orchestration.backfill import HourFailed, run_backfill
from spike_pipelines.services.backfill import Ask
from spike_pipelines.services.close import Closer
from spike_pipelines.services.swap import Swapper, SwapRefused

pytestmark = pytest.mark.real

A, B = HOUR - timedelta(hours=2), HOUR - timedelta(hours=1)
AHEAD = HOUR + timedelta(hours=50)
BELOW = (
    (A, A, B, A, AHEAD, B, A, B, B, HOUR, A, B, B, B, HOUR, HOUR, B, HOUR, A, HOUR, B),
    (B,) * 7,
)
LIVE = (HOUR, HOUR, NEXT_HOUR, NEXT_HOUR, HOUR, HOUR, HOUR)


def count(hour):
    return sum(log.count(hour) for log in BELOW)


@dataclass
class Seeing(Reading):
    """A record is of the hour of its timestamp in Kafka."""

    topic: str = "payouts-topic"

    def _hour_at(self, index, offset):
        return hour_of(self.world.broker._topics[self.topic].logs[index].records[offset])


def begun(world):
    """A spike that began behind `BELOW`, and has read a batch since."""
    spike = world.spike(start=Start.LATEST, partitions=2, records=0)
    for index, log in enumerate(BELOW):
        world.broker.append(spike.topic, index, *log)
    driver = world.driver(spike)
    world.broker.append(spike.topic, 0, *LIVE)
    driver.stage(4, 2, 1)
    world.settle(spike)
    return driver


@pytest.fixture
def ran(world):
    return begun(world)


def earlier(world, spike, *hours, fates=ALL_GOOD, accept_loss=False, **how):
    """Hours of one run."""
    reading = Seeing(world, fates, **how)
    parts = backfiller(world, reading)
    survey = parts.survey(spike, hours)
    done = [parts.backfill(spike, hour, Ask(ask(), accept_loss), survey) for hour in hours]
    world.settle(spike)
    return done, reading


def pieces(order):
    return [(r.partition.index, r.start, r.end) for r in order.pieces]


def committed(world):
    return {p.index: x.committed_end for p, x in world.ledger.all_positions()["payouts"].items()}


def test_an_hour_older_than_the_ledger_is_read_and_nothing_but_it(world, ran):
    before = rows(world, ran.spike)
    (done,), reading = earlier(world, ran.spike, A)
    assert (done.swap, done.final, done.scanned) == (None, count(A), 19)
    assert [pieces(order) for order in reading.orders] == [[(0, 0, 19)]]
    assert rows(world, ran.spike) == (before[0] + count(A), before[1])
    assert str(done) == (
        f"2026-11-22T19: {count(A)} rows, 0 dead letters, 0 filtered (swap {done.earlier.number}, "
        "below where the spike began)"
    )
    assert breaches(world) == {}


def test_what_lies_below_is_looked_through_once_for_all_hours_of_a_run_and_each_record_is_once(world, ran):
    done, reading = earlier(world, ran.spike, A, B, HOUR, NEXT_HOUR)
    assert [pieces(survey) for survey in reading.surveys] == [[(0, 0, 21), (1, 0, 7)]]
    assert [one.final for one in done] == [count(A), count(B), 5 + count(HOUR), 2]
    assert rows(world, ran.spike) == (sum(map(len, BELOW)) - 1 + 7, 0), "all but the one of far ahead"
    assert breaches(world) == {}


def test_an_hour_that_the_spike_began_within_gets_both_parts(world, ran):
    (done,), reading = earlier(world, ran.spike, HOUR, fates=AS_BEFORE)
    assert [swap.kind for swap in done.swaps] == [SwapKind.BACKFILL, SwapKind.EARLIER]
    assert [pieces(order) for order in reading.orders] == [[(0, 21, 28)], [(0, 9, 20)]]
    assert f"(swap {done.swap.number} and {done.earlier.number}, below where" in str(done)
    assert breaches(world) == {}


def test_from_then_on_the_hour_is_backfilled_like_any_other(world, ran):
    for fates in (AS_BEFORE, MENDED, ALL_GOOD):
        done, reading = earlier(world, ran.spike, A, HOUR, B, fates=fates)
        assert breaches(world) == {}
    assert reading.surveys == []
    assert [one.earlier for one in done] == [None] * 3
    assert [one.final for one in done] == [count(A), 5 + count(HOUR), count(B)]
    assert [pieces(order) for order in reading.orders][1] == [(0, 9, 20), (0, 21, 28)]


def test_hours_that_nobody_has_records_of_are_empty_and_cost_a_look_only(world, ran):
    (done,), reading = earlier(world, ran.spike, A - timedelta(hours=1))
    assert str(done) == "2026-11-22T18: empty, nothing was ever read for it"
    assert (len(reading.surveys), reading.orders) == (1, [])


def test_an_hour_long_after_the_spike_began_is_not_looked_for_below(world, ran):
    world.execute("UPDATE batches SET committed_at = '2026-11-22 20:30:00+00'")
    done, reading = earlier(world, ran.spike, HOUR, NEXT_HOUR)
    assert [pieces(survey) for survey in reading.surveys] == [[(0, 4, 21)]]
    assert reading.surveys[0].until == NEXT_HOUR
    assert done[0].earlier is not None


def test_a_spike_that_has_read_nothing_has_no_older_hours(world):
    spike = world.spike(start=Start.LATEST, records=9)
    world.driver(spike)
    assert backfiller(world).older(spike, [HOUR]) == ((), ())


def test_dead_letters_of_an_older_hour_can_be_replayed_and_found(world, ran):
    (done,), _ = earlier(world, ran.spike, A, fates=AS_BEFORE)
    files = world.ledger.dead_letter_files("payouts", A, B, 9)
    assert sum(f.rows for f in files) == done.dead_letter > 0
    swap = replay(world, ran.spike, producing(world, ran.spike, final=done.dead_letter), files)
    assert world.ledger.sources("payouts")[swap.batch] == {done.earlier.batch}
    assert world.ledger.covering("payouts-topic", 0, 0) == (done.earlier.batch,)


def test_a_replay_of_several_hours_keeps_none_of_them_from_being_backfilled(world, ran):
    earlier(world, ran.spike, A, fates=AS_BEFORE)
    files = world.ledger.dead_letter_files("payouts", None, None, 9)
    assert {f.hour for f in files} == {A, HOUR}
    mended(world, ran.spike, files)
    assert breaches(world) == {}
    (done,), reading = earlier(world, ran.spike, HOUR)
    assert (done.swap.state, pieces(reading.orders[0])) == (SwapState.SWAPPED, [(0, 21, 28)])
    assert breaches(world) == {}


def test_what_another_dataset_would_lack_of_it_is_known(world, ran):
    earlier(world, ran.spike, A)
    assert [(r.start, r.end) for r in world.ledger.fed_ranges("payouts", A)] == [(0, 19), (21, 28)]


def test_a_look_that_is_refused_fails_the_older_hours_alone(world, ran):
    class Compacted(Seeing):
        def survey(self, order, keep_alive):
            found = Seeing.survey(self, order, keep_alive)
            return replace(found, scanned=found.scanned - 1)

    world.execute("UPDATE batches SET committed_at = '2026-11-22 20:30:00+00'")
    platform = SimpleNamespace(
        ledger=world.ledger,
        backfiller=backfiller(world, Compacted(world, ALL_GOOD)),
        publisher=SimpleNamespace(show=lambda _: None),
    )
    spike = replace(ran.spike, dataset=replace(ran.spike.dataset, start=A))
    older, newer = run_backfill(platform, spike, (HOUR, NEXT_HOUR), Ask(ask()), lambda _: None)
    assert older == HourFailed(HOUR, "read 16 records from 17 offsets")
    assert (newer.hour, newer.final) == (NEXT_HOUR, 2)
    world.settle(ran.spike)
    assert breaches(world) == {}


# beside a rewind


def test_a_rewind_to_below_the_begin_takes_along_what_was_read_there(world, ran):
    earlier(world, ran.spike, A, B)
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 12}), ask())
    assert committed(world) == {0: 0, 1: 0}, "hours lie within each other: whole ones are taken back"
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (0, 0)
    assert breaches(world) == {}
    assert earlier(world, ran.spike, A, B)[0][0].swaps == ()
    assert breaches(world) == {}


def test_a_rewind_that_stays_behind_what_was_read_there_leaves_it(world, ran):
    earlier(world, ran.spike, A)
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 19}), ask())
    assert committed(world) == {0: 19, 1: 7}
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (count(A), 0)
    assert breaches(world) == {}
    (done,), _ = earlier(world, ran.spike, B)
    assert done.final == count(B) - 1, "the last one of them is the live stream's now"
    assert breaches(world) == {}


def test_a_rewind_of_live_batches_takes_along_older_hours_that_a_backfill_tied_to_them(world, ran):
    earlier(world, ran.spike, A, HOUR)
    earlier(world, ran.spike, HOUR)
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 21}), ask())
    assert committed(world) == {0: 0, 1: 7}
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (0, 0)
    assert breaches(world) == {}


def test_a_rewind_to_the_earliest_leaves_hours_that_cannot_be_read_again(world, ran):
    earlier(world, ran.spike, A)
    world.broker.delete_records(ran.spike.topic, 0, before=5)
    operator(world).rewind(ran.spike, Earliest(), ask())
    assert committed(world) == {0: 19, 1: 0}
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (count(A), 0)
    assert breaches(world) == {}


def test_a_rewind_while_an_older_hour_is_read_wins(world, ran):
    def rewind():
        operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 10}), ask())

    with pytest.raises(SwapRefused, match="taken into the live stream by a rewind meanwhile"):
        earlier(world, ran.spike, A, meanwhile=rewind)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == (0, 0)
    assert breaches(world) == {}


def test_a_rewind_between_the_look_and_the_plan_wins_too(world, ran):
    parts = backfiller(world, Seeing(world))
    survey = parts.survey(ran.spike, [A])
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 10}), ask())
    with pytest.raises(Refused, match="was taken into the live stream meanwhile, by a rewind"):
        parts.backfill(ran.spike, A, Ask(ask()), survey)


def test_of_two_that_looked_at_once_the_second_reads_nothing(world, ran):
    first, second = (backfiller(world, Seeing(world, ALL_GOOD)) for _ in range(2))
    surveys = [one.survey(ran.spike, [A]) for one in (first, second)]
    assert first.backfill(ran.spike, A, Ask(ask()), surveys[0]).earlier is not None
    assert second.backfill(ran.spike, A, Ask(ask()), surveys[1]).earlier is None
    world.settle(ran.spike)
    assert breaches(world) == {}


# beside closed hours


@pytest.fixture
def closer(world, ran):
    """Of a spike that has been there for three hours."""
    world.execute("UPDATE spikes SET created_at = clock_timestamp() - interval '3 hours'")
    return Closer(world.ledger, world.broker, world.broker, world.spikes)


def book(world, hour):
    return next(b for b in world.ledger.hour_books("payouts", 99) if b.hour == hour)


def is_closed(world, hour):
    return book(world, hour).closing.closed_at is not None


def test_a_rewind_that_takes_an_older_hour_back_reopens_it_until_the_live_stream_has_read_it(
    world, ran, closer
):
    earlier(world, ran.spike, B)
    closer.close()
    before = book(world, B)
    assert is_closed(world, B)
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {1: 6}), ask())
    world.settle(ran.spike)
    assert closer.close()["payouts"].closed is None
    assert (book(world, B).rows, book(world, B).closing.ends) == (0, before.closing.ends)
    again = world.driver(ran.spike, "b")
    for index, records in ((0, 26), (1, 7)):
        again.stage(records, 0, 0, index=index)
        world.settle(ran.spike)
    closer.close()
    assert is_closed(world, B)


def test_records_of_below_are_late_in_a_closed_hour_until_a_swap_or_a_rewind_takes_them(world, ran, closer):
    closer.close()
    assert is_closed(world, HOUR)
    earlier(world, ran.spike, HOUR, fates=AS_BEFORE)
    assert book(world, HOUR).late_records == count(HOUR)
    earlier(world, ran.spike, HOUR)
    assert (book(world, HOUR).late_records, is_closed(world, HOUR)) == (0, True), "as any late file replaced"
    operator(world).rewind(ran.spike, ToOffsets("payouts-topic", {0: 10}), ask())
    world.settle(ran.spike)
    assert (book(world, HOUR).late_records, is_closed(world, HOUR)) == (0, False)


# what Kafka no longer has


def test_an_hour_that_kafkas_log_begins_within_is_refused_unless_its_loss_is_accepted(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    with pytest.raises(
        Expired, match=r"begins with nothing that is older \(payouts-topic:0 at 3\), so more of it may"
    ):
        earlier(world, ran.spike, A)
    (done,), _ = earlier(world, ran.spike, A, accept_loss=True)
    assert done.final == count(A) - 2
    (told,) = world.ledger.operations("payouts", 9)
    assert (told.kind, told.author.who) == (OperationKind.ACCEPT_LOSS, "ann@desk")
    assert f"swap {done.earlier.number} backfills 2026-11-22T19 though Kafka's log begins" in told.summary
    assert breaches(world) == {}


@pytest.mark.parametrize(
    ("gone", "hour", "left"),
    [((0, 5), A, 3), ((0, 19), A, 0), ((1, 7), B, 9), ((1, 3), B, 13)],
    ids=["it begins with another hour", "nothing is left", "nothing in one partition", "a part of one"],
)
def test_what_may_be_gone_of_an_hour_is_a_loss_wherever_the_log_begins(world, ran, gone, hour, left):
    index, before = gone
    world.broker.delete_records(ran.spike.topic, index, before=before)
    with pytest.raises(Expired, match=rf"\(payouts-topic:{index} at {before}\), so more of it may be gone"):
        earlier(world, ran.spike, hour)
    assert world.ledger.swaps("payouts", 9) == ()
    (done,), _ = earlier(world, ran.spike, hour, accept_loss=True)
    assert (done.final, bool(done.earlier)) == (left, left > 0)
    (told,) = world.ledger.operations("payouts", 9)
    assert told.kind is OperationKind.ACCEPT_LOSS
    assert f"payouts-topic:{index} at {before}" in told.summary
    assert breaches(world) == {}


@pytest.fixture
def say(world, ran, monkeypatch):
    """`spike backfill payouts`, as typed."""
    spike = replace(ran.spike, dataset=replace(ran.spike.dataset, start=A))
    platform = SimpleNamespace(
        spikes={"payouts": spike}, ledger=world.ledger, backfiller=backfiller(world, Seeing(world, ALL_GOOD))
    )
    monkeypatch.setattr(command, "Platform", lambda: platform)
    return lambda *words: CliRunner().invoke(app, ["backfill", "payouts", *words])


def test_a_dry_run_names_what_may_be_gone_of_older_hours_as_the_run_itself_does(world, ran, say):
    world.broker.delete_records(ran.spike.topic, 1, before=3)
    with pytest.raises(Expired) as refused:
        earlier(world, ran.spike, B)
    hours = ("--from", f"{B:%Y-%m-%dT%H}", "--to", f"{HOUR:%Y-%m-%dT%H}")
    looked = say(*hours, "--dry-run")
    assert (looked.exit_code, looked.stderr) == (1, f"spike: {refused.value}\n")
    assert "(payouts-topic:1 at 3)" in looked.stderr
    assert "--accept-loss --why" in looked.stderr
    accepted = say(*hours, "--dry-run", "--accept-loss", "--why", "all there is")
    assert accepted.exit_code == 0, accepted.output
    assert f"{B:%Y-%m-%dT%H}: Kafka's log begins with nothing that is older" in accepted.output
    assert world.ledger.operations("payouts", 9) == world.ledger.swaps("payouts", 9) == ()


def test_a_log_that_begins_with_the_end_of_a_transaction_may_have_lost_what_was_before_it(world):
    spike = replace(world.spike(start=Start.LATEST, records=0), topic_has_gaps=True)
    world.broker.append(spike.topic, 0, A, A)
    world.broker.append_control(spike.topic, 0)
    world.broker.append(spike.topic, 0, A, A)
    driver = world.driver(spike)
    world.broker.append(spike.topic, 0, *LIVE)
    driver.stage(4, 2, 1)
    world.settle(spike)
    world.broker.delete_records(spike.topic, 0, before=2)
    with pytest.raises(Expired, match="more of it may be gone"):
        earlier(world, spike, A)


def test_of_an_hour_that_was_cut_not_even_its_live_part_changes_unless_the_loss_is_accepted(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=9)
    with pytest.raises(Expired, match=r"\(payouts-topic:0 at 9\)"):
        earlier(world, ran.spike, HOUR)
    assert world.ledger.swaps("payouts", 9) == ()
    (done,), _ = earlier(world, ran.spike, HOUR, accept_loss=True)
    assert (len(done.swaps), done.final) == (2, 5 + count(HOUR))
    assert breaches(world) == {}


def test_of_an_hour_that_begins_behind_older_records_nothing_is_thought_lost(world, ran):
    world.broker.delete_records(ran.spike.topic, 0, before=3)
    (done,), _ = earlier(world, ran.spike, HOUR)
    assert done.final == 5 + count(HOUR)
    assert world.ledger.operations("payouts", 9) == ()
    assert breaches(world) == {}


@dataclass
class Short(Seeing):
    """Compaction takes a record between the look and the read."""

    def reread(self, order, keep_alive):
        self.lose = 1
        return Seeing.reread(self, order, keep_alive)


@pytest.mark.parametrize("gaps", [False, True])
def test_an_older_hour_is_refused_unless_all_that_was_counted_is_found(world, ran, gaps):
    spike = replace(ran.spike, topic_has_gaps=gaps)
    why = "found 5 records of the hour, the ledger has 6" if gaps else "read 18 records from 19 offsets"
    assert count(A) == 6
    with pytest.raises(SwapRefused, match=why):
        backfiller(world, Short(world, ALL_GOOD)).backfill(spike, A, Ask(ask()))
    assert world.ledger.open_swaps("payouts") == ()
    assert breaches(world) == {}


# the audit


def test_the_audit_tells_of_an_older_hour_that_the_live_stream_reads_too(world, ran):
    earlier(world, ran.spike, A)
    world.execute("UPDATE positions SET baseline = 18 WHERE partition = 0")
    assert "payouts: swap 1 read what" in str(breaches(world)["I2"]).replace(
        str(world.ledger.swaps("payouts", 1)[0].number), "1"
    )


def test_the_audit_tells_of_an_hour_that_was_read_twice(world, ran):
    (first, second), _ = earlier(world, ran.spike, A, B)
    world.execute(f"UPDATE swaps SET since = '{A}' WHERE number = {second.earlier.number}")
    assert "payouts: 2026-11-22T19 was read 2 times below where the spike began" in breaches(world)["I2"]
    assert first.earlier is not None


def test_the_deep_audit_tells_of_a_record_that_two_older_hours_have(world, ran):
    class Wrong(Seeing):
        def _hour_at(self, index, offset):
            return hour if (index, offset) == (0, 2) else Seeing._hour_at(self, index, offset)

    for hour in (A, B):
        backfiller(world, Wrong(world, ALL_GOOD)).backfill(ran.spike, hour, Ask(ask()))
    world.settle(ran.spike)
    (found,) = breaches(world).values()
    assert [b.partition(" in batch")[0] for b in found] == ["partition 0 offset 2 is there again"]


# killed anywhere


@pytest.mark.parametrize(
    ("after", "error"), [(False, Dead), (True, Transient)], ids=["killed before it", "no answer to it"]
)
def test_whatever_effect_it_dies_at_nothing_shows_and_the_next_one_ends_it(world, after, error):
    for at in range(1, 100):
        empty(world.ledger)
        fresh = type(world)(world.ledger)
        spike = begun(fresh).spike
        trap = Trap(None, at, after, error)
        trapped = Trapped(fresh, trap)
        dying = replace(
            backfiller(fresh, Dying(Seeing(fresh, ALL_GOOD), trap)),
            ledger=trapped.ledger,
            swapper=Swapper(trapped.ledger, trapped.promoter()),
        )
        with contextlib.suppress(error, LeaseLost):
            dying.backfill(spike, A, Ask(ask()))
        place = f"died {'after' if after else 'before'} effect {at}"
        if not trap.sprung:
            assert at > 8
            return
        live = fresh.ledger.live_files("payouts", fresh.dataset(spike).sequence)
        assert sum(f.rows for f in live) in {6, 6 + count(A)}, place
        expire_leases(fresh)
        earlier(fresh, spike, A)
        assert fresh.ledger.open_swaps("payouts") == (), place
        assert [s.state for s in fresh.ledger.swaps("payouts", 9)].count(SwapState.SWAPPED) in {1, 2}, place
        assert rows(fresh, spike) == (4 + count(A), 2), place
        assert breaches(fresh) == {}, place
    pytest.fail("a backfill has no bound")
