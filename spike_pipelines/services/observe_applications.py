"""What one look at a fleet on Kubernetes sees, and what the domain makes of it: without an effect.

One list of resources, the ledger, and of few more than that: pods of suspects, the history of drivers that
ended between two looks, log ends of drivers that stand still.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Protocol

from spike_pipelines.domain.application_facts import (
    ApplicationFacts,
    ending_of,
    newest,
    one_each,
    retraced,
    suspect,
)
from spike_pipelines.domain.application_supervision import supervise_application
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.errors import SpikeError
from spike_pipelines.domain.fleet import Plan, ration
from spike_pipelines.domain.ladder import HISTORY
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.observed import NOT_DONE, Recovery, Refusal
from spike_pipelines.domain.overlays import Overlay
from spike_pipelines.domain.sightings import Sighting, missed, sight
from spike_pipelines.domain.spark_application import ObservedApplication, PodSight
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.supervision import ActionKind
from spike_pipelines.ports import Appender, ApplicationCluster, Broker, LagLedger, Specs, SupervisionLedger
from spike_pipelines.services.supervise import unread_by_the_still

log = logging.getLogger(__name__)
HISTORIES_AT_ONCE, HISTORY_SECONDS = 20, 5.0  # all of them; an ending not read in time is unseen
_CATCHING_UP = frozenset({LagVerdict.CATCHING_UP, LagVerdict.FALLING_BEHIND, LagVerdict.WILL_LOSE})


class FleetLedger(SupervisionLedger, LagLedger, Protocol):
    """The ledger with the verdicts on lag, from which catching up is known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All of the outside world that one look saw, by spike; pods by resource, of suspects only."""

    now: datetime
    apps: Mapping[str, ObservedApplication]
    before: Mapping[str, Sighting]
    pods: Mapping[str, tuple[PodSight, ...]]
    epochs: Mapping[str, Epoch]
    refusals: Mapping[str, Refusal]
    recoveries: Mapping[str, Sequence[Recovery]]
    converged: Mapping[str, Sequence[Recovery]]
    commits: Mapping[str, datetime]
    overlays: Mapping[str, tuple[Overlay, ...]]
    lags: Mapping[str, LagReport]
    specs: Mapping[str, Specs]
    unread: Mapping[str, int]
    appender_since: datetime | None

    @property
    def as_of(self) -> str:
        """The version of the cluster."""
        return next((app.as_of for app in self.apps.values()), "")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw, and made of it."""

    facts: Mapping[str, ApplicationFacts]
    plan: Plan
    seen: Seen

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """What is to be remembered."""
        return tuple(f.sighting for f in self.facts.values() if f.sighting is not None)


@dataclass(frozen=True, slots=True)
class ApplicationObserver:
    """`on_demand` is the node label (`key=value`) of nodes that stay, None where there is no difference."""

    ledger: FleetLedger
    cluster: ApplicationCluster
    appender: Appender
    broker: Broker
    spikes: Mapping[str, Spike]
    on_demand: str | None = None

    def see(self) -> Look:
        """Raises `Transient` if the cluster or the ledger could not be observed: then nobody is judged."""
        seen = self._observe()
        facts = {name: self._facts(spike, seen) for name, spike in self.spikes.items()}
        decisions = [supervise_application(f, seen.now) for f in facts.values()]
        plan = ration(decisions, seen.recoveries, seen.now, seen.commits)
        return Look(facts, plan, seen)

    def _observe(self) -> Seen:
        """What the ledger has of drivers is read after what may take seconds: it is what may end one."""
        found = one_each(self.cluster.applications())
        since = self.appender.since()
        now = self.ledger.now()
        before, specs = self._retraced(found, now), self.ledger.specs()
        epochs, refusals = self.ledger.epochs(), self.ledger.refusals()
        recoveries, converged = _apart(self.ledger.recoveries(now - HISTORY))
        overlays, lags = self.ledger.open_overlays(), self.ledger.latest_lag()
        pods = self._pods_of_suspects(found, before, epochs, now)
        unread = unread_by_the_still(self.broker, self.spikes.values(), epochs)
        return Seen(
            now=now,
            apps=found,
            before=before,
            pods=pods,
            epochs=epochs,
            refusals=refusals,
            recoveries=recoveries,
            converged=converged,
            commits=self.ledger.last_commits(),
            overlays=overlays,
            lags=lags,
            specs=specs,
            unread=unread,
            appender_since=since,
        )

    def _pods_of_suspects(
        self,
        found: Mapping[str, ObservedApplication],
        before: Mapping[str, Sighting],
        epochs: Mapping[str, Epoch],
        now: datetime,
    ) -> Mapping[str, tuple[PodSight, ...]]:
        """By resource name."""
        suspects = [
            app.name
            for name, app in found.items()
            if (spike := self.spikes.get(name))
            and suspect(app, before.get(name), epochs.get(name), now, spike.objectives.hang)
        ]
        return self.cluster.pods(suspects) if suspects else {}

    def _facts(self, spike: Spike, seen: Seen) -> ApplicationFacts:
        name, app = spike.name, seen.apps.get(spike.name)
        pods = seen.pods.get(app.name) if app else None
        mine = newest(pods or (), app.submission) if app else None
        specs = seen.specs.get(name, Specs())
        return ApplicationFacts(
            spike=spike,
            app=app,
            sighting=sight(
                seen.before.get(name), app, ending_of(app, mine), seen.now, mine.uid if mine else None
            ),
            pods=pods,
            epoch=seen.epochs.get(name),
            recoveries=seen.recoveries.get(name, ()),
            overlays=seen.overlays.get(name, ()),
            appender_since=seen.appender_since,
            worked_at=seen.commits.get(name),
            refusal=seen.refusals.get(name),
            unread=seen.unread.get(name),
            catching_up=name in seen.lags and seen.lags[name].verdict in _CATCHING_UP,
            stable=specs.stable,
            noted=specs.known.get(app.deployed or "") if app else None,
            manifest_known=bool(specs.known),
            on_demand=self.on_demand,
            converged=seen.converged.get(name, ()),
        )

    def _retraced(self, found: Mapping[str, ObservedApplication], now: datetime) -> Mapping[str, Sighting]:
        """What is remembered, brought up to where this look begins: what passed since the last one is asked
        for where a driver's ending did. Best effort: an ending that cannot be had is unseen."""
        before, until = dict(self.ledger.sightings()), monotonic() + HISTORY_SECONDS
        lost = [app for s, app in found.items() if s in self.spikes and missed(app, before.get(s))]
        since = self.ledger.last_look() if lost else None
        for app in lost[:HISTORIES_AT_ONCE]:
            if since is None or monotonic() > until:
                break
            try:
                before[app.spike] = retraced(before[app.spike], self.cluster.history(app, since), now)
            except SpikeError as error:
                log.info("how the last driver of %s ended is not known: %s", app.spike, error)
        return before


def _apart(
    noted: Mapping[str, Sequence[Recovery]],
) -> tuple[Mapping[str, Sequence[Recovery]], Mapping[str, Sequence[Recovery]]]:
    """Steps that were tried, and what only made resources carry what was laid: no step of a ladder."""
    steps = {name: [r for r in done if not _converges(r)] for name, done in noted.items()}
    return steps, {name: [r for r in done if _converges(r)] for name, done in noted.items()}


def _converges(recovery: Recovery) -> bool:
    return recovery.action.removesuffix(NOT_DONE) == ActionKind.CONVERGE
