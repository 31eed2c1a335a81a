"""What the supervisor on Kubernetes keeps: in a real PostgreSQL and in memory the same."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, empty

from spike_pipelines.adapters.memory_ledger import MemoryLedger
from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import NewOverlay, OverlayKind
from spike_pipelines.domain.sightings import Life, Sighting
from spike_pipelines.ports import Manifest, Specs

SEEN = Sighting(
    "payouts", "u", "RUNNING", HOUR, "v2", HOUR, (Life("s1", HOUR, "crashing"), Life("s2", HOUR, uid="p"))
)
MORE = NewOverlay("payouts", OverlayKind.MEMORY, "768m", "OOMKilled", "v2", timedelta(hours=1))


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def ledger(request):
    if request.param == "memory":
        return MemoryLedger()
    found = request.getfixturevalue("session_ledger")
    empty(found)
    return found


def test_a_sighting_comes_back_as_it_was_written_and_the_newest_counts(ledger):
    other = replace(SEEN, spike="session", spec_hash=None, lives=())
    ledger.note_sightings([SEEN, other])
    assert ledger.sightings() == {"payouts": SEEN, "session": other}
    later = replace(SEEN, state_text="FAILING", since=HOUR + timedelta(minutes=1))
    ledger.note_sightings([later])
    assert ledger.sightings() == {"payouts": later, "session": other}
    ledger.note_sightings([])


def test_a_look_is_remembered_by_what_it_was_of_and_is_no_sighting(ledger):
    assert ledger.last_look() is None
    ledger.note_look("100", HOUR, [])
    ledger.note_look("117", HOUR, [SEEN])
    assert (ledger.last_look(), ledger.sightings()) == ("117", {"payouts": SEEN})
    other = replace(SEEN, spike="session")
    ledger.note_look("118", HOUR + timedelta(seconds=1), [SEEN, other])
    assert (ledger.last_look(), ledger.sightings()) == ("118", {"payouts": SEEN, "session": other})
    ledger.note_look("", HOUR + timedelta(seconds=2), [])
    assert ledger.last_look() is None


def test_a_look_is_noted_with_all_that_it_saw_or_not_at_all(ledger):
    ledger.note_look("100", HOUR, [SEEN])
    unfit = replace(SEEN, spike=None)
    with pytest.raises(Exception, match="spike"):
        ledger.note_look("117", HOUR + timedelta(seconds=1), [replace(SEEN, uid="w"), unfit])
    assert (ledger.last_look(), ledger.sightings()) == ("100", {"payouts": SEEN})


def test_a_look_that_took_longer_than_a_later_one_does_not_replace_it(ledger):
    ledger.note_look("117", HOUR, [SEEN])
    ledger.note_look("100", HOUR - timedelta(seconds=1), [replace(SEEN, state_text="FAILING")])
    assert (ledger.last_look(), ledger.sightings()) == ("117", {"payouts": SEEN})


def test_what_was_not_done_is_told_from_what_was(ledger):
    with ledger.begin() as tx:
        first = Recovery("payouts", tx.now(), "kick", "stuck", "STUCK")
        second = replace(first, at=first.at + timedelta(seconds=1))
        tx.add_recovery(first)
        tx.add_recovery(second)
    ledger.mark_not_done(second)
    noted = ledger.recoveries(first.at - timedelta(minutes=1))["payouts"]
    assert noted == (first, replace(second, action="kick (not done)"))


def test_an_overlay_is_open_until_it_is_ended_and_expires_by_the_ledgers_clock(ledger):
    with ledger.begin() as tx:
        made = tx.add_overlay(MORE, '{"driver": {"memory": "512m"}}')
    assert ledger.open_overlays() == {"payouts": (made,)}
    assert made.expires_at - made.created_at == MORE.lasts
    assert abs(made.created_at - ledger.now()) < timedelta(minutes=1)
    ledger.end_overlays([made.id])
    ledger.end_overlays([made.id])
    ledger.end_overlays([])
    assert ledger.open_overlays() == {}


def test_a_spec_is_known_from_when_it_was_seen_and_stable_once_it_worked(ledger):
    for name in ("v1", "v2"):
        ledger.note_spec("payouts", name, f"live {name}", Manifest(json.dumps({"spec": {"image": name}})))
    ledger.note_spec("payouts", "v1", "edited", Manifest('{"spec": {"image": "another"}}'))
    assert ledger.specs() == {"payouts": Specs({"v1": "live v1", "v2": "live v2"}, None)}
    ledger.mark_stable("payouts", "v1")
    ledger.mark_stable("payouts", "never seen")
    assert ledger.specs()["payouts"].stable == "v1"
    assert json.loads(ledger.manifest("payouts", "v1")) == {"spec": {"image": "v1"}}
    assert json.loads(ledger.manifest("payouts")) == {"spec": {"image": "v2"}}
    assert ledger.manifest("session") is None
