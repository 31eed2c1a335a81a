"""What each check makes of a look, and which of a fleet's checks are told in a tick."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, partition, spike

from spike_pipelines.domain.closed import Behind
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.offsets import Break
from spike_pipelines.ports import DatasetState
from spike_pipelines.services.close import HoursSeen
from spike_pipelines.services.judgements import (
    MOST_NEWS,
    MOST_REPEATS,
    Grade,
    Seen,
    executed,
    judgements,
    news,
)

SPIKE = spike()  # objectives: lag 30 s, warn 20 s, hang 60 s
FINE = LagReport(
    LagVerdict.OK, "10 records and 12 s behind", 10, 12.34, (PartitionLag(partition(), 0, 10, 12.34),),
    at=HOUR, topic_id="id-1", running=True, retention_seconds=604_800.0, commit_age_seconds=4.0,
)  # fmt: skip
DARK = LagReport(LagVerdict.UNKNOWN, "not observed: Kafka is down", 0, None, (), observed=False, running=True)


def judged(name, report=FINE, **changes):
    return judgements(Seen(**{"spike": SPIKE, "report": report, **changes}))[name]


def test_all_checks_pass_when_all_is_well():
    seen = Seen(SPIKE, FINE, hours=HoursSeen(HOUR))
    assert {j.grade for j in judgements(seen).values()} == {Grade.PASSED}


def test_no_check_passes_on_what_was_not_observed():
    made = judgements(Seen(SPIKE, DARK, problem="the ledger is down"))
    assert {name: j.grade for name, j in made.items()} == dict.fromkeys(made, Grade.WARN)


@pytest.mark.parametrize(
    ("verdict", "seconds", "grade"),
    [
        (LagVerdict.OK, 5, Grade.PASSED),
        (LagVerdict.IDLE, 0, Grade.PASSED),
        (LagVerdict.CATCHING_UP, 25, Grade.WARN),
        (LagVerdict.CATCHING_UP, 31, Grade.ERROR),
        (LagVerdict.FALLING_BEHIND, 25, Grade.WARN),
        (LagVerdict.FALLING_BEHIND, 31, Grade.ERROR),
        (LagVerdict.BACKPRESSURED, 5, Grade.WARN),
        (LagVerdict.BACKPRESSURED, 31, Grade.ERROR),
        (LagVerdict.RETENTION_RISK, 5, Grade.WARN),
        (LagVerdict.UNKNOWN, None, Grade.WARN),
        (LagVerdict.UNKNOWN, 31, Grade.WARN),
        (LagVerdict.STOPPED, 5, Grade.ERROR),
        (LagVerdict.STALLED, 5, Grade.ERROR),
        (LagVerdict.HELD, 5, Grade.ERROR),
        (LagVerdict.WILL_LOSE, 5, Grade.ERROR),
        (LagVerdict.TOPIC_CHANGED, 5, Grade.ERROR),
        (LagVerdict.LOST, 5, Grade.ERROR),
    ],
)
def test_lag_warns_when_a_promise_is_at_risk_and_fails_when_it_is_broken(verdict, seconds, grade):
    made = judged("lag", replace(FINE, verdict=verdict, lag_seconds=seconds, lasts=True))
    assert (made.grade, made.state) == (grade, "OK" if grade is Grade.PASSED else verdict)
    assert made.sentence == f"{verdict}: 10 records and 12 s behind"


def test_idle_and_ok_are_one_state_and_no_news_of_each_other():
    idle, ok = (judged("lag", replace(FINE, verdict=v)) for v in (LagVerdict.IDLE, LagVerdict.OK))
    told = news({}, {"a/lag": (idle.grade, idle.state)}, 1000.0)
    assert news(told, {"a/lag": (ok.grade, ok.state)}, 1060.0) == {}
    assert (idle.figures["verdict"], ok.figures["verdict"]) == ("IDLE", "OK")


def test_backpressure_warns_from_the_second_look_on_and_at_once_beyond_the_objective():
    full = replace(FINE, verdict=LagVerdict.BACKPRESSURED, lag_seconds=5)
    first = judged("lag", full)
    assert (first.grade, first.state, first.figures["verdict"]) == (Grade.PASSED, "OK", "BACKPRESSURED")
    assert judged("lag", replace(full, lasts=True)).grade is Grade.WARN
    assert judged("lag", replace(full, lag_seconds=31)).grade is Grade.ERROR


def test_every_verdict_has_a_grade():
    for verdict in LagVerdict:
        assert judged("lag", replace(FINE, verdict=verdict)).grade in Grade


def test_a_figure_that_is_not_known_is_left_out_and_not_called_zero():
    assert "lag_seconds" not in judged("lag", replace(FINE, lag_seconds=None)).figures
    assert "lag_records" not in judged("lag", DARK).figures
    assert judged("lag").figures["lag_seconds"] == 12.34


def test_retention_warns_of_a_topic_that_keeps_too_little_even_while_nothing_is_unread():
    made = judged("retention", replace(FINE, retention_seconds=60.0))
    assert (made.grade, made.state) == (Grade.WARN, "SHORT")
    assert "the topic keeps 1 min 0 s: too little for an objective of 30 s" in made.sentence


def test_retention_fails_when_unread_records_are_about_to_be_deleted():
    made = judged("retention", replace(FINE, time_to_loss_seconds=80.0))
    assert (made.grade, made.state) == (Grade.ERROR, "RISK")
    assert judged("retention", replace(FINE, retention_seconds=None)).grade is Grade.PASSED


def test_retention_never_passes_while_the_age_of_what_is_unread_is_not_known():
    """It may be deleted in a minute, or in a week."""
    part = replace(FINE.partitions[0], staged_lag=5, loss_unobserved=True)
    made = judged("retention", replace(FINE, partitions=(part,), unread_problem="events:0: broker 2 is down"))
    assert (made.grade, made.state) == (Grade.WARN, "UNKNOWN")
    assert "could not be read: events:0: broker 2 is down" in made.sentence


def test_progress_fails_for_what_stands_still_and_warns_where_the_appender_is_to_blame():
    stalled = replace(FINE, stalled=True, verdict=LagVerdict.FALLING_BEHIND)
    assert judged("progress", stalled).grade is Grade.ERROR
    assert judged("progress", replace(stalled, waiting_batches=4)).grade is Grade.WARN
    assert judged("progress", replace(FINE, verdict=LagVerdict.STOPPED)).grade is Grade.ERROR
    assert judged("progress", replace(FINE, running=None)).grade is Grade.WARN


def test_topic_identity_fails_when_the_topic_was_made_again():
    made = judged("topic_identity", replace(FINE, topic_changed=True, topic_id="new"))
    assert (made.grade, made.state) == (Grade.ERROR, "CHANGED")
    assert "its id is new now" in made.sentence


def test_topic_identity_fails_when_the_file_names_another_topic():
    made = judged("topic_identity", replace(FINE, topic_changed=True, topic_id=None, read_topic="before"))
    assert (made.grade, made.state) == (Grade.ERROR, "RENAMED")
    assert "put before back" in made.sentence
    assert "accept-loss" not in made.sentence


def test_topic_identity_fails_when_the_topic_is_gone():
    gone = replace(DARK, verdict=LagVerdict.TOPIC_CHANGED, topic_changed=True)
    made = judged("topic_identity", gone)
    assert (made.grade, made.state) == (Grade.ERROR, "MISSING")
    assert "create it again, then `spike resume payouts --accept-loss`" in made.sentence
    assert judged("lag", gone).grade is Grade.ERROR


def test_offsets_contiguous_names_the_break():
    made = judged("offsets_contiguous", breaks=(Break(partition(), 10, 12),))
    assert (made.grade, made.sentence) == (
        Grade.ERROR,
        "events:0: gap, expected 10, found 12: run `spike audit`",
    )


def test_fresh_is_what_readers_see():
    assert judged("fresh", replace(FINE, lag_seconds=31.0)).grade is Grade.ERROR
    assert judged("fresh", replace(FINE, lag_seconds=21.0)).grade is Grade.WARN


@pytest.mark.parametrize(
    ("commits", "seconds", "grade"),
    [(1, 21, Grade.WARN), (1, 31, Grade.ERROR), (50, 20, Grade.PASSED), (50, -1, Grade.PASSED)],
)
def test_what_is_not_published_counts_by_its_age_and_not_by_its_number(commits, seconds, grade):
    """One commit of an hour ago is missing to readers; fifty of a burst come with the next snapshot."""
    behind = DatasetState("payouts", "payouts", commits, 0, 0, HOUR - timedelta(seconds=seconds))
    made = judged("fresh", dataset=behind)
    assert (made.grade, made.figures["unpublished_commits"]) == (grade, commits)
    if grade is not Grade.PASSED:
        told = "1 commit is" if commits == 1 else f"{commits} commits are"
        assert f"{told} not published, the oldest for {seconds} s" in made.sentence


# which of them to tell

OK, BAD = (Grade.PASSED, "OK"), (Grade.ERROR, "LOST")


def test_what_changed_is_told_and_the_worst_first():
    told = {"a/lag": ("PASSED OK", 1000.0), "b/lag": ("PASSED OK", 1000.0)}
    assert news({}, {"a/lag": OK}, 1000.0) == {"a/lag": ("PASSED OK", 1000.0)}
    states = {"a/lag": OK, "b/lag": BAD, "c/lag": OK}
    assert list(news(told, states, 1060.0)) == ["b/lag", "c/lag"]


def test_a_recovery_does_not_wait_for_what_flaps_elsewhere():
    """More changes in every tick than may be told, of checks whose names come first."""
    flapping = [f"a{n:03}/lag" for n in range(MOST_NEWS)]
    told = dict.fromkeys(flapping, ("WARN CATCHING_UP", 1000.0)) | {"z/lag": ("ERROR LOST", 1000.0)}
    states = dict.fromkeys(flapping, (Grade.WARN, "FALLING_BEHIND")) | {"z/lag": OK}
    first = news(told, states, 1060.0)
    assert next(iter(first)) == "z/lag"
    (left,) = set(flapping) - set(first)
    states = dict.fromkeys(flapping, (Grade.WARN, "UNKNOWN"))
    assert next(iter(news(told | first, states, 1120.0))) == left, "it was told longest ago"


def test_whoever_was_told_longest_ago_is_told_first_and_of_those_the_worst():
    told = dict.fromkeys(("a/lag", "b/lag"), ("PASSED OK", 1000.0)) | {"c/lag": ("ERROR LOST", 900.0)}
    states = {"a/lag": (Grade.WARN, "UNKNOWN"), "b/lag": BAD, "c/lag": OK}
    assert list(news(told, states, 1060.0)) == ["c/lag", "b/lag", "a/lag"]


def test_what_was_executed_by_hand_is_what_was_told_last():
    told = {"a/lag": ("PASSED OK", 1000.0), "b/lag": ("PASSED OK", 1000.0)}
    by_hand = {"a/lag": ("ERROR LOST", 1030.0), "b/lag": ("ERROR LOST", 990.0)}
    known = executed(told, by_hand)
    assert known == {"a/lag": ("ERROR LOST", 1030.0), "b/lag": ("PASSED OK", 1000.0)}
    assert list(news(known, dict.fromkeys(told, OK), 1060.0)) == ["a/lag"]


def test_the_same_verdict_is_told_again_when_it_gets_worse_or_better():
    """Backpressure within the objective is a warning, beyond it an error."""
    late, bearable = (Grade.ERROR, "BACKPRESSURED"), (Grade.WARN, "BACKPRESSURED")
    told = news({}, {"a/lag": bearable}, 1000.0)
    worse = news(told, {"a/lag": late}, 1060.0)
    assert worse == {"a/lag": ("ERROR BACKPRESSURED", 1060.0)}
    assert news(worse, {"a/lag": late}, 1120.0) == {}
    assert list(news(worse, {"a/lag": bearable}, 1120.0)) == ["a/lag"]


def test_an_unchanged_lag_is_told_again_after_ten_minutes_and_other_checks_are_not():
    told = {"a/lag": ("PASSED OK", 1000.0), "a/fresh": ("PASSED OK", 1000.0)}
    states = dict.fromkeys(told, OK)
    assert news(told, states, 1599.0) == {}
    assert news(told, states, 1600.0) == {"a/lag": ("PASSED OK", 1600.0)}


def test_a_fleet_of_a_thousand_never_writes_a_thousand_events_in_a_tick():
    states = {f"s{i}/{name}": OK for i in range(1000) for name in ("lag", "fresh", "progress")}
    told = {}
    ticks = 0
    while made := news(told, states, 0.0):
        assert len(made) <= MOST_NEWS
        told |= made
        ticks += 1
    assert (len(told), ticks) == (3000, 10)
    assert len(news(told, states, timedelta(hours=1).total_seconds())) == MOST_REPEATS


# closed hours

WAITS = HoursSeen(
    HOUR,
    closed=HOUR - timedelta(hours=4),
    waiting=HOUR - timedelta(hours=3),
    due_at=HOUR - timedelta(minutes=40),
    behind=tuple(Behind(partition(n), 5, 10) for n in range(4)),
)


def test_a_closed_hour_is_told_by_its_name_so_that_each_one_is_news():
    made = judged("closed", hours=replace(WAITS, waiting=None, due_at=None))
    assert (made.grade, made.state, made.sentence) == (
        Grade.PASSED,
        "2026-11-22T17",
        "closed up to hour 2026-11-22T17",
    )


def test_an_hour_that_is_overdue_warns_with_the_partitions_it_waits_for():
    made = judged("closed", hours=WAITS)
    assert (made.grade, made.state) == (Grade.WARN, "OVERDUE")
    assert "hour 2026-11-22T18 was due 40 min 0 s ago and waits: events:0 has committed up to 5 of 10" in (
        made.sentence
    )
    assert "and 1 partition more: `spike lag payouts` says why" in made.sentence


def test_an_hour_is_not_overdue_before_the_objective_and_two_looks():
    due = HOUR - SPIKE.objectives.lag - timedelta(minutes=2)
    assert judged("closed", hours=replace(WAITS, due_at=due)).grade is Grade.PASSED
    late = replace(WAITS, due_at=due - timedelta(seconds=1))
    assert judged("closed", hours=late).grade is Grade.WARN


def test_an_overdue_hour_whose_log_ends_nobody_saw_is_unknown():
    made = judged("closed", hours=replace(WAITS, behind=(), unobserved=True))
    assert (made.grade, made.state) == (Grade.WARN, "UNKNOWN")
    assert "and Kafka's log ends have not been seen since" in made.sentence


def test_hours_that_were_not_observed_are_unknown_whatever_was_closed_before():
    made = judged("closed", hours=replace(WAITS, problem="Kafka is down"))
    assert (made.grade, made.state, made.sentence) == (Grade.WARN, "UNKNOWN", "not observed: Kafka is down")
