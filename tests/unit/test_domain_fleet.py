"""A storm: one incident, and never more haste than the operator can take."""

from datetime import timedelta

import pytest
from builders import HOUR

from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.fleet import (
    DRIVERS_A_MINUTE,
    KICKS_A_MINUTE,
    Noted,
    began,
    incident_in,
    ration,
    to_note,
)
from spike_pipelines.domain.fleet import (
    FLEET as ALL,
)
from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import LASTS, NewOverlay, OverlayKind
from spike_pipelines.domain.supervision import Action, ActionKind, Decision, Verdict

FLEET = [f"spike-{i:04}" for i in range(1000)]


def fine(name):
    return Decision(name, Verdict.RUNNING, "reading")


def hurt(name, kind=ActionKind.RESTART, trouble="hung", overlay=None, request=None):
    action = Action(kind, name, overlay=overlay, request=request)
    return Decision(name, Verdict.HUNG, "silent", action, trouble)


def lay(name, kind):
    overlay = NewOverlay(name, kind, "x", "why", "v1", LASTS[kind])
    return hurt(name, ActionKind.OVERLAY, overlay=overlay)


def acted(plan):
    return [d.spike for d in plan.decisions if d.action]


def test_three_hundred_failures_are_one_incident_and_all_are_helped_within_the_budget():
    sick, done, now, busiest = set(FLEET[:300]), {}, HOUR, 0
    incidents = 0
    while sick:
        plan = ration([hurt(n) if n in sick else fine(n) for n in FLEET], done, now)
        incidents += plan.incident is not None
        assert len(plan.decisions) == len(FLEET)
        for name in acted(plan):
            done[name] = [Recovery(name, now, "restart", "silent", "HUNG")]
            sick.discard(name)
        busiest = max(busiest, sum(now - r[0].at < timedelta(minutes=1) for r in done.values()))
        now += timedelta(seconds=5)
        assert now - HOUR < timedelta(minutes=20)
    assert busiest == DRIVERS_A_MINUTE
    assert incidents > 0


def test_what_is_held_back_says_that_it_is_one_incident():
    plan = ration([hurt(n) if n in FLEET[:300] else fine(n) for n in FLEET], {}, HOUR)
    held = [d for d in plan.decisions if d.trouble and not d.action]
    assert len(held) == 280
    assert all("incident: 300 of 1000 spikes at once, most of them hung" in d.cause for d in held)


@pytest.mark.parametrize(
    ("sick", "fleet", "incident"), [(4, 4, False), (5, 25, True), (5, 26, False), (199, 1000, False)]
)
def test_an_incident_is_five_and_a_fifth_of_the_fleet(sick, fleet, incident):
    decisions = [hurt(n) if i < sick else fine(n) for i, n in enumerate(FLEET[:fleet])]
    assert (incident_in(decisions, {}, HOUR) is not None) is incident


def test_in_an_incident_no_spec_is_changed_and_nobody_put_away_but_nodes_may_be():
    decisions = [
        lay(FLEET[0], OverlayKind.MEMORY),
        lay(FLEET[1], OverlayKind.QUARANTINE),
        lay(FLEET[2], OverlayKind.ON_DEMAND),
        hurt(FLEET[3], ActionKind.PAGE),
        hurt(FLEET[4], ActionKind.KICK),
    ]
    assert acted(ration(decisions, {}, HOUR)) == [FLEET[2], FLEET[4]]
    assert acted(ration(decisions[:2], {}, HOUR)) == FLEET[:2]


def test_who_was_helped_least_often_comes_first():
    done = {FLEET[0]: [Recovery(FLEET[0], HOUR - timedelta(minutes=9), "restart", "x", "HUNG")]}
    plan = ration([hurt(n) for n in FLEET[: DRIVERS_A_MINUTE + 1]], done, HOUR)
    assert FLEET[0] not in acted(plan)


def test_kicks_have_a_budget_of_their_own():
    plan = ration([hurt(n, ActionKind.KICK) for n in FLEET], {}, HOUR)
    assert len(acted(plan)) == KICKS_A_MINUTE


def test_what_was_begun_and_what_a_person_asked_for_is_always_done():
    begun = [hurt(n, ActionKind.RESUME) for n in FLEET[:300]]
    asked = [hurt(n, request="ann") for n in FLEET[300:400]]
    assert len(acted(ration(begun + asked, {}, HOUR))) == 400


def tried(name, minutes, action="page"):
    return Recovery(name, HOUR - timedelta(minutes=minutes), action, "x", "BLOCKED")


REFUSED = [hurt(n, ActionKind.PAGE, Trouble.REFUSED) for n in FLEET[:5]]


def test_old_troubles_that_nobody_mends_make_no_incident_of_a_new_one():
    """Topics that were made again, days ago, and one driver that runs out of memory."""
    ill = lay(FLEET[5], OverlayKind.MEMORY)
    decisions = [*REFUSED, ill, *map(fine, FLEET[6:23])]
    old = {n: [tried(n, 70), tried(n, 5)] for n in FLEET[:5]}
    plan = ration(decisions, old, HOUR)
    assert plan.incident is None
    assert FLEET[5] in acted(plan)


def test_what_was_tried_before_its_last_commit_makes_no_trouble_an_old_one():
    decisions = [hurt(n) if n in FLEET[:5] else fine(n) for n in FLEET[:23]]
    tried_once = {n: [tried(n, 70)] for n in FLEET[:5]}
    assert ration(decisions, tried_once, HOUR).incident is None
    worked = dict.fromkeys(FLEET[:5], HOUR - timedelta(minutes=60))
    assert ration(decisions, tried_once, HOUR, worked).incident is not None


def test_a_trouble_of_its_own_is_no_part_of_an_incident_and_is_paged():
    sick = [hurt(n) for n in FLEET[10:20]]
    plan = ration([*REFUSED[:2], *sick, *map(fine, FLEET[20:40])], {}, HOUR)
    assert plan.incident.spikes == frozenset(FLEET[10:20])
    assert set(FLEET[:2]) <= set(acted(plan))


def test_unless_most_have_it():
    plan = ration([*REFUSED, *map(fine, FLEET[5:20])], {}, HOUR)
    assert plan.incident.trouble == Trouble.REFUSED
    assert not acted(plan)


def test_an_incident_that_lasts_for_hours_stays_one_and_puts_nobody_away():
    """Whoever was restarted long ago in it, in vain, is still one of those it struck."""
    decisions = [lay(n, OverlayKind.QUARANTINE) for n in FLEET[:40]]
    done = {n: [tried(n, 170, "restart")] for n in FLEET[:40]}
    assert len(acted(ration(decisions, done, HOUR))) == 20
    notes = [Recovery(ALL, HOUR - timedelta(hours=3), "incident", "x", Noted.BEGINS)]
    plan = ration(decisions, done | {ALL: notes}, HOUR)
    assert len(plan.incident.spikes) == 40
    assert not acted(plan)


def test_an_incident_is_noted_when_it_begins_now_and_then_and_once_it_is_over():
    incident = ration([hurt(n) for n in FLEET[:10]], {}, HOUR).incident
    notes, told = [], []
    for minute in range(60):
        now = HOUR + timedelta(minutes=minute)
        quiet = 20 <= minute < 25 or minute >= 31
        note = to_note(None if quiet else incident, notes, now)
        if note is not None:
            notes.append(note)
            told.append((minute, note.verdict))
    begins, goes_on, over = Noted.BEGINS, Noted.GOES_ON, Noted.OVER
    assert told == [
        (0, begins), (5, goes_on), (10, goes_on), (15, goes_on), (25, goes_on), (30, goes_on), (40, over),
    ]  # fmt: skip
    assert began(notes[:-1]) == HOUR
    assert began(notes) is None


def test_notes_on_all_take_nothing_from_the_budget():
    notes = [Recovery(ALL, HOUR, "incident", "x", Noted.BEGINS)] * 20
    assert len(acted(ration([hurt(n) for n in FLEET[:20]], {ALL: notes}, HOUR))) == DRIVERS_A_MINUTE
