"""The second level of recovery for spikes on Kubernetes: list once, compare, act on few (I12: or on none).

Killed at any point: what was noted counts for the back-off, an overlay that only the ledger has is laid
at the next look, and a driver that is only suspended is resumed at the next look.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from socket import gethostname
from time import monotonic
from typing import Protocol

from spike_pipelines.domain.application_supervision import (
    ApplicationFacts,
    ending_of,
    newest,
    one_each,
    outdated,
    retraced,
    supervise_application,
    suspect,
)
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Conflict, InvalidSpec, SpikeError, Transient
from spike_pipelines.domain.fleet import FLEET, Noted, Plan, ration, to_note
from spike_pipelines.domain.ladder import HISTORY
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.domain.observed import NOT_DONE
from spike_pipelines.domain.overlays import NewOverlay, Overlay, OverlayKind
from spike_pipelines.domain.spark_application import ObservedApplication, Sighting, missed, sight
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.supervision import Action, ActionKind, Decision, Verdict
from spike_pipelines.ports import (
    Appender,
    ApplicationCluster,
    Broker,
    Clues,
    LagLedger,
    Manifest,
    Recovery,
    Specs,
    SupervisionLedger,
)
from spike_pipelines.services.promote import released
from spike_pipelines.services.supervise import Recovered, unread_by_the_still

log = logging.getLogger(__name__)
STABLE_AFTER = timedelta(minutes=10)
NEW_SPECS_AT_ONCE = 20  # each costs a request
HISTORIES_AT_ONCE, HISTORY_SECONDS = 20, 5.0  # all of them; an ending not read in time is unseen
LOG_LINES = 20
TOLD_NAMES = 20
LEASE, LEASE_SECONDS = "supervision", 60.0
_CATCHING_UP = frozenset({LagVerdict.CATCHING_UP, LagVerdict.FALLING_BEHIND, LagVerdict.WILL_LOSE})


class FleetLedger(SupervisionLedger, LagLedger, Protocol):
    """The ledger with the verdicts on lag, from which catching up is known."""


@dataclass(frozen=True, slots=True)
class Look:
    """All that one look saw and made of it."""

    facts: Mapping[str, ApplicationFacts]
    plan: Plan
    sightings: Mapping[str, Sighting]
    known: Mapping[str, Specs]
    incidents: Sequence[Recovery]  # what was noted of them
    now: datetime
    as_of: str  # the version of the cluster


@dataclass(frozen=True, slots=True)
class ApplicationSupervisor:
    """`on_demand` is the node label (`key=value`) of nodes that stay, None where there is no difference."""

    ledger: FleetLedger
    cluster: ApplicationCluster
    appender: Appender
    broker: Broker
    spikes: Mapping[str, Spike]
    on_demand: str | None = None

    def look(self) -> tuple[Decision, ...]:
        """The decision on each spike, without an effect. Raises `Transient` if the cluster or the ledger
        could not be observed: then nobody is judged."""
        return self._look().plan.decisions

    def watch(self) -> tuple[Decision, ...]:
        """A look that is remembered: since when what is as it is, and which specs there were."""
        look = self._look()
        self.ledger.note_look(look.as_of, look.now, look.sightings.values())
        self._end_overlays(look)
        self._note_specs(look)
        self._note_incident(look)
        return look.plan.decisions

    def recover_all(self, names: Iterable[str]) -> Iterator[Recovered]:
        """Look again, and do for each of these what is to be done now. One at a time in all the platform:
        while another one is at it, there is nothing to be done here. What this look saw is remembered before
        anything is done: an ending that is only seen later would count as one that it did not help against.
        """
        lease = self.ledger.acquire(LEASE, f"{gethostname()}-{os.getpid()}", LEASE_SECONDS)
        if lease is None:
            return
        failures: list[SpikeError] = []
        with released(self.ledger, lease):
            look, wanted = self._look(), set(names)
            self.ledger.note_look(look.as_of, look.now, look.sightings.values())
            for decision in look.plan.decisions:
                if decision.spike in wanted and decision.action is not None:
                    lease = self.ledger.renew(lease, LEASE_SECONDS)
                    try:
                        done = self._act(look, decision, decision.action)
                    except (Transient, InvalidSpec) as error:  # one spike's, while others can be helped (I11)
                        failures.append(error)
                    else:
                        yield done
            if failures:
                raise failures[0]

    # observe

    def _look(self) -> Look:
        found = one_each(self.cluster.applications())
        since = self.appender.since()
        now = self.ledger.now()
        before, known = self._retraced(found, now), self.ledger.specs()
        epochs, refusals = self.ledger.epochs(), self.ledger.refusals()  # after what may take seconds
        recoveries, converged = _apart(self.ledger.recoveries(now - HISTORY))
        commits = self.ledger.last_commits()
        overlays, lags = self.ledger.open_overlays(), self.ledger.latest_lag()
        doubtful = [
            app.name
            for app in found.values()
            if (spike := self.spikes.get(app.spike))
            and suspect(app, before.get(app.spike), epochs.get(app.spike), now, spike.objectives.hang)
        ]
        pods = self.cluster.pods(doubtful) if doubtful else {}
        unread = unread_by_the_still(self.broker, self.spikes.values(), epochs)
        facts = {}
        for name, spike in self.spikes.items():
            app = found.get(name)
            seen = pods.get(app.name) if app else None
            mine = newest(seen or (), app.submission) if app else None
            specs = known.get(name, Specs())
            facts[name] = ApplicationFacts(
                spike=spike,
                app=app,
                sighting=sight(before.get(name), app, ending_of(app, mine), now, mine.uid if mine else None),
                pods=seen,
                epoch=epochs.get(name),
                recoveries=recoveries.get(name, ()),
                overlays=overlays.get(name, ()),
                appender_since=since,
                worked_at=commits.get(name),
                refusal=refusals.get(name),
                unread=unread.get(name),
                catching_up=name in lags and lags[name].verdict in _CATCHING_UP,
                stable=specs.stable,
                noted=specs.known.get(app.deployed or "") if app else None,
                manifest_known=bool(specs.known),
                on_demand=self.on_demand,
                converged=converged.get(name, ()),
            )
        decisions = [supervise_application(f, now) for f in facts.values()]
        plan = ration(decisions, recoveries, now, commits)
        sightings = {name: f.sighting for name, f in facts.items() if f.sighting is not None}
        as_of = next((app.as_of for app in found.values()), "")
        return Look(facts, plan, sightings, known, recoveries.get(FLEET, ()), now, as_of)

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

    # remember

    def _end_overlays(self, look: Look) -> None:
        """Rows that hold no more and that no resource carries any more."""
        over = []
        for facts in look.facts.values():
            in_use = {o.id for o in (*facts.carried, *facts.holding(look.now))}
            over += [o.id for o in facts.overlays if o.id not in in_use]
        self.ledger.end_overlays(over)

    def _note_specs(self, look: Look) -> None:
        """Of resources as they were deployed: without overlays, not suspended."""
        room = NEW_SPECS_AT_ONCE
        for decision in look.plan.decisions:
            facts = look.facts[decision.spike]
            app, specs = facts.app, look.known.get(decision.spike, Specs())
            if app is None or app.deployed is None or app.controls.overlays or app.suspend:
                continue
            if app.deployed not in specs.known and room:
                room -= 1
                self._note_spec(app, app.deployed)
            elif specs.stable != app.deployed and _works(facts, decision, look.now):
                self.ledger.mark_stable(app.spike, app.deployed)

    def _note_spec(self, app: ObservedApplication, spec: str) -> None:
        try:
            self.ledger.note_spec(app.spike, spec, app.live or "", self.cluster.manifest(app))
        except Conflict:
            return  # changed, deleted or made again meanwhile: the next look sees what there is

    def _note_incident(self, look: Look) -> None:
        """Once for all of them, with one Event, on the resource of the first."""
        incident = look.plan.incident
        note = to_note(incident, look.incidents, look.now)
        if note is None:
            return
        with self.ledger.begin() as tx:
            tx.add_recovery(note)
        if incident is not None and note.verdict == Noted.BEGINS:
            struck = (look.facts[name].app for name in sorted(incident.spikes))
            if (first := next(filter(None, struck), None)) is not None:
                some = ", ".join(sorted(incident.spikes)[:TOLD_NAMES])
                self.cluster.tell(first, "SpikeIncident", f"{incident}: {some} …")

    # act

    def _act(self, look: Look, decision: Decision, action: Action) -> Recovered:
        """Noted and fenced first, done second. What somebody else changed meanwhile is the next look's, and
        no step of the ladder: it was not tried."""
        facts, incident = look.facts[decision.spike], look.plan.incident
        app = facts.app
        clues = self.cluster.clues(app, LOG_LINES) if app is not None else Clues()
        said = decision
        if incident is not None and decision.spike in incident.spikes:
            said = replace(decision, cause=f"{decision.cause}; {incident}")
        try:
            if app is not None and action.stop:
                self._still_so(app, said, action)
            self._do(facts, said, action)
        except Conflict as error:
            said = replace(said, cause=f"{said.cause}; not done: {error}")
            return Recovered(said, action, None, clues.log, clues.events)
        if app is not None:
            self.cluster.tell(
                app, f"Spike{decision.verdict.title().replace('_', '')}", _sentence(said, action)
            )
        return Recovered(said, action, None, clues.log, clues.events)

    def _still_so(self, app: ObservedApplication, decision: Decision, action: Action) -> None:
        """The fence cannot be taken back: no driver is fenced for what is so no longer."""
        try:
            self.cluster.unchanged(app)
        except Conflict:
            what = f"{action.noted}{NOT_DONE}"
            with self.ledger.begin() as tx:
                tx.add_recovery(Recovery(app.spike, tx.now(), what, decision.cause, decision.verdict))
            raise

    def _do(self, facts: ApplicationFacts, decision: Decision, action: Action) -> None:
        app = facts.app
        if action.kind is ActionKind.RESUME and app is not None:
            self.cluster.resume(app)
        elif action.overlay is not None and app is not None:
            self._lay(facts, decision, action, app)
        else:
            noted = self._note(facts, decision, action, None, None)
            if action.request is not None:
                self._end_quarantine(facts)
            try:
                self._change(facts, action, decision.cause)
            except Conflict:
                self.ledger.mark_not_done(noted)
                raise

    def _end_quarantine(self, facts: ApplicationFacts) -> None:
        """By a person who wants it to run. What the resource has of it, the next looks take away."""
        holding = facts.holding(self.ledger.now())
        self.ledger.end_overlays(o.id for o in holding if o.kind is OverlayKind.QUARANTINE)

    def _change(self, facts: ApplicationFacts, action: Action, why: str) -> None:
        app = facts.app
        if action.kind is ActionKind.RECREATE:
            manifest = self._made_of(facts)
            if manifest is not None:
                self.cluster.recreate(manifest)
        elif action.kind is ActionKind.STOP:
            for driver in action.stop:
                self.cluster.stop(driver)
        elif app is None or action.kind is ActionKind.PAGE:
            return
        elif action.kind is ActionKind.CONVERGE:
            self._converge(facts, app)
        elif action.kind is ActionKind.KICK:
            self.cluster.kick(app)
        elif action.kind is ActionKind.RESTART:
            self.cluster.suspend(app, why, action.request)
        elif action.kind is ActionKind.RESUBMIT:
            self.cluster.resubmit(app, why, action.request)

    def _made_of(self, facts: ApplicationFacts) -> Manifest | None:
        """As it was when it was last seen, else as it was last deployed."""
        name, last = facts.spike.name, facts.sighting.spec_hash if facts.sighting else None
        return self.ledger.manifest(name, last) or self.ledger.manifest(name)

    def _lay(
        self, facts: ApplicationFacts, decision: Decision, action: Action, app: ObservedApplication
    ) -> None:
        """The row with what it replaces first: from then on the resource is made to carry it."""
        assert action.overlay is not None
        kind, carried = action.overlay.kind, facts.carried
        same = next((o for o in facts.holding(self.ledger.now()) if o.kind is kind), None)
        if same is not None:
            before = same.before
        else:
            stable = self._gone_back_to(app.spike, (action.overlay, *carried))
            before = self.cluster.replaced_by(app, action.overlay, carried, stable)
        self._note(facts, decision, action, kind, before)
        overlays = self.ledger.open_overlays().get(app.spike, ())
        self._converge(replace(facts, overlays=overlays), app)

    def _converge(self, facts: ApplicationFacts, app: ObservedApplication) -> None:
        holding = facts.holding(self.ledger.now())
        held = {o.id for o in holding}
        ending = tuple(o for o in facts.carried if o.id not in held)
        stable = self._gone_back_to(app.spike, (*holding, *ending))
        self.cluster.converge(app, holding, ending, stable)

    def _gone_back_to(self, spike: str, overlays: Sequence[Overlay | NewOverlay]) -> Manifest | None:
        spec = next((o.value for o in overlays if o.kind is OverlayKind.STABLE_SPEC), None)
        return None if spec is None else self.ledger.manifest(spike, spec)

    def _note(
        self,
        facts: ApplicationFacts,
        decision: Decision,
        action: Action,
        overlay: OverlayKind | None,
        before: str | None,
    ) -> Recovery:
        """One transaction: the recovery, its overlay, and the fence around the driver that is to end. Raises
        `Conflict` if that one was heard since the look, of which the resource does not tell."""
        with self.ledger.begin() as tx:
            if (why := outdated(facts, decision, tx.latest_epoch(decision.spike))) is not None:
                raise Conflict(why)
            noted = Recovery(decision.spike, tx.now(), action.noted, decision.cause, decision.verdict)
            tx.add_recovery(noted)
            if action.overlay is not None and overlay is not None:
                tx.add_overlay(action.overlay, before)
            for driver in action.stop:
                tx.retire_epoch(action.spike, driver)
        return noted


def _apart(
    noted: Mapping[str, Sequence[Recovery]],
) -> tuple[Mapping[str, Sequence[Recovery]], Mapping[str, Sequence[Recovery]]]:
    """Steps that were tried, and what only made resources carry what was laid: no step of a ladder."""
    steps = {name: [r for r in done if not _converges(r)] for name, done in noted.items()}
    return steps, {name: [r for r in done if _converges(r)] for name, done in noted.items()}


def _converges(recovery: Recovery) -> bool:
    return recovery.action.removesuffix(NOT_DONE) == ActionKind.CONVERGE


def _works(facts: ApplicationFacts, decision: Decision, now: datetime) -> bool:
    """Its driver, begun since it was deployed, runs this spec for a while, and has committed."""
    epoch, app, worked, sighting = facts.epoch, facts.app, facts.worked_at, facts.sighting
    if epoch is None or app is None or worked is None or epoch.state is not EpochState.OPEN:
        return False
    if sighting is None or epoch.opened_at < sighting.spec_since:
        return False
    runs = decision.verdict is Verdict.RUNNING and epoch.application_version == app.spec_hash
    return runs and now - epoch.opened_at >= STABLE_AFTER and worked > epoch.opened_at


def _sentence(decision: Decision, action: Action) -> str:
    what = f"{action.overlay.kind} {action.overlay.value}" if action.overlay else action.noted
    return f"{what}: {decision.cause}"
