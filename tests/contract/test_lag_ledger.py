"""The ledger's memory of lag, in a real PostgreSQL: rings, losses, what continues, what is counted."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from builders import HOUR, partition

from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.lag import RINGS
from spike_pipelines.domain.arrival import Watermarks
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.lag_history import Ends, Rates, Trend

pytestmark = pytest.mark.real

REPORT = LagReport(
    LagVerdict.OK,
    "10 records and 12 s behind",
    10,
    12.5,
    (PartitionLag(partition(), 0, 10, 12.5, 5, 3, 99.0, 90, 95, 2, 100),),
    at=HOUR,
    topic_id="id-1",
    trend=Trend(60.0, 1.0, 2.0, 3.0, (Rates(1.0, 3.0),)),
    ends=(Ends(HOUR, "id-1", (100,), (90,)),),
    watermarks=(Watermarks(HOUR - timedelta(seconds=2), HOUR, "id-1", (103,)),),
    restarts=("no driver runs",),
)


def lost(records, staged_end=5, index=0):
    start = staged_end + records
    gone = PartitionLag(partition(index), records, 10, 1.0, staged_end=staged_end, log_start=start)
    return replace(REPORT, partitions=(gone,))


def cut_off(log_end, staged_end=20):
    behind = max(staged_end - log_end, 0)
    gone = PartitionLag(partition(), 0, 0, 0.0, staged_end=staged_end, log_end=log_end, cut_off=behind)
    return replace(REPORT, partitions=(gone,))


def count(ledger, table):
    with ledger._engine.connect() as db:
        return db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def view(ledger):
    return ledger.lag_view(timedelta(minutes=10), timedelta(hours=1))


def test_a_report_comes_back_as_it_was_written(ledger):
    ledger.record_lag({"payouts": REPORT})
    assert ledger.latest_lag() == {"payouts": replace(REPORT, watermarks=())}
    assert view(ledger).watermarks == {"payouts": REPORT.watermarks}


def test_writing_the_same_look_again_changes_nothing_but_its_time(ledger):
    ledger.record_lag({"payouts": REPORT})
    ledger.record_lag({"payouts": REPORT})
    assert count(ledger, s.lag_latest) == 1
    assert count(ledger, s.lag_history) <= 4  # two rings, and a minute may have passed in between


def test_a_look_is_a_sample_with_all_its_sums(ledger):
    ledger.record_lag({"payouts": REPORT})
    (sample,) = view(ledger).history["payouts"]
    assert replace(sample, at=HOUR) == REPORT.sample(HOUR)
    assert (sample.log_start, sample.log_end, sample.staged_end, sample.committed_end) == (2, 100, 95, 90)
    assert (sample.log_starts, sample.staged_ends) == ((2,), (95,))


def test_looks_at_partitions_come_back_with_the_next_view(ledger):
    ledger.record_lag({"payouts": REPORT})
    assert view(ledger).ends == {"payouts": REPORT.ends}


def test_a_report_from_before_looks_at_partitions_were_kept_is_still_read(ledger):
    ledger.record_lag({"payouts": REPORT})
    with ledger._engine.begin() as db:
        db.execute(sa.text("UPDATE lag_latest SET report = report - 'ends' #- '{trend,partitions}'"))
    assert view(ledger).ends == {}
    assert ledger.latest_lag()["payouts"].trend.partitions == ()


def test_log_starts_are_looks_on_both_sides_of_each_step(ledger):
    """The ring of a week, of the spikes that were asked for."""
    ledger.record_lag({"payouts": REPORT, "session": REPORT})
    now, h = ledger.now(), s.lag_history
    with ledger._engine.begin() as db:
        row = dict(
            db.execute(sa.select(h).where(h.c.step_seconds == 600, h.c.spike == "payouts")).mappings().one()
        )
        db.execute(sa.delete(h))
        for n, start in enumerate((2, 2, 2, 7, 7, 7, 7, 9)):
            moved = {"log_start": start, "log_starts": [start], "slot": n}
            db.execute(sa.insert(h), [row | moved | {"at": now - timedelta(minutes=10 * (8 - n))}])
        dark = {"topic_id": None, "log_start": 0, "log_starts": [], "slot": 9}
        db.execute(sa.insert(h), [row | dark | {"at": now - timedelta(minutes=45)}])
    looks = ledger.log_starts(["payouts", "session"], now - timedelta(days=7))
    assert set(looks) == {"payouts"}
    seen = [(round((now - x.at).total_seconds() / 60), x.starts) for x in looks["payouts"]]
    assert seen == [(80, (2,)), (60, (2,)), (50, (7,)), (20, (7,)), (10, (9,))]
    assert ledger.log_starts(["payouts"], now) == {}


def test_a_view_has_when_the_newest_epochs_began(world):
    driver = world.driver(world.spike())
    assert len(view(world.ledger).opened["payouts"]) == 1
    assert view(world.ledger).epochs["payouts"].opened_at == view(world.ledger).opened["payouts"][0]
    driver.stage(), driver.stage()
    world.execute("UPDATE batches SET staged_at = staged_at - interval '1 h' WHERE number = "
                  "(SELECT min(number) FROM batches)")  # fmt: skip
    waiting = view(world.ledger).waiting["payouts"]
    assert waiting.newest_staged_at - waiting.oldest_staged_at >= timedelta(hours=1)


def test_what_was_not_observed_is_a_sample_without_figures(ledger):
    ledger.record_lag({"payouts": replace(REPORT, observed=False, partitions=(), topic_id=None)})
    (sample,) = view(ledger).history["payouts"]
    assert (sample.topic_id, sample.lag, sample.lag_seconds) == (None, None, None)


def test_history_never_grows_beyond_its_slots(ledger):
    """A look for every slot that there is, and one round more."""
    h = s.lag_history
    ledger.record_lag({"payouts": REPORT})
    with ledger._engine.begin() as db:
        for step, slots in RINGS:
            row = db.execute(sa.select(h).where(h.c.step_seconds == step).limit(1)).mappings().one()
            others = [dict(row) | {"slot": n} for n in range(slots) if n != row["slot"]]
            db.execute(sa.insert(h), others)
    full = count(ledger, h)
    ledger.record_lag({"payouts": REPORT})
    assert count(ledger, h) == full == sum(slots for _, slots in RINGS)


def test_a_slot_from_long_ago_is_not_the_present(ledger):
    ledger.record_lag({"payouts": REPORT})
    with ledger._engine.begin() as db:
        db.execute(sa.update(s.lag_history).values(at=s.lag_history.c.at - timedelta(hours=3)))
    assert view(ledger).history == {}


def test_samples_for_a_plot_are_minutes_and_before_them_tens_of_minutes(ledger):
    ledger.record_lag({"payouts": REPORT})
    now = ledger.now()
    with ledger._engine.begin() as db:
        h = s.lag_history
        row = dict(db.execute(sa.select(h).where(h.c.step_seconds == 600)).mappings().one())
        db.execute(sa.insert(h), [row | {"slot": row["slot"] - 1, "at": now - timedelta(hours=5)}])
    samples = ledger.lag_samples("payouts", now - timedelta(days=1))
    assert [round((now - x.at).total_seconds() / 3600) for x in samples] == [5, 0]


def test_a_spike_that_nobody_looks_at_is_forgotten_after_a_while(ledger):
    ledger.record_lag({"gone": REPORT})
    with ledger._engine.begin() as db:
        db.execute(sa.update(s.lag_latest).values(observed_at=HOUR - timedelta(days=365)))
    ledger.record_lag({"payouts": REPORT})
    assert set(ledger.latest_lag()) == {"payouts"}
    with ledger._engine.connect() as db:
        assert set(db.execute(sa.select(s.lag_history.c.spike)).scalars()) == {"payouts"}


# losses


def test_a_loss_keeps_when_it_was_first_seen_and_the_most_that_was_missing(ledger):
    ledger.record_lag({"payouts": lost(4)})
    first = view(ledger).losses["payouts"]
    assert (first.records, first.detail) == (4, "events:0[5,9)")
    for records in (6, 2, 0):
        ledger.record_lag({"payouts": lost(records)})
    standing = view(ledger).losses["payouts"]
    assert (standing.records, standing.seen_at) == (6, first.seen_at)


def test_a_second_loss_before_the_first_is_acknowledged_adds_to_it(ledger):
    """The first was accepted, the spike went on behind it and fell behind again: fewer records, others."""
    ledger.record_lag({"payouts": lost(4)})
    for again in (lost(3, 20), lost(3, 20), lost(2, 0, index=1)):
        ledger.record_lag({"payouts": again})
    standing = view(ledger).losses["payouts"]
    assert (standing.records, standing.detail) == (9, "events:0[5,9), events:0[20,23), events:1[0,2)")
    assert ledger.acknowledge_loss("payouts", "ann", "both known").records == 9


def test_a_log_that_was_cut_off_and_grew_again_stays_lost_until_it_is_acknowledged(ledger):
    """What stands at these offsets now was never read: nothing has healed."""
    ledger.record_lag({"payouts": cut_off(log_end=17)})
    ledger.record_lag({"payouts": cut_off(log_end=18)})
    ledger.record_lag({"payouts": cut_off(log_end=25)})
    standing = view(ledger).losses["payouts"]
    assert (standing.records, standing.detail) == (3, "events:0[17,20) cut off")


def test_one_look_at_a_broker_that_is_behind_is_no_loss(ledger):
    """Its log seems to end below what is staged; by the next look it has caught up."""
    for end in (17, 25, 17, 25):
        ledger.record_lag({"payouts": cut_off(log_end=end)})
        assert view(ledger).losses == {}


def test_a_look_from_before_an_acknowledgement_does_not_lose_the_same_again(ledger):
    """`spike ack` came between its view of the ledger and its writing."""
    early = replace(lost(4), at=ledger.now())
    ledger.record_lag({"payouts": early})
    ledger.acknowledge_loss("payouts", "ann", "known")
    ledger.record_lag({"payouts": early})
    assert view(ledger).losses == {}
    ledger.record_lag({"payouts": replace(lost(6), at=early.at)})
    assert view(ledger).losses["payouts"].detail == "events:0[9,11)"


def test_a_look_from_after_an_acknowledgement_that_still_finds_the_loss_is_a_new_one(ledger):
    ledger.record_lag({"payouts": lost(4)})
    ledger.acknowledge_loss("payouts", "ann", "known")
    ledger.record_lag({"payouts": replace(lost(4), at=ledger.now())})
    assert view(ledger).losses["payouts"].records == 4


def test_a_loss_that_was_written_before_ranges_were_kept_is_not_made_smaller(ledger):
    ledger.record_lag({"payouts": lost(6)})
    with ledger._engine.begin() as db:
        db.execute(sa.update(s.losses).values(ranges=[]))
    ledger.record_lag({"payouts": lost(1, 20)})
    assert view(ledger).losses["payouts"].records == 6


def test_a_loss_is_acknowledged_once_and_by_name(ledger):
    ledger.record_lag({"payouts": lost(4), "session": lost(1)})
    assert ledger.acknowledge_loss("payouts", "ann@host", "test data").records == 4
    assert ledger.acknowledge_loss("payouts", "ann@host", "test data") is None
    assert set(view(ledger).losses) == {"session"}
    with ledger._engine.connect() as db:
        row = db.execute(sa.select(s.losses).where(s.losses.c.spike == "payouts")).mappings().one()
    assert (row["acknowledged_by"], row["why"]) == ("ann@host", "test data")


def test_a_loss_after_an_acknowledged_one_is_a_new_one(ledger):
    ledger.record_lag({"payouts": lost(4)})
    ledger.acknowledge_loss("payouts", "ann", "known")
    ledger.record_lag({"payouts": replace(lost(1), at=ledger.now())})
    assert view(ledger).losses["payouts"].records == 1


# what continues


def test_what_was_committed_lately_continues_and_a_break_is_named(world):
    driver = world.driver(world.spike())
    driver.stage(), driver.stage(), driver.stage()
    world.settle(driver.spike)
    since = world.ledger.now() - timedelta(minutes=10)
    assert world.ledger.recent_breaks(since) == {"payouts": ()}
    world.execute("UPDATE batch_ranges SET start_offset = 7 WHERE start_offset = 6")
    (broken,) = world.ledger.recent_breaks(since)["payouts"]
    assert (broken.expected, broken.found) == (6, 7)


def test_breaks_can_be_asked_for_of_some_spikes(world):
    for name in ("payouts", "session"):
        driver = world.driver(world.spike(name))
        driver.stage()
        world.settle(driver.spike)
    since = world.ledger.now() - timedelta(minutes=10)
    assert set(world.ledger.recent_breaks(since)) == {"payouts", "session"}
    assert set(world.ledger.recent_breaks(since, ["session"])) == {"session"}


def test_ranges_that_do_not_end_at_the_committed_end_are_a_break(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.settle(driver.spike)
    world.execute("UPDATE positions SET committed_end = 5")
    (broken,) = world.ledger.recent_breaks(world.ledger.now() - timedelta(minutes=10))["payouts"]
    assert (broken.expected, broken.found) == (6, 5)


def test_the_first_range_of_late_continues_what_was_committed_before_the_window(world):
    """However long ago: a gap does not hide behind an hour without commits."""
    driver = world.driver(world.spike())
    driver.stage(), driver.stage()
    world.settle(driver.spike)
    world.execute("UPDATE batches SET committed_at = committed_at - interval '1 hour' WHERE number = "
                  "(SELECT min(number) FROM batches)")  # fmt: skip
    since = world.ledger.now() - timedelta(minutes=10)
    assert world.ledger.recent_breaks(since) == {"payouts": ()}
    world.execute("UPDATE batch_ranges SET start_offset = 7 WHERE start_offset = 6")
    (broken,) = world.ledger.recent_breaks(since)["payouts"]
    assert (broken.expected, broken.found) == (6, 7)


def test_the_first_range_of_all_begins_at_the_baseline(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.settle(driver.spike)
    world.execute("UPDATE batch_ranges SET start_offset = 2 WHERE start_offset = 0")
    (broken,) = world.ledger.recent_breaks(world.ledger.now() - timedelta(minutes=10))["payouts"]
    assert (broken.expected, broken.found) == (0, 2)


def test_without_a_commit_lately_there_is_nothing_to_prove(world):
    driver = world.driver(world.spike())
    driver.stage()
    assert world.ledger.recent_breaks(world.ledger.now() - timedelta(minutes=10)) == {}


# what is counted


def test_a_tally_has_what_waits_what_was_committed_and_the_duties(world):
    driver = world.driver(world.spike())
    driver.stage(), driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    world.ledger.succeeded("observer")
    tally = world.ledger.tally()
    assert tally.batches == {("payouts", "staged"): 1}
    assert tally.files == {("payouts", "staged"): 3}
    assert tally.committed == {"payouts": 1}
    assert tally.at - tally.duties["observer"] < timedelta(minutes=1)


@pytest.fixture
def only_analyze(session_ledger):
    """No autovacuum makes the planner's statistics anew in the middle of a test."""

    def autovacuum(said):
        with session_ledger._engine.begin() as db:
            for table in ("batches", "files"):
                db.exec_driver_sql(f"ALTER TABLE {table} {said}")

    autovacuum("SET (autovacuum_enabled = off)")
    yield
    autovacuum("RESET (autovacuum_enabled)")


@pytest.mark.usefixtures("only_analyze")
def test_a_tally_has_about_how_many_rows_of_each_state_there_are_and_counts_none(world):
    """The planner's statistics: what changed since they were made is not in them."""
    driver = world.driver(world.spike(max_staged_batches=9))
    for _ in range(6):
        driver.stage()
    world.promoter().promote(driver.spike, limit=4)
    world.execute("ANALYZE batches, files")
    before = world.ledger.tally().rows
    assert before == {
        ("batches", "committed"): 4,
        ("batches", "staged"): 2,
        ("files", "live"): 12,
        ("files", "staged"): 6,
    }
    world.promoter().promote(driver.spike, limit=2)
    assert world.ledger.tally().rows == before
    world.execute("ANALYZE batches, files")
    assert world.ledger.tally().rows == {("batches", "committed"): 6, ("files", "live"): 18}


def test_a_tally_has_how_long_the_appender_took_for_what_it_committed_lately(world):
    """The median and the longest; what was committed long ago, or is still staged, does not count."""
    driver = world.driver(world.spike(max_staged_batches=5))
    for _ in range(5):
        driver.stage()
    assert world.ledger.tally().latencies == {}
    world.promoter().promote(driver.spike, limit=4)
    *three, old, _ = sorted(b.number for b in world.ledger.last_batches("payouts", 9))
    took = "UPDATE batches SET staged_at = committed_at - interval '{} s' WHERE number = {}"
    for number, seconds in zip((*three, old), (2, 4, 9, 99), strict=True):
        world.execute(took.format(seconds, number))
    world.execute(f"UPDATE batches SET committed_at = committed_at - interval '1 h' WHERE number = {old}")
    assert world.ledger.tally().latencies == {"payouts": (4.0, 9.0)}


def test_a_view_has_the_heartbeats_offsets_and_the_reason_why_a_batch_is_held(world):
    driver = world.driver(world.spike())
    driver.stage()
    p = partition()
    with world.ledger.begin() as tx:
        tx.beat(
            "payouts", 1, driver.token.nonce, phase="reading", problem=None, batch_started_at=None,
            read={p: 42},
        )  # fmt: skip
    world.execute("UPDATE batches SET state = 'held', held_reason = 'counts differ'")
    seen = view(world.ledger)
    assert seen.read["payouts"] == {p: 42}
    assert (seen.waiting["payouts"].batches, seen.waiting["payouts"].held_reason) == (1, "counts differ")
    assert set(seen.created) == {"payouts"}
