"""Drivers that end again and again: what the operator's own restarts do not mend."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from spike_pipelines.domain.application_facts import ApplicationFacts
from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.sightings import Life
from spike_pipelines.domain.spark_application import AppState, ObservedApplication

LOOP_WINDOW = timedelta(minutes=30)
LOOP: dict[Trouble, int] = {
    Trouble.EVICTED: 2, Trouble.INVALID: 2, Trouble.REFUSED: 1, Trouble.UNSEEN: 4,
}  # fmt: skip
LOOP_ELSE = 3  # lives that ended so within the window: the operator's own restarts did not mend it
BEGUN = frozenset({AppState.SUBMITTED, AppState.RUNNING})


def looping(facts: ApplicationFacts, now: datetime) -> tuple[Trouble, str] | None:
    """The ending that came again and again, if the operator's restarts do not mend it; after a recovery
    it takes one more life that ended. What nobody saw end says least, and only when it alone speaks."""
    ended = [life for life in (facts.sighting.lives if facts.sighting else ()) if life.ending]
    seen = [life for life in ended if life.ending is not Trouble.UNSEEN]
    return _again(facts, seen, now) or _again(facts, [life for life in ended if life not in seen], now)


def _again(facts: ApplicationFacts, ended: Sequence[Life], now: datetime) -> tuple[Trouble, str] | None:
    within = f"within {LOOP_WINDOW.total_seconds() / 60:.0f} min"
    recent = [life.ending for life in ended if life.ending and now - life.seen_at <= LOOP_WINDOW]
    helped = max((r.at for r in facts.recoveries if r.done), default=None)
    if not recent or (helped is not None and ended[-1].seen_at <= helped):
        return None
    last = recent[-1]
    same = recent.count(last)
    if same >= LOOP.get(last, LOOP_ELSE):
        return last, f"{same} drivers {within} ended {last}"
    if len(recent) >= LOOP_ELSE + 1 and last is not Trouble.UNSEEN:
        return Trouble.CRASHING, f"{len(recent)} drivers ended {within}"
    return None


def unproven(facts: ApplicationFacts, app: ObservedApplication) -> bool:
    """The next driver has begun and nobody has heard of it, though somebody listened all its life: no epoch
    but that of one that ended, no refusal, no heartbeat or commit since it was first seen. The operator goes
    from one life to the next faster than we look; and what is done ends a driver."""
    *past, mine = facts.sighting.lives if facts.sighting and facts.sighting.lives else (None,)
    if app.state not in BEGUN or mine is None or mine.submission != app.submission or mine.ending:
        return False
    if facts.refusal is not None and facts.refusal.driver in {mine.submission, mine.uid}:
        return False
    listened, began = facts.listened_since, min(mine.seen_at, app.submitted_at or mine.seen_at)
    if listened is None or listened > began:
        return False
    ended = {name for life in past if life for name in (life.submission, life.uid)}
    beat = facts.epoch.heartbeat_at if facts.epoch and facts.owner else None
    signs = [at for at in (beat, facts.worked_at) if at is not None and at > mine.seen_at]
    return ended.issuperset(facts.owner) and not signs
