"""How far behind, over time, and what to call it: every case of the issue by its name."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, partition, spike, topic

from spike_pipelines.domain.lag import (
    LagFacts,
    LagVerdict,
    Life,
    Loss,
    Waiting,
    human,
    setting,
    uncommitted,
    unstaged,
)
from spike_pipelines.domain.lag_history import Ends, Sample, kept
from spike_pipelines.domain.lag_verdict import judge
from spike_pipelines.domain.log_start import Look
from spike_pipelines.domain.losses import Missing
from spike_pipelines.domain.offsets import OffsetRange, Position, RecordTime
from spike_pipelines.domain.spike import Start

SPIKE = spike(
    topic="events"
)  # objectives: lag 30 s, warn 20 s, hang 60 s; trigger 5 s; at most 4 staged batches
RUNS = Life(running=True, opened_at=HOUR - timedelta(hours=5))
HOURS = timedelta(hours=1)
WEEK = timedelta(days=7)


def ago(seconds):
    return HOUR - timedelta(seconds=seconds)


def position(index, staged, committed):
    return Position(partition(index), 0, staged, committed)


def facts(committed=100, staged=None, *, end=100, start=0, age=None, unstaged_age=None, **changes):
    """One partition; `age` is of its first uncommitted record, `unstaged_age` of the first unstaged one."""
    staged = committed if staged is None else staged
    first = {} if age is None else {partition(): RecordTime(committed, ago(age))}
    unsafe = age if unstaged_age is None and staged == committed else unstaged_age
    plain = {
        "spike": SPIKE,
        "positions": {partition(): position(0, staged, committed)},
        "topic": topic(end, starts=[start]),
        "first_uncommitted": first,
        "first_unstaged": {} if unsafe is None else {partition(): RecordTime(staged, ago(unsafe))},
        "life": RUNS,
        "read": {},
        "retention": WEEK,
        "last_commit_at": ago(5),
    }
    return LagFacts(**{**plain, **changes})


def waiting(batches=4, oldest=40, held=None, newest=None):
    return Waiting(batches, ago(oldest), ago(oldest if newest is None else newest), held)


def sample(seconds, committed=0, end=0, staged=None, start=0, **changes):
    plain = Sample(
        at=ago(seconds),
        verdict="OK",
        topic_id="id-1",
        log_start=start,
        log_end=end,
        staged_end=committed if staged is None else staged,
        committed_end=committed,
        lag=end - committed,
        staged_lag=0,
        read_lag=0,
        lag_seconds=1.0,
        time_to_loss_seconds=None,
        log_starts=(start,),
        staged_ends=(committed if staged is None else staged,),
    )
    return replace(plain, **changes)


def verdict(seen):
    return judge(seen, HOUR).verdict


# the ladder: the first that matches


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (facts(), LagVerdict.IDLE),
        (facts(90, age=20), LagVerdict.OK),
        (facts(90, age=21), LagVerdict.FALLING_BEHIND),
        (facts(90, age=5, life=Life(running=False)), LagVerdict.STOPPED),
        (facts(90, age=5, life=Life(running=None)), LagVerdict.UNKNOWN),
        (facts(life=Life(running=None)), LagVerdict.UNKNOWN),
        (facts(90, age=None), LagVerdict.UNKNOWN),
        (facts(topic=None), LagVerdict.TOPIC_CHANGED),
        (facts(topic=None, positions={}), LagVerdict.UNKNOWN),
        (facts(topic=None, unobserved="down"), LagVerdict.UNKNOWN),
        (facts(90, age=99, waiting=waiting(), life=Life(running=False)), LagVerdict.BACKPRESSURED),
        (facts(90, age=99, waiting=waiting(), retention=timedelta(seconds=120)), LagVerdict.RETENTION_RISK),
        (facts(90, age=99, waiting=waiting(held="counts differ")), LagVerdict.HELD),
        (
            facts(90, age=99, waiting=waiting(held="x"), topic=topic(5, topic_id="other")),
            LagVerdict.TOPIC_CHANGED,
        ),
        (facts(90, 95, start=96, waiting=waiting(held="x")), LagVerdict.LOST),
    ],
)
def test_the_first_verdict_that_matches_is_the_spikes(seen, expected):
    assert verdict(seen) is expected


def test_the_ladder_is_in_the_order_of_the_verdicts():
    order = list(LagVerdict)
    assert order.index(LagVerdict.LOST) == 0
    assert order[-1] is LagVerdict.UNKNOWN
    assert order.index(LagVerdict.WILL_LOSE) < order.index(LagVerdict.STOPPED) < order.index(LagVerdict.OK)


# bad input and regressions


def test_a_quiet_topic_is_idle_however_long_ago_the_last_commit_was():
    assert verdict(facts(last_commit_at=ago(86_400))) is LagVerdict.IDLE


def test_the_first_records_after_a_quiet_night_are_no_stall():
    assert verdict(facts(90, age=2, last_commit_at=ago(36_000))) is LagVerdict.OK


def test_slow_commits_within_their_trigger_are_no_stall():
    slow = replace(
        SPIKE, trigger=timedelta(minutes=5), objectives=replace(SPIKE.objectives, lag=HOURS, warn=HOURS)
    )
    assert verdict(facts(90, age=600, last_commit_at=ago(600), spike=slow)) is LagVerdict.OK
    assert verdict(facts(90, age=1000, last_commit_at=ago(1000), spike=slow)) is LagVerdict.STALLED


def test_a_tiny_lag_is_ok_and_says_how_small_it_is():
    report = judge(facts(99, age=1), HOUR)
    assert (report.verdict, report.sentence) == (LagVerdict.OK, "1 record and 1 s behind")


def test_a_burst_is_ok_while_its_records_are_young():
    assert verdict(facts(100, end=5_000_000, age=4)) is LagVerdict.OK


def test_a_burst_that_is_being_worked_off_catches_up_and_says_until_when():
    history = (sample(300, committed=0, end=4_000),)
    report = judge(facts(3_000, end=5_000, age=90, history=history), HOUR)
    assert report.verdict is LagVerdict.CATCHING_UP
    assert report.eta_seconds == pytest.approx(2_000 / ((3_000 - 1_000) / 300))
    assert "caught up in 5 min 0 s" in report.sentence


def test_a_full_reprocess_that_outruns_deletion_loses_nothing_however_long_it_takes():
    """First records near the end of their retention, read ten times as fast as they are deleted."""
    age = WEEK.total_seconds() - 3600
    history = (sample(300, end=10**9 - 300_000, time_to_loss_seconds=900.0),)
    report = judge(facts(3_000_000, end=10**9, age=age, history=history), HOUR)
    assert report.verdict is LagVerdict.RETENTION_RISK  # an hour left of a week: somebody should look
    later = (sample(300, end=10**9 - 300_000, time_to_loss_seconds=100_000.0),)
    grows = facts(3_000_000, end=10**9, age=WEEK.total_seconds() - 200_000, history=later)
    assert verdict(grows) is LagVerdict.CATCHING_UP


def test_a_spike_that_never_committed_counts_from_where_it_begins():
    never = {"positions": {}, "last_commit_at": None, "end": 50, "start": 10}
    report = judge(facts(age=3, **never, first_uncommitted={partition(): RecordTime(10, ago(3))}), HOUR)
    assert (report.verdict, report.lag, report.lost) == (LagVerdict.OK, 40, 0)
    latest = judge(facts(**never, spike=replace(SPIKE, start=Start.LATEST)), HOUR)
    assert (latest.verdict, latest.lag) == (LagVerdict.IDLE, 0)


def test_a_new_spike_has_its_time_for_the_first_commit():
    new = {"positions": {}, "last_commit_at": None, "age": 100, "committed": 0}
    young = replace(RUNS, opened_at=ago(50))
    report = judge(facts(**new, created_at=ago(100), life=young), HOUR)
    assert report.verdict is LagVerdict.CATCHING_UP
    assert "it began 1 min 40 s ago and has not committed yet" in report.sentence
    late = judge(facts(**new, created_at=ago(301), life=young), HOUR)
    assert late.verdict is LagVerdict.FALLING_BEHIND


def test_a_first_batch_that_takes_longer_than_any_other_may_is_no_standstill():
    new = {"positions": {}, "last_commit_at": None, "age": 290, "committed": 0}
    slow = replace(RUNS, started_at=ago(280), opened_at=ago(270), tried_at=(ago(280), ago(270)))
    spike = replace(SPIKE, objectives=replace(SPIKE.objectives, hang=timedelta(minutes=1)))
    report = judge(facts(**new, spike=spike, created_at=ago(280), life=slow), HOUR)
    assert (report.verdict, report.stalled) == (LagVerdict.CATCHING_UP, False)
    unseen = replace(slow, running=None)
    assert verdict(facts(**new, spike=spike, created_at=ago(280), life=unseen)) is LagVerdict.UNKNOWN
    again = replace(slow, tried_at=(ago(400), ago(280)))  # it is not the first driver's
    assert verdict(facts(**new, spike=spike, created_at=ago(280), life=again)) is LagVerdict.STALLED


def test_a_new_spike_that_begins_at_a_time_has_no_lag_and_no_loss_before_it():
    timed = replace(SPIKE, start=ago(3600))
    new = {"positions": {}, "last_commit_at": None, "spike": timed, "end": 50, "start": 10}
    first = {partition(): RecordTime(40, ago(3))}
    seen = facts(**new, begins={partition(): 40}, first_uncommitted=first, first_unstaged=first)
    report = judge(seen, HOUR)
    assert (report.verdict, report.lag, report.lost) == (LagVerdict.OK, 10, 0)
    assert uncommitted(timed, {}, topic(50, starts=[10]), {partition(): 40}) == {partition(): 40}
    assert judge(facts(**new, begins={partition(): 50}), HOUR).verdict is LagVerdict.IDLE


def test_a_spike_that_never_committed_and_does_not_run_says_so():
    report = judge(facts(positions={}, last_commit_at=None, life=Life(running=False)), HOUR)
    assert report.verdict is LagVerdict.STOPPED
    assert "nothing was ever committed" in report.sentence


def test_committed_below_the_log_start_is_not_lost_while_the_records_are_staged():
    report = judge(facts(committed=90, staged=96, start=96, age=1, unstaged_age=1), HOUR)
    assert (report.partitions[0].lost, report.lag, report.verdict) == (0, 4, LagVerdict.OK)


def test_a_log_start_beyond_the_staged_end_is_lost_and_says_what_to_do():
    report = judge(facts(committed=10, staged=20, start=25), HOUR)
    assert (report.verdict, report.lost) == (LagVerdict.LOST, 5)
    assert "5 records were deleted by Kafka before they were read" in report.sentence
    assert "spike ack payouts" in report.sentence


def test_a_log_that_ends_below_what_is_staged_is_lost_and_says_what_to_do():
    report = judge(facts(committed=10, staged=20, topic=topic(17)), HOUR)
    assert (report.verdict, report.lost) == (LagVerdict.LOST, 3)
    assert "ends at 17, and 3 offsets beyond it are staged" in report.sentence
    assert "spike rewind payouts --to events:0:17" in report.sentence


def test_a_spike_that_began_beyond_an_open_transaction_and_read_nothing_has_lost_nothing():
    began = {partition(): Position(partition(), 20, 20, 20)}
    assert verdict(facts(positions=began, topic=topic(17))) is LagVerdict.IDLE


def test_a_loss_stays_until_it_is_acknowledged():
    loss = Loss(ago(3600), 5, "events:0[20,25)")
    report = judge(facts(loss=loss), HOUR)
    assert (report.verdict, report.lost) == (LagVerdict.LOST, 5)
    assert "events:0[20,25)" in report.sentence
    assert verdict(facts()) is LagVerdict.IDLE


def test_a_cut_off_log_that_grew_again_is_lost_with_the_rewind_that_reads_what_stands_there():
    cut = Missing(OffsetRange(partition(), 17, 20), cut_off=True)
    report = judge(facts(loss=Loss(ago(3600), 3, str(cut), (cut,))), HOUR)
    assert (report.verdict, report.lost) == (LagVerdict.LOST, 3)
    assert "`spike rewind payouts --to events:0:17` reads it, then `spike ack payouts" in report.sentence


def test_a_second_loss_is_told_together_with_the_one_that_stands():
    noted = Loss(ago(3600), 4, "", (Missing(OffsetRange(partition(), 5, 9)),))
    report = judge(facts(committed=20, staged=20, start=23, loss=noted), HOUR)
    assert report.sentence.startswith("7 records were deleted by Kafka")


def test_a_topic_made_again_is_topic_changed_and_not_lost():
    seen = facts(topic=topic(50, starts=[10], topic_id="other"))
    assert (verdict(seen), judge(seen, HOUR).lost) == (LagVerdict.TOPIC_CHANGED, 0)


def test_after_a_resume_on_the_new_topic_the_old_ones_offsets_do_not_count():
    old = {partition(): position(0, 900, 900)}
    new = partition(topic_id="other")
    seen = facts(positions={**old, new: Position(new, 0, 50, 50)}, topic=topic(50, topic_id="other"))
    assert verdict(seen) is LagVerdict.IDLE


def test_a_partition_that_was_added_lags_from_its_beginning():
    seen = facts(
        topic=topic(100, 7),
        first_uncommitted={partition(1): RecordTime(0, ago(3))},
        first_unstaged={partition(1): RecordTime(0, ago(3))},
    )
    report = judge(seen, HOUR)
    assert (report.verdict, report.lag, report.lost) == (LagVerdict.OK, 7, 0)


def test_an_added_partition_whose_beginning_was_deleted_is_lost():
    assert verdict(facts(topic=topic(100, 9, starts=[0, 4]))) is LagVerdict.LOST


def test_a_transactional_tail_of_control_records_is_idle():
    nothing = {partition(): None}
    report = judge(facts(97, first_uncommitted=nothing, first_unstaged=nothing), HOUR)
    assert (report.verdict, report.lag, report.lag_seconds) == (LagVerdict.IDLE, 0, 0.0)


def test_a_hung_batch_is_stalled_and_says_how_long_it_has_taken():
    life = replace(RUNS, batch_started_at=ago(700))
    report = judge(facts(90, age=700, life=life, last_commit_at=ago(701)), HOUR)
    assert report.verdict is LagVerdict.STALLED
    assert "one batch has taken 11 min 40 s so far" in report.sentence


def test_a_driver_in_trouble_that_moves_nothing_tells_its_own_problem():
    life = replace(RUNS, problem="S3 answers 503")
    report = judge(facts(90, age=700, life=life, last_commit_at=ago(701)), HOUR)
    assert "the driver says: S3 answers 503" in report.sentence


def test_a_driver_that_never_opened_an_epoch_is_stalled_once_it_had_its_time():
    def seen(started):
        life = Life(running=True, started_at=ago(started))
        return facts(positions={}, age=700, last_commit_at=None, life=life,
                     first_uncommitted={partition(): RecordTime(0, ago(700))})  # fmt: skip

    assert verdict(seen(30)) is LagVerdict.FALLING_BEHIND
    report = judge(seen(90), HOUR)
    assert report.verdict is LagVerdict.STALLED
    assert "nothing moves for 1 min 30 s" in report.sentence
    assert "nothing was ever committed" in report.sentence


def test_a_new_epoch_has_its_time_before_it_is_stalled():
    life = replace(RUNS, opened_at=ago(10))
    assert verdict(facts(90, age=700, life=life, last_commit_at=ago(701))) is LagVerdict.FALLING_BEHIND


def test_a_paused_appender_with_short_retention_loses_nothing_that_is_staged():
    """Committed records are long deleted, staged ones are safe in S3, and the rest is young."""
    seen = facts(
        committed=10, staged=90, start=80, age=3600, unstaged_age=2, retention=HOURS, waiting=waiting()
    )
    report = judge(seen, HOUR)
    assert (report.verdict, report.lost) == (LagVerdict.BACKPRESSURED, 0)
    assert "4 batches wait for the appender, the oldest for 40 s" in report.sentence


def test_a_paused_appender_becomes_will_lose_once_what_is_not_staged_gets_old():
    history = (sample(300, committed=10, end=90, staged=90, time_to_loss_seconds=600.0),)
    seen = facts(
        committed=10, staged=90, age=3600, unstaged_age=3300, retention=HOURS, waiting=waiting(),
        history=history,
    )  # fmt: skip
    report = judge(seen, HOUR)
    assert report.verdict is LagVerdict.WILL_LOSE
    assert "Kafka deletes unread records in 5 min 0 s, and it does not catch up" in report.sentence


def test_a_held_batch_says_why_and_where_to_look():
    report = judge(facts(90, age=99, waiting=waiting(1, held="batch 7: 9 rows, 10 announced")), HOUR)
    assert report.verdict is LagVerdict.HELD
    assert "batch 7: 9 rows, 10 announced" in report.sentence
    assert "spike batch list payouts" in report.sentence


def test_backpressure_is_named_before_the_missing_progress_that_follows_from_it():
    seen = facts(90, age=900, waiting=waiting(oldest=900), last_commit_at=ago(900))
    assert verdict(seen) is LagVerdict.BACKPRESSURED
    assert verdict(replace(seen, waiting=None)) is LagVerdict.STALLED


def test_what_is_staged_and_deleted_by_kafka_is_neither_lost_nor_committed():
    """Retention took what is staged: nothing of the log is left to lag, and readers have none of it."""
    deleted = {"committed": 10, "staged": 90, "start": 90, "end": 90, "last_commit_at": ago(7200)}
    report = judge(facts(**deleted, waiting=waiting(2, oldest=7200)), HOUR)
    assert (report.verdict, report.lost, report.lag, report.lag_seconds) == (LagVerdict.STALLED, 0, 0, 7200.0)
    assert "2 batches are staged and not committed, the oldest for 2 h 0 min" in report.sentence
    assert "look at the appender job's runs" in report.sentence
    assert verdict(facts(**deleted, waiting=waiting(4, oldest=7200))) is LagVerdict.BACKPRESSURED
    still = judge(facts(**deleted, waiting=waiting(2, oldest=7200, newest=5)), HOUR)
    assert still.verdict is LagVerdict.FALLING_BEHIND


def test_a_batch_that_waits_for_a_moment_is_ok_and_not_called_committed():
    report = judge(facts(10, staged=90, start=90, end=90, waiting=waiting(1, oldest=2)), HOUR)
    assert (report.verdict, report.sentence) == (LagVerdict.OK, "1 batch is staged for 2 s and not committed")


def test_waiting_batches_that_are_being_committed_catch_up():
    history = (sample(100, committed=10, end=90, staged=90),)
    seen = facts(50, staged=90, start=90, end=90, waiting=waiting(2, oldest=300, newest=200), history=history)
    report = judge(seen, HOUR)
    assert (report.verdict, report.eta_seconds) == (LagVerdict.CATCHING_UP, pytest.approx(40 / 0.4))


def test_a_bound_of_one_batch_is_no_backpressure_while_that_one_is_young():
    one = replace(SPIKE, max_staged_batches=1)
    assert verdict(facts(90, age=3, spike=one, waiting=waiting(1, oldest=2))) is LagVerdict.OK
    assert verdict(facts(90, age=9, spike=one, waiting=waiting(1, oldest=6))) is LagVerdict.BACKPRESSURED


def test_a_verdict_lasts_from_the_second_look_on():
    seen = facts(90, age=9, waiting=waiting())
    assert not judge(replace(seen, history=(sample(60),)), HOUR).lasts
    history = (sample(120), sample(60, verdict="BACKPRESSURED"))
    assert judge(replace(seen, history=history), HOUR).lasts


def test_a_driver_that_starts_again_and_again_and_moves_nothing_is_stalled():
    """Each life is young; the first of them had its time hours ago."""
    tried = tuple(ago(s) for s in range(10_770, 0, -30))
    life = Life(running=True, started_at=ago(10), opened_at=ago(5), tried_at=tried)
    report = judge(facts(90, age=10_800, last_commit_at=ago(10_801), life=life), HOUR)
    assert (report.verdict, report.stalled) == (LagVerdict.STALLED, True)
    assert "nothing moves for 2 h 59 min" in report.sentence


def test_restarts_of_a_quiet_night_take_no_time_from_the_driver_that_reads_its_first_records():
    life = replace(RUNS, started_at=ago(20), opened_at=ago(10), tried_at=(ago(9_000), ago(10)))
    seen = facts(90, age=100, last_commit_at=ago(36_000), life=life)
    assert verdict(seen) is LagVerdict.FALLING_BEHIND


def test_a_driver_that_staged_a_moment_ago_is_not_stalled_however_long_the_appender_takes():
    seen = facts(90, age=900, last_commit_at=ago(900), waiting=waiting(2, oldest=900, newest=1))
    assert verdict(seen) is LagVerdict.FALLING_BEHIND


def test_batches_that_wait_below_the_bound_are_why_nothing_moves():
    seen = facts(90, age=900, waiting=waiting(2, oldest=900), last_commit_at=ago(900))
    assert "2 batches wait for the appender, the oldest for 15 min 0 s" in judge(seen, HOUR).sentence


def test_a_spike_without_a_driver_is_stopped_though_it_has_read_all_there_was():
    """No run of a spike is bounded (`availableNow`): what comes next would not be read."""
    assert verdict(facts(life=Life(running=False))) is LagVerdict.STOPPED
    assert verdict(facts(90, age=1, life=Life(running=False))) is LagVerdict.STOPPED


def test_a_broker_clock_a_little_ahead_gives_no_negative_lag():
    assert judge(facts(90, age=-4), HOUR).lag_seconds == 0


def test_a_clock_far_ahead_is_unknown_and_named_and_never_ok():
    report = judge(facts(90, age=-40), HOUR)
    assert (report.verdict, report.lag_seconds) == (LagVerdict.UNKNOWN, None)
    assert "stamped 40 s in the future" in report.sentence


def test_a_broker_that_is_down_is_unknown_with_the_reason():
    report = judge(facts(topic=None, unobserved="Kafka at b:9092 did not answer"), HOUR)
    assert (report.verdict, report.observed) == (LagVerdict.UNKNOWN, False)
    assert "Kafka at b:9092 did not answer" in report.sentence
    assert (report.sample(HOUR).lag, report.sample(HOUR).topic_id) == (None, None)


def test_a_held_batch_and_an_open_loss_are_known_without_the_broker():
    dark = {"topic": None, "unobserved": "down"}
    assert verdict(facts(**dark, waiting=waiting(1, held="x"))) is LagVerdict.HELD
    assert verdict(facts(**dark, loss=Loss(ago(9), 1, "x"))) is LagVerdict.LOST


def test_a_topic_that_was_never_there_is_unknown_and_says_what_to_do():
    assert "create it" in judge(facts(topic=None, positions={}), HOUR).sentence


@pytest.mark.parametrize("there", [None, topic(100, topic_id="id-2", name="evnets")])
def test_a_slip_in_the_topic_of_the_file_is_told_as_one(there):
    """Nobody is to declare records lost for it."""
    report = judge(facts(spike=replace(SPIKE, topic="evnets"), topic=there), HOUR)
    assert (report.verdict, report.read_topic) == (LagVerdict.TOPIC_CHANGED, "events")
    assert "the application file names topic evnets, and events was read: put events back" in report.sentence
    assert "accept-loss" not in report.sentence


def test_a_topic_that_was_read_and_is_gone_is_topic_changed_and_says_what_to_do():
    report = judge(facts(topic=None), HOUR)
    assert (report.verdict, report.topic_changed, report.observed) == (LagVerdict.TOPIC_CHANGED, True, False)
    assert "was deleted: what was staged of it is safe, what was not read is gone" in report.sentence
    assert "create it again, then `spike resume payouts --accept-loss`" in report.sentence
    assert not judge(facts(topic=None, unobserved="Kafka is down"), HOUR).topic_changed


def test_one_partition_of_unknown_age_makes_the_whole_unknown():
    seen = facts(
        positions={partition(i): position(i, 90, 90) for i in (0, 1)},
        topic=topic(100, 95),
        first_uncommitted={partition(0): RecordTime(90, HOUR)},
    )
    report = judge(seen, HOUR)
    assert (report.verdict, report.lag_seconds) == (LagVerdict.UNKNOWN, None)


def test_a_shortened_retention_is_a_risk_before_anything_is_lost():
    report = judge(facts(90, age=35, retention=timedelta(seconds=60)), HOUR)
    assert report.verdict is LagVerdict.RETENTION_RISK
    assert "in 25 s, the topic keeps 1 min 0 s: raise retention.ms of events" in report.sentence


def test_a_retention_below_three_objectives_is_no_risk_to_a_spike_that_reads_at_once():
    """Else it would be one at every look that finds a record, and idle at the others."""
    for seconds in (20, 60, 89):
        assert verdict(facts(90, age=2, retention=timedelta(seconds=seconds))) is LagVerdict.OK


def test_a_stopped_spike_with_days_of_retention_is_stopped_and_says_how_long_there_is():
    report = judge(facts(90, age=3600, life=Life(running=False)), HOUR)
    assert report.verdict is LagVerdict.STOPPED
    assert "Kafka keeps what is unread for 6 d 23 h more" in report.sentence


# deletion by size: whole segments


def look(seconds, *starts, staged=10**9, topic_id="id-1"):
    return Look(ago(seconds), topic_id, starts, (staged,) * len(starts))


def steps(every, size, *, now=0, count=6, since=0, looks_every=600):
    """What the ring of ten minutes has of a log whose start goes `size` offsets on every `every` seconds, the
    last time `since` seconds ago, and is at `now` at the end."""
    oldest = since + every * count
    moved = [(since + every * n, now - size * n) for n in range(count + 1)]
    at = range(oldest - oldest % looks_every, 0, -looks_every)
    return tuple(look(s, next((start for t, start in moved if t >= s), now - size * count)) for s in at)


def by_size(committed, *, start, looks, **changes):
    plain = {"end": committed + 1_000, "retention": None, "by_size": True, "looks": looks}
    return facts(committed, start=start, **plain | changes)


@pytest.mark.parametrize("every", [300, 3600, 86_400])
@pytest.mark.parametrize("since", [30, 300, 3000])
def test_a_healthy_spike_never_will_lose_whenever_a_segment_is_deleted(every, since):
    """2 s behind; the last look but one was before a whole segment was deleted. By age, or by size."""
    before = sample(60, committed=90_000, end=90_100, start=0, time_to_loss_seconds=WEEK.total_seconds())
    step = {"end": 90_200, "start": 60_000, "age": 2, "history": (before,)}
    assert verdict(facts(90_100, **step)) is LagVerdict.OK
    looks = steps(every, 10_000, now=60_000, since=since)
    assert verdict(facts(90_100, **step, by_size=True, looks=looks)) is LagVerdict.OK


def test_where_only_age_deletes_the_moving_start_forecasts_nothing():
    """The first unstaged record's age does; a step of a log start is a segment that was old enough."""
    seen = facts(50_000, end=60_000, start=40_000, age=3600, looks=steps(3600, 10_000, now=40_000))
    assert judge(seen, HOUR).time_to_loss_seconds == WEEK.total_seconds() - 3600


def test_one_step_or_two_are_no_speed():
    for count in (1, 2):
        seen = by_size(50_000, start=40_000, age=50, looks=steps(3600, 10_000, now=40_000, count=count))
        assert judge(seen, HOUR).time_to_loss_seconds is None


def test_a_log_that_is_deleted_by_size_tells_by_several_steps_when_the_unread_goes():
    """10,000 offsets go every hour, the last time ten minutes ago; 25,000 are left."""
    looks = steps(3600, 10_000, now=40_000, since=600)
    report = judge(by_size(65_000, start=40_000, age=7200, looks=looks), HOUR)
    assert report.time_to_loss_seconds == pytest.approx(2.5 * 3600 - 600)


@pytest.mark.parametrize("since", [600, 1800, 3000])
def test_between_two_steps_the_forecast_comes_nearer_as_evenly_as_time_passes(since):
    report = judge(
        by_size(65_000, start=40_000, age=7200, looks=steps(3600, 10_000, now=40_000, since=since)), HOUR
    )
    assert report.time_to_loss_seconds == pytest.approx(2.5 * 3600 - since)


def test_where_nothing_is_produced_any_more_the_forecast_stands_still():
    """What is deleted by size is deleted when something comes: no spike of a quiet topic is in a hurry."""
    quiet = steps(3600, 10_000, now=40_000, since=86_400)
    report = judge(by_size(65_000, start=40_000, age=90_000, looks=quiet), HOUR)
    assert report.time_to_loss_seconds == pytest.approx(1.5 * 3600)


def test_a_spike_that_stands_still_before_a_start_that_moves_will_lose():
    looks = steps(3600, 10_000, now=40_000, since=600)
    history = (
        sample(300, committed=60_000, end=60_500, start=40_000, time_to_loss_seconds=2 * 3600 - 300.0),
    )
    report = judge(by_size(60_000, start=40_000, age=7200, looks=looks, history=history), HOUR)
    assert report.verdict is LagVerdict.WILL_LOSE
    assert "Kafka deletes unread records in 1 h 50 min" in report.sentence
    assert "raise retention.bytes of events now" in report.sentence


def test_a_spike_that_reads_what_came_a_moment_ago_never_will_lose_however_its_margin_shrinks():
    """In a busy hour logs are deleted faster from look to look; whoever keeps up reads faster still."""
    looks = steps(3600, 10_000, now=40_000, since=600)
    left = 2 * 3600 - 600.0
    history = (sample(300, committed=60_000, end=60_500, start=40_000, time_to_loss_seconds=left + 450),)
    seen = by_size(60_000, start=40_000, looks=looks, history=history)
    for age, expected in ((2, LagVerdict.OK), (50, LagVerdict.WILL_LOSE)):
        first = {partition(): RecordTime(60_000, ago(age))}
        assert verdict(replace(seen, first_uncommitted=first, first_unstaged=first)) is expected


def test_the_partition_whose_log_is_deleted_fastest_is_the_one_that_tells_when_records_are_lost():
    """A hot partition is deleted, the others are not: an average over them would say four times as long."""
    looks = tuple(look(600 * n, 8_000 - 2_000 * n, 0, 0, 0) for n in range(4, 0, -1))
    report = judge(partitions_by_size(looks, 8_000, 0, 0, 0), HOUR)
    assert [p.time_to_loss_seconds for p in report.partitions] == [pytest.approx(600), None, None, None]
    assert report.time_to_loss_seconds == pytest.approx(600)


def partitions_by_size(looks, *starts):
    indexes = [partition(i) for i in range(len(starts))]
    return facts(
        positions={p: Position(p, 0, 10_000, 10_000) for p in indexes},
        topic=topic(*[20_000] * len(starts), starts=starts),
        first_uncommitted={p: RecordTime(10_000, ago(50)) for p in indexes},
        first_unstaged={p: RecordTime(10_000, ago(50)) for p in indexes},
        retention=None, by_size=True, looks=looks,
    )  # fmt: skip


def test_a_partition_that_was_added_meanwhile_has_no_rate_of_deletion_yet():
    looks = tuple(look(600 * n, 8_000 - 2_000 * n) for n in range(4, 0, -1))
    report = judge(partitions_by_size(looks, 8_000, 4_000), HOUR)
    assert [p.time_to_loss_seconds for p in report.partitions] == [pytest.approx(600), None]


def test_a_loss_in_one_partition_forecasts_nothing_and_hides_no_other_partition():
    """The first partition's start jumped beyond all that was staged then; the second's moves on."""
    *before, last = (look(600 * n, 8_000 - 2_000 * n, 8_000 - 2_000 * n) for n in range(4, 0, -1))
    looks = (*before, replace(last, staged_ends=(100, 10**9)))
    report = judge(partitions_by_size(looks, 8_000, 8_000), HOUR)
    assert [p.time_to_loss_seconds for p in report.partitions] == [None, pytest.approx(600)]


def test_log_starts_of_another_topic_of_that_name_are_no_steps():
    looks = tuple(look(600 * n, 8_000 - 2_000 * n, topic_id="other") for n in range(4, 0, -1))
    assert judge(partitions_by_size(looks, 8_000), HOUR).time_to_loss_seconds is None


# one late event


def late_event(*, alone):
    """In a batch that came a moment ago, or in one of its own: then Kafka has no younger time of it."""
    batch = None if alone else ago(2)
    record = {partition(): RecordTime(90, ago(8 * 86_400), batch)}
    return facts(90, first_uncommitted=record, first_unstaged=record)


def test_a_late_event_among_others_is_deleted_with_them():
    report = judge(late_event(alone=False), HOUR)
    assert report.verdict is LagVerdict.OK
    assert report.time_to_loss_seconds == pytest.approx(WEEK.total_seconds() - 2)


def test_a_late_event_alone_in_its_batch_is_no_forecast_of_loss():
    """The margin jumped from a week to nothing: what goes on shrinks by a second in a second."""
    healthy = tuple(sample(s, 80, 90, time_to_loss_seconds=WEEK.total_seconds()) for s in (300, 60))
    for history in ((), healthy, (sample(60, 80, 90),)):
        assert verdict(replace(late_event(alone=True), history=history)) is LagVerdict.RETENTION_RISK


def test_a_margin_that_jumped_counts_from_the_next_look_on():
    """Retention was made shorter while nothing is read."""
    jump = [
        sample(120, 90, 100, time_to_loss_seconds=600_000.0),
        sample(60, 90, 100, time_to_loss_seconds=1_260.0),
    ]
    seen = facts(90, age=2_400, retention=HOURS, history=tuple(jump))
    assert verdict(seen) is LagVerdict.WILL_LOSE
    assert verdict(replace(seen, history=(jump[0],))) is not LagVerdict.WILL_LOSE


def test_a_loss_that_is_due_is_will_lose_for_as_long_as_it_does_not_catch_up():
    """Nothing is left of the margin that could shrink: at its worst it is not taken back."""
    old = [sample(s, committed=90, end=100, time_to_loss_seconds=0.0) for s in (300, 100)]
    due = facts(90, age=WEEK.total_seconds() + 60, history=tuple(old))
    report = judge(due, HOUR)
    assert (report.time_to_loss_seconds, report.verdict) == (0.0, LagVerdict.WILL_LOSE)
    assert "Kafka deletes unread records at any moment, and it does not catch up" in report.sentence
    gains = tuple(replace(s, committed_end=10) for s in old)
    assert verdict(replace(due, history=gains)) is LagVerdict.RETENTION_RISK


def test_when_what_is_not_staged_is_deleted_is_unknown_where_its_age_could_not_be_read():
    """Lag itself is known and small: it is not OK all the same."""
    seen = facts(
        80, staged=90, age=3, unread_problems={partition(): "broker 2 did not answer", partition(1): "x"}
    )
    report = judge(seen, HOUR)
    assert (report.verdict, report.lag_seconds) == (LagVerdict.UNKNOWN, 3.0)
    assert report.loss_unobserved
    assert "when Kafka deletes what is not staged is not known" in report.sentence
    assert "events:0: broker 2 did not answer, and 1 partition more" in report.sentence
    assert verdict(replace(seen, retention=None)) is LagVerdict.OK
    assert verdict(replace(seen, first_unstaged={partition(): None})) is LagVerdict.OK


def test_an_age_that_could_not_be_read_is_told_with_its_cause():
    seen = facts(90, unread_problems={partition(): "NotLeaderForPartitionError"})
    assert "could not be read: events:0: NotLeaderForPartitionError" in judge(seen, HOUR).sentence


# the trend


def test_falling_behind_tells_both_rates():
    history = (sample(100, committed=0, end=100),)
    report = judge(facts(1_000, end=3_100, age=60, history=history), HOUR)
    assert report.verdict is LagVerdict.FALLING_BEHIND
    assert "30/s come and 10/s are committed" in report.sentence


def test_a_lag_that_stands_still_is_not_catching_up():
    history = (sample(100, committed=0, end=1_000),)
    assert verdict(facts(1_000, end=2_000, age=60, history=history)) is LagVerdict.FALLING_BEHIND


@pytest.mark.parametrize(
    ("age", "committed", "produced", "expected"),
    [
        (25, 950, 1_000, LagVerdict.CATCHING_UP),
        (25, 880, 1_000, LagVerdict.FALLING_BEHIND),  # each minute a bit more is missing
        (31, 950, 1_000, LagVerdict.FALLING_BEHIND),  # beyond the objective
        (25, 0, 0, LagVerdict.FALLING_BEHIND),  # nothing comes, nothing goes
    ],
)
def test_one_that_keeps_up_within_its_objective_is_not_called_falling_behind(
    age, committed, produced, expected
):
    history = (sample(100, committed=0, end=100),)
    report = judge(facts(committed, end=100 + produced, age=age, history=history), HOUR)
    assert report.verdict is expected
    assert ("it keeps up, 10/s come and 9.5/s are committed" in report.sentence) is (
        expected is LagVerdict.CATCHING_UP
    )


def two(stuck_committed, other_committed, *, end=10_000, age=90):
    """Two partitions; ten minutes ago both were at 0 of 5,000."""
    at = {partition(0): stuck_committed, partition(1): other_committed}
    return facts(
        positions={p: Position(p, 0, c, c) for p, c in at.items()},
        topic=topic(end, end),
        first_uncommitted={p: RecordTime(c, ago(age)) for p, c in at.items() if c < end},
        first_unstaged={p: RecordTime(c, ago(age)) for p, c in at.items() if c < end},
        history=(sample(500, committed=0, end=10_000),),
        ends=(Ends(ago(500), "id-1", (5_000, 5_000), (0, 0)),),
    )  # fmt: skip


def test_a_partition_that_stands_still_is_not_hidden_by_others_that_drain():
    report = judge(two(0, 6_500, end=7_000), HOUR)
    assert (report.verdict, report.eta_seconds) == (LagVerdict.FALLING_BEHIND, None)
    assert "in events:0 4.0/s come and 0.0/s are committed" in report.sentence
    assert report.trend.committed_per_second == pytest.approx(13)


def test_all_is_caught_up_when_the_slowest_partition_is():
    report = judge(two(8_000, 9_000), HOUR)
    assert report.verdict is LagVerdict.CATCHING_UP
    assert report.eta_seconds == pytest.approx(max(2_000 / 6, 1_000 / 8))


def test_a_few_young_records_of_a_quiet_partition_do_not_delay_what_is_late():
    seen = two(8_000, 9_990)
    young = {**seen.first_uncommitted, partition(1): RecordTime(9_990, ago(1))}
    quiet = replace(seen, first_uncommitted=young, ends=(Ends(ago(500), "id-1", (5_000, 9_990), (0, 9_980)),))
    assert judge(quiet, HOUR).eta_seconds == pytest.approx(2_000 / 6)


def test_a_rewind_of_one_partition_begins_its_rates_anew():
    seen = replace(two(8_000, 9_000), ends=(Ends(ago(500), "id-1", (5_000, 5_000), (9_000, 0)),))
    assert judge(seen, HOUR).trend.partitions == ()


def test_looks_at_partitions_are_kept_every_two_minutes_and_for_one_window():
    looks = ()
    for seconds in range(1_800, 0, -60):
        looks = kept(looks, Ends(ago(seconds), "id-1", (1,), (1,)))
    assert [round((HOUR - x.at).total_seconds()) for x in looks] == [600, 480, 360, 240, 120]
    assert kept(looks, Ends(HOUR, "other", (1,), (1,)))[0].topic_id == "other"


def test_a_rewind_begins_the_history_anew():
    before, after = sample(300, committed=900, end=1_000), sample(100, committed=0, end=1_000)
    report = judge(facts(500, end=1_000, age=60, history=(before, after)), HOUR)
    assert report.trend.committed_per_second == pytest.approx(5.0)
    assert report.trend.seconds == 100


def test_samples_of_another_topic_or_of_none_are_no_trend():
    history = (sample(300, topic_id="other"), sample(200, topic_id=None), sample(10, committed=90, end=95))
    assert judge(facts(90, age=60, history=history), HOUR).trend is None


def test_samples_older_than_the_window_do_not_count():
    assert judge(facts(90, age=60, history=(sample(601),)), HOUR).trend is None


# the figures


def test_read_staged_and_committed_lag_are_apart():
    report = judge(facts(80, staged=90, end=100, age=9, unstaged_age=3, read={partition(): 95}), HOUR)
    assert (report.lag, report.staged_lag, report.read_lag) == (20, 10, 5)


def test_without_a_heartbeat_the_read_lag_is_not_known():
    assert judge(facts(80, age=9), HOUR).read_lag is None


def test_records_add_up_seconds_never_do_and_the_worst_partition_is_named():
    seen = facts(
        positions={partition(i): position(i, 90, 90) for i in (0, 1)},
        topic=topic(100, 95),
        first_uncommitted={
            partition(0): RecordTime(90, ago(3)),
            partition(1): RecordTime(90, ago(48)),
        },
        retention=None,
    )
    report = judge(seen, HOUR)
    assert (report.lag, report.lag_seconds, report.worst) == (15, 48.0, partition(1))
    assert "Worst partition: events:1" in report.sentence


def test_restarts_are_told_with_the_last_ones_cause():
    report = judge(facts(90, age=60, restarts=("no driver runs", "no heartbeat for 61 s")), HOUR)
    assert "2 restarts in the last hour, the last: no heartbeat for 61 s" in report.sentence


def test_the_first_unread_record_is_looked_for_where_kafka_still_has_it():
    positions = {partition(0): position(0, 20, 10), partition(1): position(1, 80, 80)}
    seen = topic(90, 80, 70, starts=[15])
    assert uncommitted(SPIKE, positions, seen) == {partition(0): 15, partition(2): 0}
    assert unstaged(SPIKE, positions, seen) == {partition(0): 20, partition(2): 0}


def test_what_is_to_be_raised_is_what_deletes():
    assert [setting(True, False), setting(False, True)] == ["retention.ms", "retention.bytes"]
    assert setting(True, True) == "retention.ms and retention.bytes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42, "42 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (200_000, "2 d 7 h")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert human(seconds) == text
