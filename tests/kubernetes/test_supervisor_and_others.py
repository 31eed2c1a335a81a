"""The supervisor beside people and programs that change the same resources."""

from datetime import timedelta

import pytest
from test_supervisor import Hours, crash

from spike_pipelines.domain.supervision import Verdict


@pytest.fixture
def hours(site):
    return Hours(site)


def put_away(hours):
    """Crashed until it was quarantined; the operator has suspended it."""
    hours.deploy()
    crash(hours, 3)
    hours.site.status(state="SUSPENDED")
    hours.tick()
    hours.tick(40)
    assert crash(hours, 1) == (Verdict.CRASHING, "quarantine")
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.QUARANTINED, None)


def suspended(hours):
    return bool(hours.site.get()["spec"].get("suspend"))


def test_a_restart_that_a_person_asks_for_ends_a_quarantine(hours):
    put_away(hours)
    hours.site.annotate(restart="mended")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "asked")
    for _ in range(3):
        hours.tick()
    assert not suspended(hours)
    assert hours.world.ledger.open_overlays() == {}
    hours.driver(hours.site.submit())
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def test_a_quarantine_that_a_person_ended_is_over(hours):
    put_away(hours)
    hours.site.change("payouts", {"spec": {"suspend": False}})
    hours.driver(hours.site.submit())
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)
    assert not suspended(hours)


def test_who_resumed_a_restart_by_hand_may_suspend_it_later(hours):
    hours.deploy()
    hours.tick()
    hours.site.submit(state="FAILING")
    hours.site.annotate(restart="now")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "asked")
    hours.site.change("payouts", {"spec": {"suspend": False}})
    hours.driver(hours.site.submit())
    hours.beats()
    hours.tick()
    hours.tick()
    hours.site.change("payouts", {"spec": {"suspend": True}})
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.SUSPENDED, None)
    assert suspended(hours)


def test_one_that_the_operator_does_not_resume_is_stuck(hours):
    hours.deploy()
    hours.site.submit(state="SUSPENDED")
    hours.site.change("payouts", {"spec": {"suspend": False}})
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)
    assert hours.tick(130)["payouts"] == (Verdict.STUCK, "kick")
