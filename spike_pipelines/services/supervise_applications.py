"""The second level of recovery for spikes on Kubernetes: list once, compare, act on few (I12: or on none).

Killed at any point: what was noted counts for the back-off, an overlay that only the ledger has is laid
at the next look, and a driver that is only suspended is resumed at the next look.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from socket import gethostname

from spike_pipelines.domain.application_facts import ApplicationFacts
from spike_pipelines.domain.application_supervision import outdated
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Conflict, InvalidSpec, SpikeError, Transient
from spike_pipelines.domain.fleet import FLEET, Noted, to_note
from spike_pipelines.domain.observed import NOT_DONE, Recovery
from spike_pipelines.domain.overlays import NewOverlay, Overlay, OverlayKind
from spike_pipelines.domain.spark_application import ObservedApplication
from spike_pipelines.domain.supervision import Action, ActionKind, Decision, Verdict
from spike_pipelines.ports import Clues, Manifest, Specs
from spike_pipelines.services.observe_applications import ApplicationObserver, Look
from spike_pipelines.services.promote import released
from spike_pipelines.services.supervise import Recovered

STABLE_AFTER = timedelta(minutes=10)
NEW_SPECS_AT_ONCE = 20  # each costs a request
LOG_LINES = 20
TOLD_NAMES = 20
LEASE, LEASE_SECONDS = "supervision", 60.0


@dataclass(frozen=True, slots=True)
class ApplicationSupervisor(ApplicationObserver):
    """Acts on what it sees."""

    def look(self) -> tuple[Decision, ...]:
        """The decision on each spike, without an effect. Raises `Transient` if the cluster or the ledger
        could not be observed: then nobody is judged."""
        return self.see().plan.decisions

    def watch(self) -> tuple[Decision, ...]:
        """A look that is remembered: since when what is as it is, and which specs there were."""
        look = self.see()
        self._note_look(look)
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
            look, wanted = self.see(), set(names)
            self._note_look(look)
            for decision in look.plan.decisions:
                if decision.spike in wanted and decision.action is not None:
                    self.ledger.renew(lease, LEASE_SECONDS)
                    try:
                        done = self._act(look, decision, decision.action)
                    except (Transient, InvalidSpec) as error:  # one spike's, while others can be helped (I11)
                        failures.append(error)
                    else:
                        yield done
            if failures:
                raise failures[0]

    # remember

    def _note_look(self, look: Look) -> None:
        self.ledger.note_look(look.seen.as_of, look.seen.now, look.sightings)

    def _end_overlays(self, look: Look) -> None:
        """Rows that hold no more and that no resource carries any more."""
        over = []
        for facts in look.facts.values():
            in_use = {o.id for o in (*facts.carried, *facts.holding(look.seen.now))}
            over += [o.id for o in facts.overlays if o.id not in in_use]
        self.ledger.end_overlays(over)

    def _note_specs(self, look: Look) -> None:
        """Of resources as they were deployed: without overlays, not suspended."""
        room = NEW_SPECS_AT_ONCE
        for decision in look.plan.decisions:
            facts = look.facts[decision.spike]
            app, specs = facts.app, look.seen.specs.get(decision.spike, Specs())
            if app is None or app.deployed is None or app.controls.overlays or app.suspend:
                continue
            if app.deployed not in specs.known and room:
                room -= 1
                self._note_spec(app, app.deployed)
            elif specs.stable != app.deployed and _works(facts, decision, look.seen.now):
                self.ledger.mark_stable(app.spike, app.deployed)

    def _note_spec(self, app: ObservedApplication, spec: str) -> None:
        try:
            self.ledger.note_spec(app.spike, spec, app.live or "", self.cluster.manifest(app))
        except Conflict:
            return  # changed, deleted or made again meanwhile: the next look sees what there is

    def _note_incident(self, look: Look) -> None:
        """Once for all of them, with one Event, on the resource of the first."""
        incident = look.plan.incident
        note = to_note(incident, look.seen.recoveries.get(FLEET, ()), look.seen.now)
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
