"""When a deployment counts as good, and when it is taken back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.observed import Refusal
from spike_pipelines.domain.rollout import Rollout, RolloutFacts, is_late, judge_rollout

SPIKE = load_application(
    Path(__file__).parents[2] / "deployments" / "applications" / "crt-payout-v1-1.0.yaml"
)
SINCE = datetime(2026, 5, 1, 12, tzinfo=UTC)
PATIENCE = timedelta(minutes=10)
SOON, LATE = SINCE + timedelta(minutes=1), SINCE + PATIENCE
BEFORE = SINCE - timedelta(minutes=5)

EPOCH = Epoch(
    spike=SPIKE.name,
    number=7,
    nonce="n",
    driver="pod",
    state=EpochState.OPEN,
    opened_at=SINCE + timedelta(seconds=20),
    heartbeat_at=SOON,
    phase=Phase.READING,
    application_version=SPIKE.version,
)
LAG = LagReport(LagVerdict.OK, "all is well", 12, 3.0, ())
GOOD = RolloutFacts(SPIKE, SINCE, True, EPOCH, SOON, None, LAG, was_late=False)


def judged(now=SOON, **changes) -> Rollout:
    return judge_rollout(replace(GOOD, **changes), now, PATIENCE).state


def test_a_new_driver_that_commits_within_the_objective_is_stable():
    assert judged() is Rollout.STABLE


NOT_YET = {
    "no epoch at all": {"epoch": None},
    "an epoch that was superseded": {"epoch": replace(EPOCH, state=EpochState.SUPERSEDED)},
    "the driver of before": {"epoch": replace(EPOCH, opened_at=BEFORE)},
    "a driver of another version": {"epoch": replace(EPOCH, application_version="older")},
    "a driver that is not heard of any more": {"epoch": replace(EPOCH, heartbeat_at=BEFORE)},
    "no commit": {"committed_at": None},
    "a commit of before only": {"committed_at": BEFORE},
    "too far behind": {"lag": replace(LAG, verdict=LagVerdict.FALLING_BEHIND, lag_seconds=31.0)},
}


@pytest.mark.parametrize("what", NOT_YET)
def test_what_is_not_so_yet_is_waited_for_and_then_taken_back(what):
    assert judged(**NOT_YET[what]) is Rollout.WAITING
    assert judged(LATE - timedelta(seconds=1), **NOT_YET[what]) is Rollout.WAITING
    assert judged(LATE, **NOT_YET[what]) is Rollout.FAILED


def test_without_a_driver_it_is_told_what_keeps_one_away():
    facts = replace(GOOD, epoch=None, unlike="7:quarantine=suspend lies over it")
    verdict = judge_rollout(facts, LATE, PATIENCE)
    assert verdict.state is Rollout.FAILED
    assert verdict.reason.endswith("; 7:quarantine=suspend lies over it")


def test_what_works_otherwise_than_it_was_deployed_is_waited_for_and_then_left():
    assert judged(unlike="it is suspended") is Rollout.WAITING
    assert judged(LATE, unlike="it is suspended") is Rollout.UNDECIDED


def test_what_could_not_be_seen_is_no_reason_to_go_back():
    blind = replace(LAG, verdict=LagVerdict.UNKNOWN, observed=False, lag_seconds=None)
    assert judged(lag=blind) is Rollout.WAITING
    assert judged(LATE, lag=blind) is Rollout.UNDECIDED


def test_the_same_spec_again_is_good_if_its_driver_lives_and_commits():
    """Nothing changed, so no new driver comes; a deploy that died half way is ended by doing it again."""
    again = replace(EPOCH, opened_at=BEFORE)
    assert judged(changed=False, epoch=again) is Rollout.STABLE
    assert judged(changed=False, epoch=again, committed_at=BEFORE) is Rollout.WAITING


NOTHING_TO_READ = replace(LAG, verdict=LagVerdict.IDLE, lag=0, lag_seconds=0.0)


def test_a_quiet_topic_is_no_failure():
    assert judged(committed_at=None, lag=NOTHING_TO_READ) is Rollout.STABLE


@pytest.mark.parametrize("phase", [None, Phase.STARTING, Phase.RETRYING])
def test_on_a_quiet_topic_a_driver_must_be_past_its_start(phase):
    facts = {"committed_at": None, "lag": NOTHING_TO_READ, "epoch": replace(EPOCH, phase=phase)}
    assert judged(**facts) is Rollout.WAITING
    assert judged(LATE, **facts) is Rollout.FAILED


def test_a_batch_that_waits_is_not_nothing():
    assert judged(committed_at=None, lag=replace(NOTHING_TO_READ, waiting_batches=1)) is Rollout.WAITING


@pytest.mark.parametrize(
    "changes",
    [
        {"was_late": True, "lag": replace(LAG, verdict=LagVerdict.FALLING_BEHIND, lag_seconds=900.0)},
        {"lag": replace(LAG, verdict=LagVerdict.CATCHING_UP, lag_seconds=900.0)},
    ],
)
def test_one_that_commits_and_was_late_before_or_catches_up_stays_unmarked(changes):
    assert judged(**changes) is Rollout.WAITING
    assert judged(LATE, **changes) is Rollout.UNDECIDED


def test_a_lag_without_known_age_is_not_within_the_objective():
    assert judged(lag=replace(LAG, lag_seconds=None)) is Rollout.WAITING


@pytest.mark.parametrize("code", ["topic_changed", "lost"])
def test_what_no_spec_can_mend_is_told_at_once_and_not_taken_back(code):
    refused = Refusal(SOON, code, "the topic was made again", "pod")
    verdict = judge_rollout(replace(GOOD, refusal=refused), SOON, PATIENCE)
    assert verdict.state is Rollout.UNDECIDED
    assert "the topic was made again" in verdict.reason


def test_a_refusal_of_before_or_of_another_kind_decides_nothing():
    assert judged(refusal=Refusal(BEFORE, "lost", "old", "pod")) is Rollout.STABLE
    assert judged(refusal=Refusal(SOON, "unavailable", "Kafka", "pod")) is Rollout.STABLE


def test_late_is_what_was_seen_to_be_late():
    assert is_late(SPIKE, replace(LAG, lag_seconds=31.0))
    assert not is_late(SPIKE, replace(LAG, lag_seconds=30.0))
    assert not is_late(SPIKE, replace(LAG, lag_seconds=None))
    assert not is_late(SPIKE, replace(LAG, lag_seconds=99.0, observed=False))
