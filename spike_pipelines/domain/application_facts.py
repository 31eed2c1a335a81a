"""What one look at a spike on Kubernetes, and what is remembered of earlier ones, tell the supervisor."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spike_pipelines.domain.causes import Evidence, Trouble, trouble_of, untold
from spike_pipelines.domain.epochs import Epoch, EpochState
from spike_pipelines.domain.kubernetes_names import advice_on
from spike_pipelines.domain.observed import Recovery, Refusal, listened_since
from spike_pipelines.domain.overlays import Overlay, active, marked
from spike_pipelines.domain.sightings import Sighting, sight
from spike_pipelines.domain.spark_application import ENDING, AppState, ObservedApplication, PodSight
from spike_pipelines.domain.spike import Spike


@dataclass(frozen=True, slots=True)
class ApplicationFacts:
    """One spike at one moment. `app` is None where there is no resource; `sighting` is what is remembered,
    this look included; `pods` are the driver pods, None if nobody asked (only suspects are asked about).
    `recoveries` are those of `ladder.HISTORY`, oldest first, but for those that only made the resource carry
    what holds: these are `converged`; `overlays` all rows that have not ended;
    `worked_at` is the last commit; `stable` names the last spec that was seen to work; `noted` is the digest
    of the present one as it was when it was first seen, None if it was not yet;
    `manifest_known` says that a deleted resource could be made again; `on_demand` is the node label for
    overlays of that kind, if there is such a thing here. The rest is as in `SpikeFacts`."""

    spike: Spike
    app: ObservedApplication | None
    sighting: Sighting | None
    pods: Sequence[PodSight] | None
    epoch: Epoch | None
    recoveries: Sequence[Recovery]
    overlays: Sequence[Overlay]
    appender_since: datetime | None
    worked_at: datetime | None = None
    refusal: Refusal | None = None
    unread: int | None = None
    catching_up: bool = False
    stable: str | None = None
    noted: str | None = None
    manifest_known: bool = False
    on_demand: str | None = None
    converged: Sequence[Recovery] = ()

    def holding(self, now: datetime) -> tuple[Overlay, ...]:
        return active(self.overlays, self.app.deployed if self.app else None, now)

    @property
    def carried(self) -> tuple[Overlay, ...]:
        """Those whose mark the resource has, whether they hold or not."""
        ids = marked(self.app.controls.overlays) if self.app else frozenset()
        return tuple(o for o in self.overlays if o.id in ids)

    def heard(self, now: datetime) -> bool:
        """The driver of the open epoch was heard within its objective."""
        epoch = self.epoch
        open_now = epoch is not None and epoch.state is EpochState.OPEN
        return open_now and epoch is not None and now - epoch.heartbeat_at <= self.spike.objectives.hang

    def may_work(self, now: datetime) -> bool:
        """It was heard, or could not be: nobody listens, or not for as long as its objective (I12)."""
        if not self.owner or self.heard(now):
            return bool(self.owner)
        since = self.listened_since
        return since is None or now - since <= self.spike.objectives.hang

    @property
    def listened_since(self) -> datetime | None:
        return listened_since(self.appender_since, self.refusal)

    @property
    def owner(self) -> tuple[str, ...]:
        """The driver that has the open epoch."""
        return (self.epoch.driver,) if self.epoch and self.epoch.state is EpochState.OPEN else ()


def one_each(apps: Iterable[ObservedApplication]) -> Mapping[str, ObservedApplication]:
    """By spike. Several resources of one spike are a problem that a person solves, as is a name that the
    operator refuses."""
    found: dict[str, list[ObservedApplication]] = defaultdict(list)
    for app in apps:
        found[app.spike].append(app)
    return {spike: _with_problem(spike, of_spike) for spike, of_spike in found.items()}


def _with_problem(spike: str, apps: Sequence[ObservedApplication]) -> ObservedApplication:
    app = next((a for a in apps if advice_on(a.name) is None), apps[0])
    if len(apps) > 1:
        names = " and ".join(sorted(a.name for a in apps))
        problem = f"{names} are all of {spike}: keep {app.name}, `kubectl delete sparkapplication` the other"
        return replace(app, problem=problem)
    return replace(app, problem=app.problem or advice_on(app.name))


def suspect(
    app: ObservedApplication, sighting: Sighting | None, epoch: Epoch | None, now: datetime, hang: timedelta
) -> bool:
    """Whether its driver pods are worth a request: it ended, is late, is silent, or is not whom we hear."""
    if app.problem or app.controls.paused:
        return False
    if app.state in ENDING:
        return True
    if app.state in {AppState.SUBMITTED, AppState.UNKNOWN}:
        return sighting is None or now - sighting.since > timedelta(seconds=60)
    if app.state is not AppState.RUNNING or epoch is None or epoch.state is not EpochState.OPEN:
        return False
    known = {app.submission, *(sighting.names(app.submission) if sighting else ())}
    return epoch.driver not in known or now - epoch.heartbeat_at > hang


def ending_of(app: ObservedApplication | None, pod: PodSight | None = None) -> Trouble | None:
    """How its present submission ended, by what is seen now; None while it has not, or nothing tells."""
    return trouble_of(Evidence(app, pod)) if app is not None and app.state in ENDING else None


def retraced(before: Sighting, passed: Iterable[ObservedApplication], now: datetime) -> Sighting:
    """What would be remembered if a look had fallen on each of these, which passed between two looks. Their
    pods are gone: where only those would tell how one ended, nobody saw it."""
    for then in passed:
        ending = None if untold(Evidence(then)) else ending_of(then)
        before = sight(before, then, ending, now) or before
    return before


def newest(pods: Sequence[PodSight], submission: str | None) -> PodSight | None:
    """The driver pod of this submission."""
    mine = [pod for pod in pods if pod.submission == submission]
    return mine[-1] if mine else None
