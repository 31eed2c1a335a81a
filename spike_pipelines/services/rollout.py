"""A deployment, seen through: put in place, watched until it works, or taken back with the reason.

Nothing is kept in between. Killed at any point, the same deployment again ends it: each effect is one
that twice is as once, and whether it works is read from the ledger, not remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from spike_pipelines.domain.batch import LIVE_LANE
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.errors import Conflict, InvalidSpec, Transient
from spike_pipelines.domain.kubernetes_names import resource_name
from spike_pipelines.domain.lag import LagReport
from spike_pipelines.domain.rollout import Rollout, RolloutFacts, RolloutVerdict, is_late, judge_rollout
from spike_pipelines.domain.sightings import UNDEPLOYED
from spike_pipelines.domain.spark_application import ObservedApplication
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import ApplicationCluster, ApplicationShelf, Deployed, Deployer, SupervisionLedger

LOOK_SECONDS = 5.0
WORKED_BEFORE = "this same spec was seen to work, so another one would mend nothing"
LOOKED_AT = 100  # batches of a spike: its last minutes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `back_to` is the revision that was gone back to, None where that was not called for
    or not possible."""

    verdict: RolloutVerdict
    back_to: int | None = None


@dataclass(frozen=True, slots=True)
class _Watched:
    """What stays the same of `RolloutFacts`."""

    spike: Spike
    since: datetime
    spec: str
    changed: bool
    was_late: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """`lag` looks at one spike; `tell` gets a line whenever something else is waited for; `wait` sleeps."""

    ledger: SupervisionLedger
    cluster: ApplicationCluster
    deployer: Deployer
    shelf: ApplicationShelf
    lag: Callable[[Spike], LagReport]
    tell: Callable[[str], None]
    wait: Callable[[float], None]

    def deploy(self, spike: Spike, application: Path, patience: timedelta) -> Outcome:
        """Raises `InvalidSpec`, `Conflict`, `Transient` from before anything was replaced."""
        before, since = self._own(spike.name), self.ledger.now()
        was_late = is_late(spike, self.lag(spike))
        deployed = self._put_in_place(spike, application)
        self.tell(
            f"revision {deployed.revision} of {spike.resource_name}, version {spike.version}, is deployed"
        )
        changed = deployed.changed or before is None or before.deployed != deployed.spec
        verdict = self._watch(_Watched(spike, since, deployed.spec, changed, was_late), patience)
        if verdict.state is Rollout.FAILED and self._stable(spike) == deployed.spec:
            verdict = RolloutVerdict(Rollout.UNDECIDED, f"{verdict.reason}; {WORKED_BEFORE}")
        if verdict.state is Rollout.STABLE:
            self._mark(spike, deployed.spec)
            self.cluster.forget_files(spike.name, {spike.version}, since)
        back_to = self._take_back(spike, deployed) if verdict.state is Rollout.FAILED else None
        return Outcome(verdict, back_to)

    def undeploy(self, name: str) -> bool:
        """End a spike; whether there was one. The file first: without it nobody misses the resource. What the
        ledger has of it stays. Twice is as once. Raises `InvalidSpec` for another spike's release."""
        self._own(name)
        self.shelf.remove(name)
        self.tell(f"its file has left the cluster; if this ends early, `spike undeploy {name}` goes on")
        was_there = self.deployer.uninstall(resource_name(name))
        if (seen := self.ledger.sightings().get(name)) is not None:
            gone = replace(seen, state_text=UNDEPLOYED, since=self.ledger.now())
            self.ledger.note_sightings([gone])  # a look may have the file for another minute
        self.cluster.forget_files(name, frozenset(), None)
        return was_there

    def _put_in_place(self, spike: Spike, application: Path) -> Deployed:
        """The shelf first: the appender must know the new driver's spike. What is refused leaves the file
        that was there; whether something was deployed that did not answer is not known, so it stays."""
        before = self.shelf.get(spike.name)
        self.shelf.put(spike.name, application.read_text())
        try:
            return self.deployer.deploy(spike, application)
        except (InvalidSpec, Conflict):
            self.shelf.put(spike.name, before) if before is not None else self.shelf.remove(spike.name)
            raise

    def _stable(self, spike: Spike) -> str | None:
        specs = self.ledger.specs().get(spike.name)
        return specs.stable if specs else None

    def _watch(self, watched: _Watched, patience: timedelta) -> RolloutVerdict:
        """Looks are bounded too, so that a ledger that does not answer ends the watch as well."""
        told = ""
        verdict = RolloutVerdict(Rollout.WAITING, "")
        for _ in range(int(patience.total_seconds() / LOOK_SECONDS) + 2):
            verdict = self._look(watched, patience)
            if verdict.state is not Rollout.WAITING:
                return verdict
            if verdict.reason != told:
                told = verdict.reason
                self.tell(f"waiting: {told}")
            self.wait(LOOK_SECONDS)
        return RolloutVerdict(Rollout.UNDECIDED, verdict.reason)

    def _look(self, watched: _Watched, patience: timedelta) -> RolloutVerdict:
        name = watched.spike.name
        try:
            epoch = self.ledger.epochs().get(name)
            facts = RolloutFacts(
                spike=watched.spike,
                since=watched.since,
                changed=watched.changed,
                epoch=epoch,
                committed_at=self._committed_at(name, epoch),
                refusal=self.ledger.refusals().get(name),
                lag=self.lag(watched.spike),
                was_late=watched.was_late,
                unlike=_unlike(self._resource(watched.spike), watched.spec),
            )
            return judge_rollout(facts, self.ledger.now(), patience)
        except Transient as error:
            return RolloutVerdict(Rollout.WAITING, f"ledger or cluster do not tell: {error}")

    def _committed_at(self, spike: str, epoch: Epoch | None) -> datetime | None:
        if epoch is None:
            return None
        mine = [
            b for b in self.ledger.last_batches(spike, LOOKED_AT) if b.epoch == epoch.number and not b.lost
        ]
        return max((b.committed_at for b in mine if b.lane == LIVE_LANE and b.committed_at), default=None)

    def _own(self, name: str) -> ObservedApplication | None:
        """Its resource, if there is one. Names that differ in dots and hyphens are one in Kubernetes: a slip
        would replace or end another spike's, so that is refused."""
        app = next((a for a in self.cluster.applications() if a.name == resource_name(name)), None)
        if app is not None and app.spike != name:
            raise InvalidSpec(f"{app.name} is {app.spike}'s, not {name}'s: two spikes cannot share it")
        return app

    def _resource(self, spike: Spike) -> ObservedApplication | None:
        found = self.cluster.applications()
        return next((a for a in found if (a.spike, a.name) == (spike.name, spike.resource_name)), None)

    def _mark(self, spike: Spike, spec: str) -> None:
        """Write the spec down as one that works: what the supervisor goes back to after a bad one. One that
        is no longer as it was deployed, the supervisor notes and marks once it is."""
        app = self._resource(spike)
        if app is not None and _unlike(app, spec) is None:
            self.ledger.note_spec(spike.name, spec, app.live or "", self.cluster.manifest(app))
            self.ledger.mark_stable(spike.name, spec)

    def _take_back(self, spike: Spike, bad: Deployed) -> int | None:
        stable = self._stable(spike)
        revision = self.deployer.good_revision(spike, bad.revision, stable)
        if revision is None and stable is not None:
            revision = self.deployer.good_revision(spike, bad.revision, None)
        if revision is not None:
            self.shelf.put(spike.name, self.deployer.application(spike, revision))
            self.deployer.roll_back(spike, revision)
        return revision


def _unlike(app: ObservedApplication | None, spec: str) -> str | None:
    """How the resource is not what was deployed: what works then says nothing of the spec."""
    if app is None:
        return "its resource is gone"
    if app.deployed != spec:
        return f"the resource is at {app.deployed}"
    if app.controls.overlays:
        return f"{app.controls.overlays} lies over it"
    return "it is suspended" if app.suspend else None
