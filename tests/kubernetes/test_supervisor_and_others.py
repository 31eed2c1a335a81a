"""The supervisor beside people and programs that change the same resources."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from test_supervisor import Hours, crash, worked

from spike_pipelines.adapters.kubernetes import KubernetesCluster
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.sightings import UNDEPLOYED
from spike_pipelines.domain.supervision import Verdict
from spike_pipelines.services.observe_applications import ApplicationObserver


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


def test_overlays_that_somebody_takes_off_again_and_again_are_not_laid_for_ever(hours):
    """A program that puts the resource back to what its repository says."""
    hours.deploy()
    crash(hours, 3, 137, "OOMKilled")
    laid = 0
    for _ in range(60):
        hours.site.change(
            "payouts",
            {"metadata": {"annotations": {"spike-pipelines.io/overlays": None}},
             "spec": {"driver": {"memory": "512m"}}},
        )  # fmt: skip
        hours.driver(hours.site.submit())
        hours.beats()
        laid += hours.tick(60)["payouts"][1] == "converge"
    assert laid <= 3
    hours.beats()
    (decision,) = hours.supervisor.look()
    assert decision.verdict is Verdict.DRIFTED
    assert "more-memory" in decision.cause


def test_overlays_that_the_api_server_refuses_hide_nothing_else(hours, monkeypatch):
    """As where a policy of the cluster bounds memory."""

    def refused(*_):
        raise InvalidSpec("admission webhook: at most 600m")

    monkeypatch.setattr(KubernetesCluster, "converge", refused)
    hours.deploy()
    seen = []
    for _ in range(40):
        hours.site.submit()
        with suppress(InvalidSpec):
            hours.tick(60)
        hours.site.fails(code=137, reason="OOMKilled")
        with suppress(InvalidSpec):
            hours.tick(60)
    seen = hours.recoveries()
    assert seen.count("converge") <= 3 * seen.count("more-memory") + 3
    assert "quarantine" in seen


def test_a_list_that_is_older_than_what_was_seen_judges_nobody(hours, monkeypatch):
    """As from an API server whose cache is behind: three crashes, and not yet the driver that works."""
    hours.deploy()
    crash(hours, 2)
    hours.site.submit()
    hours.tick(10)
    hours.site.fails()
    old = hours.site.cluster.applications()
    hours.driver(hours.site.submit())
    hours.beats()
    hours.tick(10)
    before = hours.world.ledger.sightings()["payouts"]
    monkeypatch.setattr(KubernetesCluster, "applications", lambda _: old)
    monkeypatch.setattr(hours.site, "settle", lambda: None)  # this cache does not follow
    hours.beats()
    assert hours.tick(5)["payouts"] == (Verdict.UNKNOWN, None)
    assert hours.world.ledger.sightings()["payouts"] == before
    assert hours.world.ledger.epochs()["payouts"].state is EpochState.OPEN


def test_a_driver_is_not_fenced_for_what_was_changed_since(hours, monkeypatch):
    """The fence is the ledger's and stays; the change of the resource is refused."""
    hours.deploy()
    hours.driver(hours.site.submit())
    hours.tick()
    hours.at += timedelta(seconds=65)
    look = hours.supervisor.see()
    hours.site.annotate(pause="ann was faster")
    monkeypatch.setattr(ApplicationObserver, "see", lambda _: look)
    (done,) = hours.supervisor.recover_all(["payouts"])
    assert "not done" in done.decision.cause
    assert hours.recoveries() == ["restart (not done)"]
    assert hours.world.ledger.epochs()["payouts"].state is EpochState.OPEN


def test_what_is_made_again_asks_for_nothing_that_a_person_asked_of_the_one_before(hours):
    hours.deploy()
    hours.site.annotate(pause="ann looks into it", restart="once")
    hours.tick()
    hours.site.annotate(pause=None)
    hours.tick()
    hours.site.status(state="SUSPENDED")
    hours.tick()
    hours.driver(hours.site.submit())
    hours.beats()
    hours.tick()
    hours.site.delete()
    hours.tick()
    assert hours.tick(61)["payouts"] == (Verdict.MISSING, "recreate")
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)


@pytest.mark.parametrize(("has", "gets"), [("4g", None), ("1g", "1536m"), ("2 GB", None), ("1100M", "1650m")])
def test_more_memory_is_more_than_the_resource_has(hours, has, gets):
    """Somebody gave it more than its file says, by hand or by `sparkApplication`; the file says 512m."""
    hours.deploy(driver={"cores": 1, "memory": has})
    seen = crash(hours, 3, 137, "OOMKilled")
    assert (seen == (Verdict.CRASHING, "more-memory")) == (gets is not None)
    assert hours.site.get()["spec"]["driver"]["memory"] == (gets or has)


def test_a_second_driver_that_takes_its_time_to_end_is_not_stopped_at_every_look(hours, monkeypatch):
    """A pod has a minute of grace: until then it is seen."""
    hours.deploy()
    first, second = hours.site.submit(), hours.site.submit()
    hours.site.pod(first)
    hours.site.pod(second, pod="payouts-driver-2")
    hours.driver(first)
    monkeypatch.setattr(KubernetesCluster, "stop", lambda *_: None)
    seen = []
    for _ in range(12):
        hours.beats()
        seen.append(hours.tick()["payouts"])
    assert {verdict for verdict, _ in seen} == {Verdict.TWO_DRIVERS}
    assert [action for _, action in seen].count("stop") == 2


def test_one_that_is_paused_while_it_is_restarted_is_told_to_be_suspended(hours):
    hours.deploy()
    hours.tick()
    hours.site.submit()
    hours.site.annotate(restart="now")
    hours.tick()
    hours.site.annotate(pause="ann looks into it")
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.PAUSED, None)
    assert "suspended" in hours.supervisor.look()[0].cause


def test_a_look_that_began_before_a_spike_was_ended_does_not_bring_it_back(hours):
    hours.deploy()
    hours.tick()
    ledger, look = hours.world.ledger, hours.supervisor.see()
    hours.at += timedelta(seconds=1)
    hours.site.delete()
    ended = replace(ledger.sightings()["payouts"], state_text=UNDEPLOYED, since=hours.at)
    ledger.note_sightings([ended])
    ledger.note_look(look.seen.as_of, look.seen.now, look.sightings)
    for _ in range(3):
        assert hours.tick(61)["payouts"] == (Verdict.NOT_DEPLOYED, None)


def test_a_driver_of_another_version_makes_no_spec_stable(hours):
    """It opened its epoch after the deployment, and is of before: the operator had not yet ended it."""
    hours.deploy(version="v1")
    hours.tick()
    hours.driver(hours.site.submit(), version="v0")
    hours.at += timedelta(minutes=11)
    hours.beats()
    worked(hours)
    hours.tick()
    assert hours.world.ledger.specs()["payouts"].stable is None
