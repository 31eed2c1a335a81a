"""A whole fleet's decisions before anything is done: one incident is not a hundred, and haste has a bound.

The operator submits about 130 drivers a minute: to restart more at once makes a queue that looks like a
hundred stuck applications. And what many have at the same time is not the fault of each.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import OverlayKind
from spike_pipelines.domain.supervision import ActionKind, Decision

MINUTE = timedelta(minutes=1)
INCIDENT_LEAST = 5
INCIDENT_SHARE = 0.2
ONSET = timedelta(minutes=15)  # what was in trouble before is a matter of its own
AFTERMATH = timedelta(minutes=10)  # without so many in trouble, until an incident is over
NOTED_EVERY = timedelta(minutes=5)
OWN = frozenset({Trouble.REFUSED, Trouble.INVALID})  # nothing that happens around a spike makes these
FLEET = "*"  # in the place of a spike: what is noted of all of them
KICKS_A_MINUTE = 100
DRIVERS_A_MINUTE = 20  # ended and started: far below what the operator can take
# In an incident the cause is not the spike's own: nobody is put away, and of the specs only the nodes are
# changed (a wave of spot nodes that go is such an incident).
NOT_IN_AN_INCIDENT = frozenset({ActionKind.OVERLAY, ActionKind.PAGE})
ALSO_IN_AN_INCIDENT = OverlayKind.ON_DEMAND
FREE = frozenset({ActionKind.RESUME, ActionKind.CONVERGE})  # they finish what was counted when it began


class Noted(StrEnum):
    """What the ledger has of an incident, as verdicts on `FLEET`."""

    BEGINS = "INCIDENT"
    GOES_ON = "INCIDENT_GOES_ON"
    OVER = "INCIDENT_OVER"


@dataclass(frozen=True, slots=True)
class Incident:
    """Many in trouble at once: of `fleet` spikes those `spikes`, most of them with `trouble`."""

    trouble: Trouble
    spikes: frozenset[str]
    fleet: int

    def __str__(self) -> str:
        return f"incident: {len(self.spikes)} of {self.fleet} spikes at once, most of them {self.trouble}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order of their spikes; what is not to be done now has lost its action."""

    decisions: tuple[Decision, ...]
    incident: Incident | None


def incident_in(
    decisions: Sequence[Decision], onsets: Mapping[str, datetime], began: datetime
) -> Incident | None:
    """Of those whose trouble is not older than it, who are enough: each trouble alone may be a spike's own,
    unless it is what most of them have."""
    troubled = [d for d in decisions if d.trouble and onsets.get(d.spike, began) >= began - ONSET]
    if not troubled:
        return None
    most = Counter(d.trouble for d in troubled if d.trouble).most_common(1)[0][0]
    struck = frozenset(d.spike for d in troubled if d.trouble == most or d.trouble not in OWN)
    enough = max(INCIDENT_LEAST, math.ceil(INCIDENT_SHARE * len(decisions)))
    return Incident(most, struck, len(decisions)) if len(struck) >= enough else None


def onset(recoveries: Sequence[Recovery], worked_at: datetime | None) -> datetime | None:
    """Since when, at the latest, it has been in trouble: the first recovery after which it committed nothing.
    None: nothing was tried yet, or what was tried helped."""
    return next((r.at for r in recoveries if worked_at is None or r.at > worked_at), None)


def began(notes: Sequence[Recovery]) -> datetime | None:
    """When the incident began that is not over; `notes` oldest first."""
    since: datetime | None = None
    for note in notes:
        since = None if note.verdict == Noted.OVER else since or note.at
    return since


def in_incident(newest: tuple[str, datetime] | None, now: datetime) -> bool:
    """By the newest note: (what, when). One that goes on is noted again and again; where nobody does that any
    more nobody knows."""
    if newest is None:
        return False
    note, at = newest
    return note != Noted.OVER and now - at <= 2 * NOTED_EVERY + AFTERMATH


def to_note(incident: Incident | None, notes: Sequence[Recovery], now: datetime) -> Recovery | None:
    """What is to be written down of it now: that it begins, goes on, or is over."""
    open_now = began(notes) is not None
    if incident is not None and not open_now:
        return Recovery(FLEET, now, "incident", str(incident), Noted.BEGINS)
    if incident is not None and now - notes[-1].at >= NOTED_EVERY:
        return Recovery(FLEET, now, "incident", str(incident), Noted.GOES_ON)
    if incident is None and open_now and now - notes[-1].at >= AFTERMATH:
        return Recovery(FLEET, now, "incident", "the incident is over", Noted.OVER)
    return None


def ration(
    decisions: Sequence[Decision],
    recoveries: Mapping[str, Sequence[Recovery]],
    now: datetime,
    worked: Mapping[str, datetime] | None = None,
) -> Plan:
    """What may be done now. Who was helped least often comes first, so that nobody starves. `worked` says
    when each spike committed last."""
    firsts = {name: onset(done, (worked or {}).get(name)) for name, done in recoveries.items()}
    onsets = {name: at for name, at in firsts.items() if at is not None}
    incident = incident_in(decisions, onsets, began(recoveries.get(FLEET, ())) or now)
    left = _left(recoveries, now)
    order = sorted(decisions, key=lambda d: (len(recoveries.get(d.spike, ())), d.spike))
    allowed = {d.spike for d in order if d.action and _may(d, incident, left)}
    return Plan(
        tuple(_held(d, incident) if d.action and d.spike not in allowed else d for d in decisions), incident
    )


def _may(decision: Decision, incident: Incident | None, left: dict[bool, int]) -> bool:
    action = decision.action
    assert action is not None
    struck = incident is not None and decision.spike in incident.spikes
    if action.kind in FREE or action.request is not None:
        return True
    nodes = action.overlay is not None and action.overlay.kind is ALSO_IN_AN_INCIDENT
    if struck and action.kind in NOT_IN_AN_INCIDENT and not nodes:
        return False
    cheap = action.kind is ActionKind.KICK
    left[cheap] -= 1
    return left[cheap] >= 0


def _left(recoveries: Mapping[str, Sequence[Recovery]], now: datetime) -> dict[bool, int]:
    known = (done for spike, done in recoveries.items() if spike != FLEET)
    recent = [r for done in known for r in done if r.done and now - r.at < MINUTE]
    kicks = sum(r.action == ActionKind.KICK for r in recent)
    return {True: KICKS_A_MINUTE - kicks, False: DRIVERS_A_MINUTE - (len(recent) - kicks)}


def _held(decision: Decision, incident: Incident | None) -> Decision:
    struck = incident is not None and decision.spike in incident.spikes
    why = str(incident) if struck else f"held back: {DRIVERS_A_MINUTE} drivers a minute are restarted at most"
    return replace(decision, action=None, cause=f"{decision.cause}; {why}")


def names(decisions: Iterable[Decision]) -> tuple[str, ...]:
    return tuple(d.spike for d in decisions if d.action)
