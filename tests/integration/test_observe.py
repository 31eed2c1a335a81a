"""Watching lag over a real ledger: what is seen, what is kept, and what the consumer group shows."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR
from prometheus_client.parser import text_string_to_metric_families

from spike_pipelines.appender.metrics import Page
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.ports import DriverState, ObservedDriver, Survey
from spike_pipelines.services.drain import Drain, Terms
from spike_pipelines.services.mirror import follow
from spike_pipelines.services.observe import Observer

pytestmark = pytest.mark.real


class Running:
    """A cluster in which every spike has a driver."""

    def __init__(self, world):
        self.world = world

    def drivers(self):
        return tuple(ObservedDriver(name, "a", DriverState.RUNNING, HOUR) for name in self.world.spikes)


@pytest.fixture
def spike(world):
    return world.spike()


@pytest.fixture
def observer(world, spike):
    return Observer(world.ledger, world.broker, Running(world), world.spikes, world.broker)


def committed(world):
    return {p.index: offset for p, offset in world.broker.groups.get("spike.payouts", {}).items()}


def stage(world, spike, batches=2):
    driver = world.driver(spike)
    for _ in range(batches):
        driver.stage()
    return driver


def test_a_look_has_no_effect_and_a_watch_is_kept(world, observer):
    observer.lag()
    assert world.ledger.latest_lag() == {}
    seen = observer.watch()
    assert world.ledger.latest_lag() == {n: replace(r, watermarks=()) for n, r in seen.items()}
    assert "observer" in world.ledger.tally().duties


def test_read_staged_and_committed_lag_are_told_apart(world, spike, observer):
    driver = stage(world, spike)
    world.promoter().promote(spike, limit=1)
    with world.ledger.begin() as tx:
        tx.beat(
            "payouts", 1, driver.token.nonce, phase="reading", problem=None, batch_started_at=None,
            read={next(iter(driver.ends)): 30},
        )  # fmt: skip
    report = observer.lag()["payouts"]
    assert (report.lag, report.staged_lag, report.read_lag) == (94, 88, 70)


def test_a_topic_whose_broker_is_down_is_unknown_and_the_other_spikes_are_not(world, observer):
    other = world.spike("session")
    stage(world, other)
    world.broker.dark = {"payouts-topic"}
    seen = observer.watch()
    assert seen["payouts"].verdict is LagVerdict.UNKNOWN
    assert seen["session"].observed


def test_what_is_old_and_unread_is_told_by_the_retention_of_its_topic(world, spike, observer):
    world.driver(spike)
    world.broker.retention[spike.topic] = world.ledger.now() - HOUR + timedelta(minutes=1)
    assert observer.lag()["payouts"].verdict is LagVerdict.RETENTION_RISK


def test_what_came_before_the_time_that_a_new_spike_starts_at_is_no_lag(world, spike, observer):
    """Nothing was committed, and most of the topic never will be."""
    timed = world.spikes[spike.name] = replace(spike, start=HOUR + timedelta(minutes=1))
    world.broker.delete_records(spike.topic, 0, 40)
    world.broker.append(spike.topic, 0, *[HOUR + timedelta(minutes=2)] * 3)
    report = observer.watch()["payouts"]
    assert (report.lag, report.lost, report.partitions[0].committed_end) == (3, 0, 100)
    world.driver(timed)
    assert observer.lag()["payouts"].lag == 3


def test_where_a_new_spike_begins_is_unknown_if_the_broker_does_not_say(world, spike, observer):
    world.spikes[spike.name] = replace(spike, start=HOUR)

    class Deaf:
        def __getattr__(self, name):
            return getattr(world.broker, name)

        def offsets_at(self, partitions, at):
            return {}

    report = replace(observer, broker=Deaf()).watch()["payouts"]
    assert (report.verdict, report.observed) == (LagVerdict.UNKNOWN, False)
    assert "the offsets at 2026-11-22 21:00Z could not be asked for" in report.sentence


def test_how_fast_a_log_is_deleted_by_size_is_told_by_a_week_of_steps(world, spike, observer):
    world.driver(spike)
    world.broker.by_size.add(spike.topic)
    for start in (0, 5, 10, 15, 20):
        world.broker.delete_records(spike.topic, 0, start)
        observer.watch()
        world.execute("UPDATE positions SET committed_end = 30, staged_end = 30")
        world.execute("UPDATE lag_history SET at = at - interval '1 hour'")
        # each look to slots of its own: two rows of one slot are refused, if but for a moment
        world.execute(f"UPDATE lag_history SET slot = slot + {2000 * (start + 1)} WHERE slot < 2000")
    world.execute("UPDATE lag_history SET at = at + interval '1 hour'")
    report = observer.lag()["payouts"]
    assert report.time_to_loss_seconds == pytest.approx(2 * 3600, abs=60)
    world.broker.by_size.clear()
    assert observer.lag()["payouts"].time_to_loss_seconds is None


def test_what_is_staged_and_deleted_by_kafka_waits_to_be_committed(world, spike, observer):
    stage(world, spike)
    world.broker.delete_records(spike.topic, 0, 12)
    world.broker.truncate(spike.topic, 0, 12)
    world.execute("UPDATE batches SET staged_at = staged_at - interval '2 h'")
    world.execute("UPDATE epochs SET opened_at = opened_at - interval '3 h'")
    report = observer.watch()["payouts"]
    assert (report.verdict, report.lag, report.lost) == (LagVerdict.STALLED, 0, 0)
    assert report.lag_seconds == pytest.approx(7200, abs=60)


def test_a_crash_loop_moves_nothing_however_young_its_last_life_is(world, spike, observer):
    for name in "abc":
        world.execute("UPDATE epochs SET opened_at = opened_at - interval '1 h', "
                      "heartbeat_at = heartbeat_at - interval '1 h'")  # fmt: skip
        world.driver(spike, name)
    report = observer.watch()["payouts"]
    assert (report.verdict, report.stalled) == (LagVerdict.STALLED, True)
    assert "nothing moves for 2 h 0 min" in report.sentence


def test_a_partition_that_stands_still_is_told_by_the_looks_before(world, observer):
    """The others drain; the looks at each partition are kept with the report."""
    other = world.spike("session", partitions=2)
    driver = world.driver(other)
    observer.watch()
    world.execute("UPDATE lag_history SET at = at - interval '5 min'")
    world.execute(
        "UPDATE lag_latest SET report = jsonb_set(report, '{ends,0,at}', "
        "to_jsonb((report #>> '{ends,0,at}')::timestamptz - interval '5 min')) WHERE spike = 'session'"
    )
    driver.stage(60, 0, 0, index=1)
    world.settle(other)
    report = observer.watch()["session"]
    assert report.verdict is LagVerdict.FALLING_BEHIND
    assert "in session-topic:0 0.0/s come and 0.0/s are committed" in report.sentence


def test_a_producer_whose_clock_is_ten_minutes_behind_makes_no_spike_late(world, spike, observer):
    """The look before saw the log end before its records."""
    driver = stage(world, spike)
    world.settle(spike)
    before = observer.watch()["payouts"]
    driver.stage(88, 0, 0)
    world.settle(spike)
    stamped = world.ledger.now() - timedelta(minutes=10)
    world.broker.append(spike.topic, 0, *[stamped] * 5)
    report = observer.lag()["payouts"]
    assert report.lag == 5
    assert report.lag_seconds <= (report.at - before.watermarks[-1].asked_at).total_seconds()


def test_a_look_counts_from_when_the_broker_was_first_asked(world, observer, monkeypatch):
    ticks = iter([100.0, 107.5])
    monkeypatch.setattr("spike_pipelines.services.observe.monotonic", lambda: next(ticks))
    (look,) = observer.watch()["payouts"].watermarks
    assert look.at - look.asked_at == timedelta(seconds=7.5)
    assert world.ledger.lag_view(timedelta(0), timedelta(0)).watermarks["payouts"] == (look,)


def test_a_driver_that_ends_well_is_stopped_though_all_is_read(world, spike, observer):
    stage(world, spike)
    world.settle(spike)
    world.broker.truncate(spike.topic, 0, 12)

    class Ended:
        def drivers(self):
            return (ObservedDriver("payouts", "a", DriverState.EXITED, HOUR, exit_code=0),)

    report = replace(observer, cluster=Ended()).lag()["payouts"]
    assert (report.lag, report.verdict) == (0, LagVerdict.STOPPED)


def test_a_loss_stays_in_the_verdict_until_it_is_acknowledged(world, spike, observer):
    world.driver(spike)
    world.broker.delete_records(spike.topic, 0, 40)
    assert observer.watch()["payouts"].verdict is LagVerdict.LOST
    world.execute("UPDATE positions SET committed_end = 100, staged_end = 100")
    assert observer.watch()["payouts"].verdict is LagVerdict.LOST
    assert "40 records were lost" in observer.lag()["payouts"].sentence
    world.ledger.acknowledge_loss("payouts", "ann", "known")
    assert observer.watch()["payouts"].verdict is LagVerdict.IDLE


def test_a_log_that_was_cut_off_is_told_and_a_batch_staged_meanwhile_is_not(world, spike, observer):
    driver = world.driver(spike)
    driver.stage()
    looks = []

    class Moves:
        def __getattr__(self, name):
            return getattr(world.broker, name)

        def survey(self, names, *, elsewhere=False):
            seen = world.broker.survey(names)
            assert elsewhere is bool(looks)
            looks.append(seen)
            if len(looks) == 1:  # between the survey and the look at the ledger
                world.broker.append(spike.topic, 0, *[HOUR] * 20)
                driver.ends = dict.fromkeys(driver.ends, 6)
                driver.stage(100, 0, 0)
            return seen

    assert replace(observer, broker=Moves()).lag()["payouts"].verdict is not LagVerdict.LOST
    assert len(looks) == 2
    world.broker.truncate(spike.topic, 0, 100)
    report = observer.watch()["payouts"]
    assert (report.verdict, report.partitions[0].cut_off) == (LagVerdict.LOST, 6)
    assert "--to payouts-topic:0:100" in report.sentence


def test_a_topic_made_again_is_told(world, spike, observer):
    world.driver(spike)
    world.broker.delete(spike.topic)
    world.broker.create(spike.topic)
    report = observer.watch()["payouts"]
    assert (report.verdict, report.topic_changed) == (LagVerdict.TOPIC_CHANGED, True)


def test_a_topic_that_is_gone_is_asked_for_again_and_then_told(world, spike, observer):
    """A broker that is behind does not know a topic for a moment."""
    world.driver(spike)

    class Late:
        asked = 0

        def __getattr__(self, name):
            return getattr(world.broker, name)

        def survey(self, names, *, elsewhere=False):
            self.asked += 1
            assert elsewhere is (self.asked > 1)
            return Survey({}, {}) if self.asked == 1 else world.broker.survey(names)

    assert replace(observer, broker=Late()).lag()["payouts"].observed
    world.broker.delete(spike.topic)
    report = observer.watch()["payouts"]
    assert (report.verdict, report.topic_changed) == (LagVerdict.TOPIC_CHANGED, True)
    assert "create it again" in report.sentence


def test_why_an_age_could_not_be_read_is_in_the_sentence(world, spike, observer):
    world.driver(spike)

    class Deaf:
        def __getattr__(self, name):
            return getattr(world.broker, name)

        def first_records_after(self, offsets):
            raise Transient("Kafka at b:9092 did not answer")

    report = replace(observer, broker=Deaf()).lag()["payouts"]
    assert report.verdict is LagVerdict.UNKNOWN
    assert "could not be read: payouts-topic:0: Kafka at b:9092 did not answer" in report.sentence


def test_the_end_of_a_transaction_is_no_lag(world, spike, observer):
    world.driver(spike)
    world.execute("UPDATE positions SET committed_end = 100, staged_end = 100")
    world.broker.append_control(spike.topic, 0)
    assert observer.lag()["payouts"].verdict is LagVerdict.IDLE


def test_a_ledger_that_is_down_is_unknown_for_all_and_nothing_is_raised(world, spike, observer):
    class Down:
        def lag_view(self, history, restarts):
            raise Transient("the ledger database does not answer")

    seen = replace(observer, ledger=Down()).watch()
    assert {r.verdict for r in seen.values()} == {LagVerdict.UNKNOWN}
    assert "the ledger database does not answer" in seen["payouts"].sentence


# the mirror


def test_each_commit_of_an_appender_run_is_in_the_consumer_group(world, spike):
    stage(world, spike)
    run(world)
    assert committed(world) == {0: 12}


def test_a_commit_is_in_the_group_though_its_publication_fails(world, spike):
    class Down:
        def publish(self, spike, state):
            raise Transient("the catalog does not answer")

    stage(world, spike)
    (trouble,) = run(world, publisher=Down())
    assert "the catalog does not answer" in trouble.message
    assert world.dataset(spike).published == 0
    assert committed(world) == {0: 12}


def test_what_was_committed_before_a_promotion_failed_is_in_the_group(world, spike):
    class Fails:
        def promote(self, spike, *, limit):
            world.promoter("run").promote(spike, limit=1)
            raise Transient("S3 does not answer")

    stage(world, spike)
    (trouble,) = run(world, promoter=Fails())
    assert "S3 does not answer" in trouble.message
    assert committed(world) == {0: 6}


def test_the_group_follows_a_rewind(world, spike, observer):
    stage(world, spike)
    world.settle(spike)
    observer.watch()
    assert committed(world) == {0: 12}
    world.execute("UPDATE positions SET committed_end = 6, staged_end = 6")
    observer.watch()
    assert committed(world) == {0: 6}


def test_a_group_that_is_right_is_not_written_again(world, spike, observer):
    stage(world, spike)
    world.settle(spike)
    observer.watch()
    world.broker.groups.clear()
    observer.watch()
    assert world.broker.groups == {}


def test_each_day_a_group_that_does_not_change_is_written_again(world, spike, observer):
    """Kafka forgets the offsets of a group without members after `offsets.retention.minutes`."""
    stage(world, spike)
    world.settle(spike)
    observer.watch()
    world.broker.groups.clear()
    world.execute("UPDATE lag_latest SET observed_at = observed_at - interval '1 day'")
    observer.watch()  # the first look of a day: what the group has is not known any more
    observer.watch()
    assert committed(world) == {0: 12}


def test_a_mirror_that_fails_delays_no_commit_and_is_set_right_by_the_next_look(world, spike, observer):
    class Down:
        def mirror(self, groups):
            raise Transient("Kafka is down")

    stage(world, spike)
    run(world, mirror=Down())
    assert world.dataset(spike).published == 2
    assert committed(world) == {}
    replace(observer, mirror=Down()).watch()
    observer.watch()
    assert committed(world) == {0: 12}


def test_a_group_that_refused_is_written_again(world, spike, observer):
    class Refuses:
        def mirror(self, groups):
            return dict.fromkeys(groups, "UnknownMemberIdError")

    stage(world, spike)
    world.settle(spike)
    assert follow(Refuses(), world.ledger, spike) is False
    replace(observer, mirror=Refuses()).watch()
    observer.watch()
    assert committed(world) == {0: 12}


def test_offsets_of_a_topic_that_was_deleted_are_not_mirrored_as_the_new_ones(world, spike, observer):
    stage(world, spike)
    world.settle(spike)
    world.broker.delete(spike.topic)
    world.broker.create(spike.topic)
    observer.watch()
    assert committed(world) == {}


def run(world, mirror=None, promoter=None, publisher=None):
    class Now:
        def now(self):
            return world.ledger.now()

    terms = Terms(idle=timedelta(seconds=0.01), poll_seconds=0.002)
    drain = Drain(
        world.ledger, promoter or world.promoter("run"), publisher or world.publisher, world.spikes, Now(),
        terms, "run", mirror or world.broker,
    )  # fmt: skip
    return list(drain.run())


# /metrics


def metrics(world):
    text = Page(world.ledger, keep_seconds=0).text().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_have_the_names_that_dashboards_ask_for(world, spike, observer):
    stage(world, spike)
    world.settle(spike)
    observer.watch()
    world.execute("ANALYZE batches, files")
    seen = metrics(world)
    assert seen["kafka_consumergroup_lag", "spike.payouts", "0", "payouts-topic"] == 88
    assert seen["kafka_consumergroup_current_offset", "spike.payouts", "0", "payouts-topic"] == 12
    assert seen["kafka_topic_partition_current_offset", "0", "payouts-topic"] == 100
    assert seen["kafka_consumergroup_group_sum_lag", "spike", "spike.payouts"] == 88
    assert seen["kafka_consumergroup_group_max_lag_seconds", "spike", "spike.payouts"] > 60
    assert seen["kminion_kafka_consumer_group_topic_lag", "spike.payouts", "payouts-topic"] == 88
    assert seen["spike_lag_records", "payouts", "committed"] == 88
    assert seen["spike_commits_total", "payouts"] == 2
    assert (seen["spike_ledger_batches", "committed"], seen["spike_ledger_files", "live"]) == (2, 6)
    assert seen["spike_objective_seconds", "payouts"] == 30
    assert ("spike_duty_success_timestamp_seconds", "observer") in seen
    assert ("spike_created_timestamp_seconds", "payouts") in seen


def test_exactly_one_verdict_of_a_spike_holds(world, spike, observer):
    report = observer.watch()["payouts"]
    states = {k[2]: v for k, v in metrics(world).items() if k[0] == "spike_verdict"}
    assert set(states) == set(LagVerdict)
    assert {name for name, on in states.items() if on} == {report.verdict}


def test_a_look_that_is_old_gives_unknown_and_no_figures(world, spike, observer):
    observer.watch()
    world.execute("UPDATE lag_latest SET report = jsonb_set(report, '{at}', '\"2026-01-01T00:00:00Z\"')")
    seen = metrics(world)
    assert seen["spike_verdict", "payouts", "UNKNOWN"] == 1
    assert not any(name[0].startswith(("spike_lag", "kafka_")) for name in seen)
    assert ("spike_observed_timestamp_seconds", "payouts") in seen


def test_a_page_is_made_anew_only_after_a_while(world, spike, observer):
    page = Page(world.ledger, keep_seconds=60)
    before = page.text()
    observer.watch()
    assert page.text() == before
