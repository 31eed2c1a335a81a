"""What the supervisor makes of a spike on Kubernetes: facts and `now` in, one decision out.

Order: what people said (annotations), what was begun and is to be finished (overlays, a restart between
suspend and resume), then what is wrong now, and the next rung of its ladder. A driver that beats and
works is never restarted for what the operator shows of it; what was not understood is UNKNOWN (I12).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from spike_pipelines.domain.application_facts import ApplicationFacts, newest
from spike_pipelines.domain.causes import Evidence, Trouble, in_words, trouble_of
from spike_pipelines.domain.climb import Wound, climb
from spike_pipelines.domain.epochs import Epoch, EpochState
from spike_pipelines.domain.ladder import chain, wait
from spike_pipelines.domain.loops import looping, unproven
from spike_pipelines.domain.observed import DriverState, ObservedDriver
from spike_pipelines.domain.overlays import Overlay, OverlayKind, marks, value_of
from spike_pipelines.domain.sightings import ABSENT
from spike_pipelines.domain.spark_application import (
    ENDING,
    STATES,
    TERMINAL,
    AppState,
    ObservedApplication,
    PodSight,
)
from spike_pipelines.domain.supervision import Action, ActionKind, Decision, SpikeFacts, Verdict, judge

GONE_PATIENCE = timedelta(seconds=60)  # a person who replaces a resource deletes it first
DRIFT_PATIENCE = timedelta(minutes=5)
RESTART_PATIENCE = timedelta(minutes=2)
MOST_LAID = 3  # times that an overlay is laid again; then somebody does not want it
BETWEEN_LIVES = ENDING | {AppState.PENDING_RERUN}
ENDS_A_DRIVER = frozenset({ActionKind.RESTART, ActionKind.RESUBMIT, ActionKind.OVERLAY, ActionKind.STOP})
_OF_PODS = frozenset({Trouble.IMAGE, Trouble.UNSCHEDULABLE, Trouble.EVICTED, Trouble.INVALID})
_VERDICTS = {
    Trouble.STUCK: Verdict.STUCK,
    Trouble.HUNG: Verdict.HUNG,
    Trouble.IMAGE: Verdict.PENDING,
    Trouble.UNSCHEDULABLE: Verdict.PENDING,
    Trouble.REFUSED: Verdict.BLOCKED,
    Trouble.DELETED: Verdict.MISSING,
    Trouble.ENDED: Verdict.MISSING,
    Trouble.DRIFTED: Verdict.DRIFTED,
    Trouble.TWO_DRIVERS: Verdict.TWO_DRIVERS,
}


def supervise_application(facts: ApplicationFacts, now: datetime) -> Decision:
    app = facts.app
    if app is None:
        return _without_resource(facts, now)
    if app.problem is not None:
        return _say(facts, Verdict.UNKNOWN, app.problem)
    if app.deleting:
        return _say(facts, Verdict.UNKNOWN, f"{app.name} is being deleted")
    if facts.sighting is not None and facts.sighting.overtook(app, now):
        return _say(
            facts, Verdict.UNKNOWN, f"the API server's list is older than what was seen of {app.name}"
        )
    if app.controls.paused is not None:
        down = ", and it is suspended: `suspend: false` resumes it" if app.suspend else ""
        return _say(facts, Verdict.PAUSED, f"supervision is paused by a person: {app.controls.paused}{down}")
    return _asked_for(facts, app) or _begun(facts, app, now) or _as_it_is(facts, app, now)


def outdated(facts: ApplicationFacts, decision: Decision, newest: Epoch | None) -> str | None:
    """What the spike's driver said since the look, in the ledger alone, that a decision to end one does not
    know of: an epoch was opened, or whoever was taken for silent or ended was heard. None: nothing."""
    if decision.action is None or decision.action.kind not in ENDS_A_DRIVER:
        return None
    if newest is None or newest.state is not EpochState.OPEN:
        return None
    if facts.epoch is None or newest.number != facts.epoch.number:
        return f"driver {newest.driver} has opened epoch {newest.number} meanwhile"
    heard = newest.heartbeat_at > facts.epoch.heartbeat_at
    if heard and _takes_for_silent(facts, decision):
        return f"driver {newest.driver} was heard meanwhile"
    return None


def _takes_for_silent(facts: ApplicationFacts, decision: Decision) -> bool:
    """Not so what a person asks for, what is done to a driver because of what it says, and what the operator
    is done with."""
    over = facts.app is None or facts.app.state in TERMINAL
    return not over and decision.trouble not in {None, Trouble.DRIFTED, Trouble.TWO_DRIVERS}


def _say(facts: ApplicationFacts, verdict: Verdict, cause: str) -> Decision:
    return Decision(facts.spike.name, verdict, cause)


def _without_resource(facts: ApplicationFacts, now: datetime) -> Decision:
    name, sighting = facts.spike.resource_name, facts.sighting
    if sighting is None or sighting.state_text != ABSENT or not facts.manifest_known:
        return _say(
            facts,
            Verdict.NOT_DEPLOYED,
            f"there is no SparkApplication {name}: `spike deploy {facts.spike.name}`",
        )
    gone = now - sighting.since
    cause = f"SparkApplication {name} has been gone for {gone.total_seconds():.0f} s, its file is there"
    if gone <= GONE_PATIENCE:
        return _say(facts, Verdict.MISSING, cause)
    return _mend(facts, Trouble.DELETED, cause, now)


def _asked_for(facts: ApplicationFacts, app: ObservedApplication) -> Decision | None:
    wish = app.controls.restart
    if wish is None or wish == app.controls.restarted:
        return None
    kind = ActionKind.RESUBMIT if app.state in TERMINAL else ActionKind.RESTART
    action = Action(kind, facts.spike.name, facts.owner, rung="asked", request=wish)
    return Decision(facts.spike.name, Verdict.STARTING, f"a person asked for a restart: {wish}", action)


def _begun(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> Decision | None:
    """What is under way: overlays that the resource does not carry yet, or still; a suspended driver."""
    name, holding = facts.spike.name, facts.holding(now)
    if (cause := _unequal(holding, app)) is not None and _may_converge(facts, holding, cause, now):
        return Decision(name, Verdict.STARTING, cause, Action(ActionKind.CONVERGE, name))
    if not app.suspend:  # also where a person ended what was begun: a quarantine, a restart half way
        return _resumed(facts, app)
    quarantine = next((o for o in holding if o.kind is OverlayKind.QUARANTINE), None)
    if quarantine is not None:
        cause = f"quarantined until {quarantine.expires_at:%H:%M} UTC: {quarantine.cause}"
        return Decision(name, Verdict.QUARANTINED, cause)
    return _suspended(facts, app, now)


def _unequal(holding: Sequence[Overlay], app: ObservedApplication) -> str | None:
    """How what the resource carries differs from what holds; None: it does not."""
    wanted, carried = marks(holding), app.controls.overlays
    if wanted == carried:
        return None
    return f"overlays: {wanted or 'none'} hold, the resource carries {carried or 'none'}"


def _may_converge(facts: ApplicationFacts, holding: Sequence[Overlay], cause: str, now: datetime) -> bool:
    """Each time ends a driver and hides what else is wrong, while somebody may take overlays off as often as
    they are laid, or the API server refuse them. So each waits longer, and is laid so many times at most."""
    carried = {overlay.id for overlay in facts.carried}
    lacking = [overlay.created_at for overlay in holding if overlay.id not in carried]
    if lacking:
        tried = [r for r in facts.converged if r.at >= max(lacking)]
    else:
        tried = [r for r in facts.converged if r.cause == cause]
    if lacking and len(tried) >= MOST_LAID:
        return False
    return not tried or now >= tried[-1].at + wait(facts.spike.name, len(tried))


def _resumed(facts: ApplicationFacts, app: ObservedApplication) -> Decision | None:
    """The mark of a restart must not outlive it: a later suspension would be taken for ours, and ended."""
    if app.controls.restarting is None:
        return None
    cause = f"{app.name} was resumed by somebody else while it was restarted"
    return Decision(facts.spike.name, Verdict.STARTING, cause, Action(ActionKind.RESUME, facts.spike.name))


def _suspended(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> Decision:
    name = facts.spike.name
    if app.controls.restarting is None:
        return _say(facts, Verdict.SUSPENDED, f"{app.name} is suspended by a person")
    if app.state is AppState.SUSPENDED or app.state in TERMINAL:
        cause = f"suspended for a restart: {app.controls.restarting}"
        return Decision(name, Verdict.STARTING, cause, Action(ActionKind.RESUME, name))
    waited = now - (facts.recoveries[-1].at if facts.recoveries else now)
    if waited <= RESTART_PATIENCE:
        return _say(facts, Verdict.STARTING, "the driver is being ended for a restart")
    cause = (
        f"{app.name} was to be suspended {waited.total_seconds():.0f} s ago and is {app.state_text or 'new'}"
    )
    return _mend(facts, Trouble.STUCK, cause, now)


def _as_it_is(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> Decision:
    if app.state is AppState.UNSEEN:
        return _say(facts, Verdict.UNKNOWN, f"the operator says '{app.state_text}', which is not known here")
    trouble, cause = _wrong(facts, app, now)
    if trouble is not None:
        return _mend(facts, trouble, cause, now)
    if app.state is AppState.RUNNING or facts.may_work(now):
        return _driver(facts, app, now)
    rule = STATES[app.state]
    return _say(facts, Verdict.STARTING, f"{app.state_text or 'new'}: {rule.meaning}")


def _wrong(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> tuple[Trouble | None, str]:
    """What the resource and its pods tell; what the driver itself tells is `_driver`'s."""
    evidence = Evidence(app, newest(facts.pods or (), app.submission))
    if app.state in TERMINAL:
        gave_up = f"the operator gave up ({app.state}): {in_words(evidence)}"
        return trouble_of(evidence) or Trouble.ENDED, gave_up
    if app.state in BETWEEN_LIVES and (loop := looping(facts, now)):
        return loop[0], f"{loop[1]}; the last: {in_words(evidence)}"
    if unproven(facts, app) and (loop := looping(facts, now)):
        return loop[0], f"{loop[1]}; another one has begun and has shown nothing yet"
    if (trouble := _drifted(facts, app, now)) is not None:
        return trouble
    patience, since = STATES[app.state].patience, facts.sighting.since if facts.sighting else now
    if patience is None or now - since <= patience:
        return None, ""
    if app.state is AppState.UNKNOWN and facts.may_work(now):
        return None, ""
    found = trouble_of(evidence)
    stuck = (
        f"{app.state_text or 'new'} for {(now - since).total_seconds():.0f} s ({STATES[app.state].meaning})"
    )
    if found in _OF_PODS:
        return found, f"{stuck}: {in_words(evidence)}"
    return Trouble.STUCK, stuck


def _drifted(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> tuple[Trouble, str] | None:
    """The driver that we hear began before the resource got its spec, and says another version."""
    epoch, sighting = facts.epoch, facts.sighting
    if not facts.heard(now) or epoch is None or sighting is None or app.spec_hash is None:
        return None
    if value_of(facts.holding(now), OverlayKind.STABLE_SPEC) or epoch.application_version == app.spec_hash:
        return None
    began = min(epoch.opened_at, app.submitted_at or epoch.opened_at)  # one that lost its place opens another
    if began >= sighting.spec_since or now - sighting.spec_since <= DRIFT_PATIENCE:
        return None
    cause = f"the driver runs version {epoch.application_version}, the resource is at {app.spec_hash}"
    return Trouble.DRIFTED, cause


def _driver(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> Decision:
    """What the driver itself tells, by the rules that hold everywhere (`domain/supervision.py`)."""
    drivers = _drivers(facts, app, now)
    if facts.heard(now) and not {d.driver for d in drivers} & set(facts.owner):
        cause = f"driver {facts.owner[0]} has the epoch and is heard, and no pod of it is in sight"
        return _say(facts, Verdict.UNKNOWN, cause)
    decision = judge(
        SpikeFacts(
            spike=facts.spike.name,
            objectives=facts.spike.objectives,
            drivers=drivers,
            epoch=facts.epoch,
            recoveries=facts.recoveries,
            appender_since=facts.appender_since,
            refusal=facts.refusal,
            unread=facts.unread,
        ),
        now,
    )
    if decision.verdict is Verdict.HUNG:
        return _mend(facts, Trouble.HUNG, decision.cause, now)
    if decision.verdict is Verdict.TWO_DRIVERS:
        return replace(_in_its_time(facts, decision, now), trouble=Trouble.TWO_DRIVERS)
    return _with_news(facts, app, replace(decision, action=None), now)


def _in_its_time(facts: ApplicationFacts, decision: Decision, now: datetime) -> Decision:
    """A pod that was told to end has a minute or more for it, and is seen as long."""
    told = [r for r in chain(facts.recoveries, now) if r.action == ActionKind.STOP]
    if not told or now >= told[-1].at + wait(facts.spike.name, len(told)):
        return decision
    return replace(decision, action=None, cause=f"{decision.cause}; the other one was told to end")


def _drivers(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> tuple[ObservedDriver, ...]:
    """Live drivers, by the names they give themselves at the appender."""
    began = app.submitted_at or app.created_at or now
    ran = facts.sighting.since if facts.sighting and app.state is AppState.RUNNING else None
    seen = [_called(pod, facts.owner) for pod in facts.pods or () if pod.live]
    if not seen:
        known = facts.sighting.names(app.submission) if facts.sighting else frozenset()
        seen = [next((o for o in facts.owner if o in known), app.submission or app.name)]
    return tuple(
        ObservedDriver(facts.spike.name, d, DriverState.RUNNING, began, ran_at=ran)
        for d in dict.fromkeys(seen)
    )


def _called(pod: PodSight, owner: Sequence[str]) -> str:
    known = {pod.submission, pod.uid, pod.name}
    return next((driver for driver in owner if driver in known), pod.submission or pod.name)


def _with_news(
    facts: ApplicationFacts, app: ObservedApplication, decision: Decision, now: datetime
) -> Decision:
    """A file that is newer than what runs, or a spec that somebody edited, is told where all else is well;
    nothing is done about it, since whoever changed it had a reason."""
    news = _news(facts, app, now)
    if decision.verdict is not Verdict.RUNNING or news is None:
        return decision
    return replace(decision, verdict=Verdict.DRIFTED, cause=f"{decision.cause}; {news}")


def _news(facts: ApplicationFacts, app: ObservedApplication, now: datetime) -> str | None:
    if (unequal := _unequal(facts.holding(now), app)) is not None:
        return f"{unequal}: somebody takes them off, or the API server refuses them"
    if app.spec_hash not in {None, facts.spike.version}:
        return (
            f"the application file is at {facts.spike.version}, {app.spec_hash} is deployed: `spike deploy`"
        )
    if app.controls.overlays or facts.noted in {None, app.live}:
        return None
    return (
        f"the spec of {app.name} was edited since it was deployed (`helm get manifest {app.name}` says what "
        f"it was): `spike deploy {facts.spike.name}` puts it back"
    )


def _mend(facts: ApplicationFacts, trouble: Trouble, cause: str, now: datetime) -> Decision:
    if trouble is Trouble.OUT_OF_MEMORY and facts.catching_up:
        trouble = Trouble.OUT_OF_MEMORY_CATCHING_UP
    wound = Wound(
        spike=facts.spike,
        app=facts.app,
        trouble=trouble,
        cause=cause,
        works=facts.may_work(now) and trouble is Trouble.STUCK,
        owner=facts.owner,
        recoveries=facts.recoveries,
        holding=facts.holding(now),
        worked_at=facts.worked_at,
        stable=facts.stable,
        manifest_known=facts.manifest_known,
        on_demand=facts.on_demand,
    )
    action, said = climb(wound, now)
    verdict = _VERDICTS.get(trouble, Verdict.CRASHING)
    return Decision(facts.spike.name, verdict, said, action, trouble)
