"""What the supervisor does on Kubernetes, as a table of situations; what it must never do, as properties."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, epoch
from builders import spike as make_spike
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.application_facts import ApplicationFacts, one_each, retraced, suspect
from spike_pipelines.domain.application_supervision import outdated, supervise_application
from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.epochs import EpochState, Phase
from spike_pipelines.domain.ladder import Rung
from spike_pipelines.domain.observed import Recovery, Refusal
from spike_pipelines.domain.overlays import Overlay, OverlayKind
from spike_pipelines.domain.sightings import Life, Sighting, missed, sight
from spike_pipelines.domain.spark_application import STATES, AppState, Controls, ObservedApplication, PodSight
from spike_pipelines.domain.supervision import MENDED, ActionKind, Verdict

SPIKE = make_spike("payouts", version="v2", max_offsets_per_trigger=100_000)


def ago(seconds):
    return HOUR - timedelta(seconds=seconds)


def app(state=AppState.RUNNING, **changes):
    plain = ObservedApplication(
        spike="payouts", name="payouts", uid="u", resource_version="1", state=state, state_text=str(state),
        submission="s3", submitted_at=ago(600), created_at=ago(9000), spec_hash="v2",
    )  # fmt: skip
    return replace(plain, **changes)


def seen(state, since, *endings):
    """In this state for so long; lives of half a minute each ended before."""
    lives = [Life(f"s{i}", ago(30 * (len(endings) + 1 - i)), ending) for i, ending in enumerate(endings, 1)]
    return Sighting("payouts", "u", str(state), ago(since), "v2", ago(9000), tuple(lives))


def heard(silent=1, driver="s3", version="v2", phase=Phase.READING, **changes):
    return epoch(
        1, driver, at=ago(600), heartbeat_at=ago(silent), phase=phase, application_version=version, **changes
    )


def facts(application=None, sighting=None, **changes):
    application = app() if application is None else application
    plain = ApplicationFacts(
        spike=SPIKE,
        app=application,
        sighting=sighting or seen(application.state, 600),
        pods=None,
        epoch=None,
        recoveries=(),
        overlays=(),
        appender_since=ago(86400),
        manifest_known=True,
    )
    return replace(plain, **changes)


def did(seconds, action, cause="x"):
    return Recovery("payouts", ago(seconds), action, cause, "STUCK")


def lying(kind, value, *, left=3600, spec="v2"):
    return Overlay(7, "payouts", kind, value, "why", spec, ago(60), HOUR + timedelta(seconds=left))


def late(state, seconds=400, **changes):
    return facts(app(state), seen(state, seconds), **changes)


def crashed(*endings, state=AppState.FAILING, **changes):
    return facts(app(state, submission=f"s{len(endings)}"), seen(state, 5, *endings), **changes)


def begun(*endings, state=AppState.SUBMITTED, since=5, seen_at=None, **changes):
    """The same, and the next driver began five seconds ago, when it was seen."""
    mine = f"s{len(endings) + 1}"
    sighting = seen(state, since, *endings)
    sighting = replace(sighting, lives=(*sighting.lives, Life(mine, seen_at or ago(since))))
    return facts(app(state, submission=mine, submitted_at=ago(since)), sighting, **changes)


UNSEEN = Trouble.UNSEEN
GONE = Sighting("payouts", "u", "absent", ago(61), "v2", ago(9000))
OOM = Trouble.OUT_OF_MEMORY
TABLE = {
    "a driver that beats is running": (facts(epoch=heard()), Verdict.RUNNING, None),
    "one that is silent is restarted": (facts(epoch=heard(61)), Verdict.HUNG, Rung.RESTART),
    "one that never opened an epoch is restarted": (facts(), Verdict.HUNG, Rung.RESTART),
    "one that has only just left its queue for a node is given its time": (
        facts(app(submitted_at=ago(150)), seen("RUNNING", 1)), Verdict.STARTING, None,
    ),
    "what it was told before anybody saw it run counts": (
        facts(
            app(submitted_at=ago(150)), seen("RUNNING", 125),
            refusal=Refusal(ago(130), "topic_changed", "another topic", "s3"),
        ), Verdict.BLOCKED, None,
    ),
    "and no more than that": (
        facts(app(submitted_at=ago(400)), seen("RUNNING", 121)), Verdict.HUNG, Rung.RESTART,
    ),
    "a silent one is not blamed while nobody listens": (
        facts(epoch=heard(61), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "one that could not be let in is not silent": (
        facts(epoch=heard(90), refusal=Refusal(ago(30), "unjudged", "who is it?", "")),
        Verdict.RUNNING, None,
    ),
    "and is once it could be for as long": (
        facts(epoch=heard(90), refusal=Refusal(ago(61), "unjudged", "who is it?", "")),
        Verdict.HUNG, Rung.RESTART,
    ),
    "to the operator's UNKNOWN it may be at work as well": (
        late(AppState.UNKNOWN, epoch=heard(400), refusal=Refusal(ago(30), "unjudged", "who is it?", "")),
        Verdict.RUNNING, None,
    ),
    "waiting for the appender is no reason": (
        facts(epoch=heard(phase=Phase.WAITING)), Verdict.WAITING, None,
    ),
    "a driver with the epoch that is nowhere to be seen is not judged": (
        facts(epoch=heard(driver="other")), Verdict.UNKNOWN, None,
    ),
    "a driver may call itself by its pod's uid": (
        facts(epoch=heard(driver="uid"), pods=[PodSight("p", "uid", "s3", "Running")]), Verdict.RUNNING, None,
    ),
    "of two drivers the one without the epoch is ended": (
        facts(epoch=heard(), pods=[PodSight("p", "1", "s3", "Running"), PodSight("q", "2", "s2", "Running")]),
        Verdict.TWO_DRIVERS, "stop",
    ),
    "drivers that end again and again while nobody looks are told, and nothing is done to them": (
        crashed(UNSEEN, UNSEEN, UNSEEN, UNSEEN, state=AppState.PENDING_RERUN), Verdict.CRASHING, Rung.PAGE,
    ),
    "three of them are not": (
        crashed(UNSEEN, UNSEEN, UNSEEN, state=AppState.PENDING_RERUN), Verdict.STARTING, None,
    ),
    "what was seen says more than what was not": (
        crashed(OOM, UNSEEN, OOM, UNSEEN, OOM, UNSEEN, UNSEEN), Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "and what was not seen adds nothing to what was": (
        crashed(UNSEEN, Trouble.CRASHING, UNSEEN, UNSEEN), Verdict.STARTING, None,
    ),
    "what came again and again is mended also when the next driver has begun": (
        begun(OOM, OOM, OOM), Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "and runs, but nobody has heard of it": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, epoch=heard(6, "s3")),
        Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "unless the one before it beats on": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, epoch=heard(4, "s3")), Verdict.UNKNOWN, None,
    ),
    "by none of the names it could have": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, epoch=heard(1, "its pod's uid")), Verdict.UNKNOWN, None,
    ),
    "one that is heard is left alone": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, epoch=heard(1, "s4")), Verdict.RUNNING, None,
    ),
    "as is one that has committed since it began": (
        begun(OOM, OOM, OOM, worked_at=ago(3)), Verdict.STARTING, None,
    ),
    "what was committed before it began is another's": (
        begun(OOM, OOM, OOM, worked_at=ago(6)), Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "one that was told something is judged by that": (
        begun(
            OOM, OOM, OOM, state=AppState.RUNNING,
            refusal=Refusal(ago(1), "topic_changed", "another topic", "s4"),
        ), Verdict.BLOCKED, None,
    ),
    "nobody knows what it would have said while nobody listens": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, since=600, appender_since=None), Verdict.UNKNOWN, None,
    ),
    "or only listened when it had begun": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, since=600, appender_since=ago(2)),
        Verdict.STARTING, None,
    ),
    "though it was seen later than it began": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, since=600, seen_at=ago(1), appender_since=ago(2)),
        Verdict.STARTING, None,
    ),
    "it may have spoken and not been let in": (
        begun(
            OOM, OOM, OOM, state=AppState.RUNNING, refusal=Refusal(ago(1), "unjudged", "who is it?", ""),
        ), Verdict.RETRYING, None,
    ),
    "it has had its say": (
        begun(OOM, OOM, OOM, state=AppState.RUNNING, since=600, appender_since=ago(600)),
        Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "two endings are no loop for the next one either": (begun(OOM, OOM), Verdict.STARTING, None),
    "and what was done about them has its chance": (
        begun(OOM, OOM, OOM, recoveries=[did(20, "more-memory")]), Verdict.STARTING, None,
    ),
    "a stuck PENDING_RERUN is kicked": (late(AppState.PENDING_RERUN, 61), Verdict.STUCK, Rung.KICK),
    "but not before its time": (late(AppState.PENDING_RERUN, 59), Verdict.STARTING, None),
    "a kick that did not help is followed by a restart": (
        late(AppState.PENDING_RERUN, recoveries=[did(60, "kick")]), Verdict.STUCK, Rung.RESTART,
    ),
    "the next step waits its time": (
        late(AppState.PENDING_RERUN, recoveries=[did(5, "kick")]), Verdict.STUCK, None,
    ),
    "a kick that helped may be tried again": (
        late(AppState.PENDING_RERUN, recoveries=[did(600, "kick")], worked_at=ago(500)),
        Verdict.STUCK, Rung.KICK,
    ),
    "after the last rung a person is needed": (
        late(AppState.PENDING_RERUN, recoveries=[did(3000, "kick"), did(2000, "restart"), did(1900, "page")]),
        Verdict.STUCK, None,
    ),
    "an hour of stability later all is tried anew": (
        late(AppState.PENDING_RERUN, recoveries=[did(5000, "kick"), did(4900, "restart"), did(4800, "page")]),
        Verdict.STUCK, Rung.KICK,
    ),
    "a driver that works is only kicked, whatever the operator says": (
        late(AppState.PENDING_RERUN, epoch=heard(), recoveries=[did(60, "kick")]), Verdict.STUCK, Rung.PAGE,
    ),
    "UNKNOWN to the operator and heard by us is running": (
        late(AppState.UNKNOWN, epoch=heard()), Verdict.RUNNING, None,
    ),
    "UNKNOWN to the operator and silent is stuck": (
        late(AppState.UNKNOWN, epoch=heard(400)), Verdict.STUCK, Rung.KICK,
    ),
    "one failure is the operator's": (crashed(OOM), Verdict.STARTING, None),
    "three times out of memory get more of it": (
        crashed(OOM, OOM, OOM), Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "the same while catching up get smaller batches": (
        crashed(OOM, OOM, OOM, catching_up=True), Verdict.CRASHING, Rung.SMALLER_BATCHES,
    ),
    "an overlay has its chance before the next": (
        crashed(OOM, OOM, OOM, recoveries=[did(20, "more-memory")]), Verdict.STARTING, None,
    ),
    "one that somebody else prevented had none": (
        crashed(OOM, OOM, OOM, recoveries=[did(40, "restart (not done)")]),
        Verdict.CRASHING, Rung.MORE_MEMORY,
    ),
    "three other crashes of a spec that once worked are restarted": (
        crashed(*[Trouble.CRASHING] * 3, stable="v2"), Verdict.CRASHING, Rung.RESTART,
    ),
    "of a spec that never worked go back to the one that did": (
        crashed(*[Trouble.CRASHING] * 3, stable="v1"), Verdict.CRASHING, Rung.STABLE_SPEC,
    ),
    "after a restart that did not help it is put away": (
        crashed(*[Trouble.CRASHING] * 3, recoveries=[did(100, "restart")]), Verdict.CRASHING, Rung.QUARANTINE,
    ),
    "twice evicted goes to nodes that stay": (
        crashed(*[Trouble.EVICTED] * 2, on_demand="life=long"), Verdict.CRASHING, Rung.ON_DEMAND,
    ),
    "where there are none it is restarted": (
        crashed(*[Trouble.EVICTED] * 2), Verdict.CRASHING, Rung.RESTART,
    ),
    "what only a person decides pages at once": (crashed(Trouble.REFUSED), Verdict.BLOCKED, Rung.PAGE),
    "an image that is not there pages": (
        late(AppState.SUBMITTED, pods=[PodSight("p", "1", "s3", "Pending", waiting="ImagePullBackOff")]),
        Verdict.PENDING, Rung.PAGE,
    ),
    "or goes back to the spec that had one": (
        late(
            AppState.SUBMITTED,
            pods=[PodSight("p", "1", "s3", "Pending", waiting="ErrImagePull")], stable="v1",
        ),
        Verdict.PENDING, Rung.STABLE_SPEC,
    ),
    "no node for the driver asks for other nodes": (
        late(AppState.SUBMITTED, pods=[PodSight("p", "1", "s3", "Pending", "Unschedulable")], on_demand="a=b"),  # noqa: E501
        Verdict.PENDING, Rung.ON_DEMAND,
    ),
    "what the operator gave up is submitted again": (
        facts(app(AppState.FAILED, error="driver container failed with ExitCode: 1, Reason: Error")),
        Verdict.CRASHING, "resubmit",
    ),
    "a stream that ended well too": (facts(app(AppState.COMPLETED)), Verdict.MISSING, "resubmit"),
    "a resource deleted by hand is made again": (
        replace(facts(), app=None, sighting=GONE), Verdict.MISSING, Rung.RECREATE,
    ),
    "after a while, as it may be on its way": (
        replace(facts(), app=None, sighting=replace(GONE, since=ago(59))), Verdict.MISSING, None,
    ),
    "one that was ended on purpose is not": (
        replace(facts(), app=None, sighting=replace(GONE, state_text="undeployed")),
        Verdict.NOT_DEPLOYED, None,
    ),
    "what was never deployed is a person's": (
        replace(facts(), app=None, sighting=None), Verdict.NOT_DEPLOYED, None,
    ),
    "a person's pause holds": (
        facts(app(AppState.FAILED, controls=Controls(paused="ann"))),
        Verdict.PAUSED, None,
    ),
    "a person's restart is done": (
        facts(app(controls=Controls(restart="1")), epoch=heard()), Verdict.STARTING, "asked",
    ),
    "once": (facts(app(controls=Controls(restart="1", restarted="1")), epoch=heard()), Verdict.RUNNING, None),
    "a person's suspension holds": (facts(app(AppState.SUSPENDED, suspend=True)), Verdict.SUSPENDED, None),
    "ours is resumed": (
        facts(app(AppState.SUSPENDED, suspend=True, controls=Controls(restarting="x"))),
        Verdict.STARTING, "resume",
    ),
    "an operator that does not suspend is kicked": (
        facts(app(suspend=True, controls=Controls(restarting="x")), recoveries=[did(130, "restart")]),
        Verdict.STUCK, Rung.KICK,
    ),
    "an overlay in the ledger comes to the resource": (
        facts(epoch=heard(), overlays=[lying(OverlayKind.MEMORY, "768m")]), Verdict.STARTING, "converge",
    ),
    "and is left once it is there": (
        facts(
            app(controls=Controls(overlays="7:more-memory=768m")),
            epoch=heard(), overlays=[lying(OverlayKind.MEMORY, "768m")],
        ), Verdict.RUNNING, None,
    ),
    "an expired one goes": (
        facts(
            app(controls=Controls(overlays="7:more-memory=768m")),
            epoch=heard(), overlays=[lying(OverlayKind.MEMORY, "768m", left=-1)],
        ), Verdict.STARTING, "converge",
    ),
    "a new deployment ends it": (
        facts(
            app(controls=Controls(overlays="7:more-memory=768m")),
            epoch=heard(), overlays=[lying(OverlayKind.MEMORY, "768m", spec="v1")],
        ), Verdict.STARTING, "converge",
    ),
    "quarantine is left alone": (
        facts(
            app(AppState.SUSPENDED, suspend=True, controls=Controls(overlays="7:quarantine=suspend")),
            overlays=[lying(OverlayKind.QUARANTINE, "suspend")],
        ), Verdict.QUARANTINED, None,
    ),
    "a driver of an older spec is drift": (
        facts(epoch=heard(version="v1"), sighting=replace(seen("RUNNING", 600), spec_since=ago(301))),
        Verdict.DRIFTED, Rung.KICK,
    ),
    "also if it has opened another epoch since, as one does that lost its place": (
        facts(
            app(submitted_at=ago(900)), replace(seen("RUNNING", 600), spec_since=ago(700)),
            epoch=heard(version="v1"),
        ), Verdict.DRIFTED, Rung.KICK,
    ),
    "that the operator is given time for": (
        facts(epoch=heard(version="v1"), sighting=replace(seen("RUNNING", 600), spec_since=ago(299))),
        Verdict.RUNNING, None,
    ),
    "a newer application file is told": (
        facts(app(spec_hash="v1"), epoch=heard(version="v1")), Verdict.DRIFTED, None,
    ),
    "a state that this version does not know is not judged": (
        facts(app(AppState.UNSEEN, state_text="PONDERING")), Verdict.UNKNOWN, None,
    ),
    "a resource that cannot be read is not judged": (
        facts(app(AppState.FAILED, problem="no status")), Verdict.UNKNOWN, None,
    ),
    "one that is being deleted is left": (facts(app(AppState.FAILED, deleting=True)), Verdict.UNKNOWN, None),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_situation(case):
    given_facts, verdict, rung = TABLE[case]
    decision = supervise_application(given_facts, HOUR)
    assert decision.action is None or decision.verdict in MENDED
    done = decision.action and decision.action.noted
    if decision.action and decision.action.kind is ActionKind.RESUBMIT:
        done = "resubmit"
    assert (decision.verdict, done) == (verdict, rung), decision.cause


def test_memory_grows_by_half_to_a_cap_of_what_the_file_says():
    asked, held = [], ()
    while True:
        marked = app(AppState.FAILING, controls=Controls(overlays=",".join(o.mark for o in held)))
        starved = crashed(OOM, OOM, OOM, overlays=held)
        action = supervise_application(replace(starved, app=marked), HOUR).action
        if action.overlay.kind is not OverlayKind.MEMORY:
            break
        asked.append(action.overlay.value)
        held = (lying(OverlayKind.MEMORY, asked[-1]),)
    assert asked == ["768m", "1152m", "1728m", "2048m"]
    assert action.overlay.kind is OverlayKind.QUARANTINE


NEXT = replace(heard(0, "s4"), number=2)
STILL = heard(61)
OUTDATED = {
    "an epoch was opened": (begun(OOM, OOM, OOM), NEXT, True),
    "after one that ended": (begun(OOM, OOM, OOM, epoch=heard(6)), NEXT, True),
    "and was ended again": (begun(OOM, OOM, OOM), replace(NEXT, state=EpochState.RETIRED), False),
    "nothing was opened": (begun(OOM, OOM, OOM), None, False),
    "the epoch is as it was": (begun(OOM, OOM, OOM, epoch=heard(6)), heard(6), False),
    "the one that ended beat once more": (begun(OOM, OOM, OOM, epoch=heard(6)), heard(1), True),
    "the silent one was heard": (facts(epoch=STILL), heard(1), True),
    "it is as silent as it was": (facts(epoch=STILL), STILL, False),
    "a kick ends nobody": (late(AppState.SUBMITTED), NEXT, False),
    "what drifts is heard all the while": (
        facts(
            app(spec_hash="v3"), replace(seen("RUNNING", 400), spec_since=ago(400)),
            epoch=heard(2), recoveries=[did(200, "kick")],
        ), heard(1), False,
    ),
    "the one with the epoch is heard while the other is ended": (
        facts(
            epoch=heard(2),
            pods=[PodSight("p", "1", "s3", "Running"), PodSight("q", "2", "s2", "Running")],
        ), heard(1), False,
    ),
    "the other one got the epoch": (
        facts(
            epoch=heard(2),
            pods=[PodSight("p", "1", "s3", "Running"), PodSight("q", "2", "s2", "Running")],
        ), replace(heard(0, "s2"), number=2), True,
    ),
    "who is asked to restart a driver that works does not wait until it is silent": (
        facts(app(controls=Controls(restart="now")), epoch=heard(2)), heard(1), False,
    ),
    "what the operator is done with": (late(AppState.FAILED, epoch=heard(2)), heard(1), False),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTDATED)
def test_what_would_end_a_driver_is_out_of_date_once_one_was_heard_that_was_not(case):
    given_facts, newest, expected = OUTDATED[case]
    decision = supervise_application(given_facts, HOUR)
    assert decision.action is not None
    assert (outdated(given_facts, decision, newest) is not None) is expected


STUCKABLE = [s for s in AppState if s != AppState.UNSEEN]


@given(
    state=st.sampled_from(STUCKABLE),
    since=st.integers(0, 5000),
    silent=st.integers(0, 5000),
    tried=st.lists(st.sampled_from(["kick", "restart", "page"]), max_size=4),
)
def test_while_nobody_listens_silence_ends_no_driver(state, since, silent, tried):
    recoveries = [did(3000 - 100 * i, action) for i, action in enumerate(tried)]
    deaf = late(state, since, epoch=heard(silent), recoveries=recoveries, appender_since=None)
    action = supervise_application(deaf, HOUR).action
    over = state in {AppState.FAILED, AppState.COMPLETED}
    assert over or action is None or action.kind in {ActionKind.KICK, ActionKind.PAGE}


@given(
    state=st.sampled_from(STUCKABLE),
    since=st.integers(0, 5000),
    silent=st.integers(0, 59),
    tried=st.lists(st.sampled_from(["kick", "restart", "more-memory", "page"]), max_size=4),
)
def test_a_driver_that_beats_and_works_is_never_ended(state, since, silent, tried):
    """Save by a person, or where the operator says that it is over."""
    recoveries = [did(3000 - 100 * i, action) for i, action in enumerate(tried)]
    given_facts = late(state, since, epoch=heard(silent), recoveries=recoveries)
    action = supervise_application(given_facts, HOUR).action
    over = state in {AppState.FAILED, AppState.COMPLETED}
    assert over or action is None or action.kind in {ActionKind.KICK, ActionKind.PAGE}


@given(
    state=st.sampled_from(list(AppState)),
    since=st.integers(0, 5000),
    recoveries=st.lists(st.tuples(st.integers(0, 7000), st.sampled_from(list(Rung))), max_size=6),
)
def test_every_situation_has_a_verdict_and_no_rung_is_climbed_twice_without_work(state, since, recoveries):
    history = [did(seconds, rung) for seconds, rung in sorted(recoveries, reverse=True)]
    decision = supervise_application(late(state, since, recoveries=history), HOUR)
    assert decision.cause
    recent = {r.action for r in history if HOUR - r.at < timedelta(hours=1)}
    repeatable = {Rung.MORE_MEMORY, Rung.SMALLER_BATCHES}
    assert decision.action is None or decision.action.rung not in recent - repeatable


def test_pods_are_asked_of_suspects_only():
    hang = SPIKE.objectives.hang
    asked = {s: suspect(app(s), seen(s, 600), heard(), HOUR, hang) for s in AppState}
    assert {s for s, yes in asked.items() if yes} == {
        AppState.SUBMITTED, AppState.UNKNOWN, AppState.FAILING, AppState.FAILED,
        AppState.SUCCEEDING, AppState.COMPLETED,
    }  # fmt: skip
    assert suspect(app(), seen("RUNNING", 600), heard(driver="other"), HOUR, hang)
    assert suspect(app(), seen("RUNNING", 600), heard(61), HOUR, hang)


def test_every_state_of_the_operator_has_a_rule():
    assert set(STATES) == set(AppState) - {AppState.UNSEEN}


def test_two_resources_of_one_spike_are_a_persons_matter():
    found = one_each([app(), app(name="pay.outs"), app(spike="session", name="session")])
    assert found["session"].problem is None
    assert "pay.outs and payouts are all of payouts: keep payouts" in found["payouts"].problem


def test_a_dotted_resource_is_told_with_what_to_do():
    (found,) = one_each([app(name="pay.outs")]).values()
    assert "deploy the spike as pay-outs" in found.problem
    assert supervise_application(facts(found), HOUR).verdict is Verdict.UNKNOWN


def replaced(executions=2, before=AppState.RUNNING, spec="v2", ending=None):
    """What is remembered of the life before, once another submission is seen."""
    then = Sighting("payouts", "u", str(before), ago(60), "v2", ago(9000), (Life("s1", ago(60), ending),))
    now = app(submission="s2", executions=executions, spec_hash=spec)
    sighting = sight(then, now, None, HOUR)
    assert sight(sighting, now, None, HOUR) == sighting
    return sighting.lives[0].ending


def test_a_driver_that_was_replaced_between_two_looks_has_ended_unseen():
    assert replaced() == UNSEEN
    assert replaced(before=AppState.PENDING_RERUN) == UNSEEN
    assert replaced(ending=OOM) == OOM


@pytest.mark.parametrize(
    "on_purpose",
    [
        {"executions": 1},  # the operator counts anew for a new spec
        {"spec": "v3"},
        {"before": AppState.SUSPENDED},
        {"before": AppState.INVALIDATING},
        {"before": AppState.SUBMISSION_FAILED},
    ],
)
def test_a_driver_that_was_ended_on_purpose_has_not(on_purpose):
    assert replaced(**on_purpose) is None


def life(number, state, error="", **changes):
    """What the operator writes in the course of one submission."""
    written = {"submission": f"s{number}", "executions": number, "error": error, **changes}
    return app(AppState(state), **written)


BEFORE = Sighting("payouts", "u", "RUNNING", ago(60), "v2", ago(9000), (Life("s1", ago(60)),))
KILLED = "driver container failed with ExitCode: 137, Reason: OOMKilled"


def test_what_passed_between_two_looks_is_remembered_as_if_it_had_been_seen():
    passed = [life(1, "FAILING", KILLED), life(1, "PENDING_RERUN"), life(2, "SUBMITTED"),
              life(2, "FAILING", "driver container failed with ExitCode: 1, Reason: Error"),
              life(2, "PENDING_RERUN")]  # fmt: skip
    then = sight(retraced(BEFORE, passed, HOUR), life(3, "SUBMITTED"), None, HOUR)
    assert [(li.submission, li.ending) for li in then.lives] == [
        ("s1", OOM),
        ("s2", "crashing"),
        ("s3", None),
    ]
    assert (then.state_text, then.since) == ("SUBMITTED", HOUR)
    assert retraced(BEFORE, (), HOUR) == BEFORE


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        ("driver container failed with ExitCode: 143, Reason: Error", UNSEEN),
        ("driver container failed with ExitCode: 137, Reason: Error", UNSEEN),
        (KILLED, OOM),
        ("driver pod failed: Evicted, ExitCode: 143, Reason: Error", Trouble.EVICTED),
        ("driver container failed with ExitCode: 1, Reason: Error", Trouble.CRASHING),
    ],
)
def test_of_a_driver_that_was_killed_only_its_pod_could_tell_why(error, ending):
    passed = [life(1, "FAILING", error), life(1, "PENDING_RERUN")]
    then = sight(retraced(BEFORE, passed, HOUR), life(2, "SUBMITTED"), None, HOUR)
    assert [li.ending for li in then.lives] == [ending, None]


def test_one_that_ends_while_it_is_looked_at_is_told_by_its_pod():
    killed = life(2, "FAILING", "driver container failed with ExitCode: 143, Reason: Error")
    passed = [life(1, "FAILING", KILLED), life(1, "PENDING_RERUN"), life(2, "SUBMITTED"), killed]
    then = sight(retraced(BEFORE, passed, HOUR), killed, Trouble.EVICTED, HOUR)
    assert [li.ending for li in then.lives] == [OOM, Trouble.EVICTED]


def test_a_driver_that_was_ended_for_another_spec_has_not_ended_of_itself():
    passed = [life(1, "INVALIDATING"), life(0, "PENDING_RERUN", submission="s1")]
    then = sight(retraced(BEFORE, passed, HOUR), life(1, "SUBMITTED", submission="s2"), None, HOUR)
    assert [li.ending for li in then.lives] == [None, None]


MISSED = {
    "another submission": (life(2, "SUBMITTED"), BEFORE, True),
    "nothing new": (life(1, "RUNNING"), BEFORE, False),
    "an ending that is seen": (life(1, "FAILING", KILLED), BEFORE, False),
    "a rerun, the ending of which was not": (life(1, "PENDING_RERUN"), BEFORE, True),
    "the same rerun again": (
        life(1, "PENDING_RERUN"), replace(BEFORE, state_text="PENDING_RERUN"), False,
    ),
    "an ending that was seen": (
        life(2, "SUBMITTED"), replace(BEFORE, lives=(Life("s1", ago(60), OOM),)), False,
    ),
    "the first submission of a spec": (life(1, "SUBMITTED", submission="s2"), BEFORE, False),
    "another deployment": (life(2, "SUBMITTED", spec_hash="v3"), BEFORE, False),
    "an end on purpose": (life(2, "SUBMITTED"), replace(BEFORE, state_text="SUSPENDED"), False),
    "another resource": (life(2, "SUBMITTED", uid="w"), BEFORE, False),
    "one that is not understood": (life(2, "SUBMITTED", problem="?"), BEFORE, False),
    "nothing remembered": (life(2, "SUBMITTED"), None, False),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSED)
def test_an_ending_is_asked_for_where_it_was_missed(case):
    now, before, expected = MISSED[case]
    assert missed(now, before) is expected


@given(
    endings=st.lists(st.sampled_from([OOM, UNSEEN, Trouble.CRASHING, Trouble.EVICTED]), max_size=8),
    state=st.sampled_from([AppState.SUBMITTED, AppState.RUNNING, AppState.UNKNOWN]),
    silent=st.integers(0, 59),
)
def test_a_driver_that_is_heard_is_never_ended_for_the_endings_before_it(endings, state, silent):
    mine = f"s{len(endings) + 1}"
    action = supervise_application(begun(*endings, state=state, epoch=heard(silent, mine)), HOUR).action
    assert action is None
