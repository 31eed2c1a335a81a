"""A whole fleet's decisions before anything is done: one incident is not a hundred, and haste has a bound.

The operator submits about 130 drivers a minute: to restart more at once makes a queue that looks like a
hundred stuck applications. And what many have at the same time is not the fault of each.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import OverlayKind
from spike_pipelines.domain.supervision import ActionKind, Decision

MINUTE = timedelta(minutes=1)
INCIDENT_LEAST = 5
INCIDENT_SHARE = 0.2
KICKS_A_MINUTE = 100
DRIVERS_A_MINUTE = 20  # ended and started: far below what the operator can take
# In an incident the cause is not the spike's own: nobody is put away, and of the specs only the nodes are
# changed (a wave of spot nodes that go is such an incident).
NOT_IN_AN_INCIDENT = frozenset({ActionKind.OVERLAY, ActionKind.PAGE})
ALSO_IN_AN_INCIDENT = OverlayKind.ON_DEMAND
FREE = frozenset({ActionKind.RESUME, ActionKind.CONVERGE})  # they finish what was counted when it began


@dataclass(frozen=True, slots=True)
class Incident:
    """Many in trouble at once: of `fleet` spikes those `spikes`, most of them with `trouble`."""

    trouble: str
    spikes: tuple[str, ...]
    fleet: int

    def __str__(self) -> str:
        return f"incident: {len(self.spikes)} of {self.fleet} spikes at once, most of them {self.trouble}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order of their spikes; what is not to be done now has lost its action."""

    decisions: tuple[Decision, ...]
    incident: Incident | None


def incident_in(decisions: Sequence[Decision]) -> Incident | None:
    troubled = [d for d in decisions if d.trouble is not None]
    if len(troubled) < max(INCIDENT_LEAST, math.ceil(INCIDENT_SHARE * len(decisions))):
        return None
    most = Counter(d.trouble for d in troubled if d.trouble).most_common(1)[0][0]
    return Incident(most, tuple(d.spike for d in troubled), len(decisions))


def ration(
    decisions: Sequence[Decision], recoveries: Mapping[str, Sequence[Recovery]], now: datetime
) -> Plan:
    """What may be done now. Who was helped least often comes first, so that nobody starves."""
    incident = incident_in(decisions)
    left = _left(recoveries, now)
    order = sorted(decisions, key=lambda d: (len(recoveries.get(d.spike, ())), d.spike))
    allowed = {d.spike for d in order if d.action and _may(d, incident, left)}
    return Plan(
        tuple(_held(d, incident) if d.action and d.spike not in allowed else d for d in decisions), incident
    )


def _may(decision: Decision, incident: Incident | None, left: dict[bool, int]) -> bool:
    action = decision.action
    assert action is not None
    if action.kind in FREE or action.request is not None:
        return True
    nodes = action.overlay is not None and action.overlay.kind is ALSO_IN_AN_INCIDENT
    if incident is not None and action.kind in NOT_IN_AN_INCIDENT and not nodes:
        return False
    cheap = action.kind is ActionKind.KICK
    left[cheap] -= 1
    return left[cheap] >= 0


def _left(recoveries: Mapping[str, Sequence[Recovery]], now: datetime) -> dict[bool, int]:
    recent = [r for done in recoveries.values() for r in done if r.done and now - r.at < MINUTE]
    kicks = sum(r.action == ActionKind.KICK for r in recent)
    return {True: KICKS_A_MINUTE - kicks, False: DRIVERS_A_MINUTE - (len(recent) - kicks)}


def _held(decision: Decision, incident: Incident | None) -> Decision:
    why = (
        str(incident) if incident else f"held back: {DRIVERS_A_MINUTE} drivers a minute are restarted at most"
    )
    return replace(decision, action=None, cause=f"{decision.cause}; {why}")


def names(decisions: Iterable[Decision]) -> tuple[str, ...]:
    return tuple(d.spike for d in decisions if d.action)
