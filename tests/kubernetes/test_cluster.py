"""What the adapter sees and does, on a small API server of the tests' own and on a real one: the same."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from builders import spike as make_spike
from waiting import until

from spike_pipelines.adapters.kubernetes import KubernetesCluster
from spike_pipelines.domain.errors import Conflict, InvalidSpec
from spike_pipelines.domain.overlays import LASTS, NewOverlay, Overlay, OverlayKind
from spike_pipelines.domain.spark_application import AppState
from spike_pipelines.ports import DriverState

NOW = datetime.now(UTC)


def one(site):
    site.settle()
    (app,) = site.cluster.applications()
    return app


def overlay(kind, value, before=None, number=7):
    return Overlay(number, "payouts", kind, value, "why", "v2", NOW, NOW + timedelta(hours=1), before)


def new(kind, value):
    return NewOverlay("payouts", kind, value, "why", "v2", LASTS[kind])


def test_a_resource_is_seen_as_the_operator_wrote_it(site):
    site.deploy("crt-payout-v1-1.0")
    name = "crt-payout-v1-1-0"
    assert (one(site).state, one(site).submission) == (AppState.NEW, None)
    site.now = lambda: datetime(2026, 11, 22, 20, tzinfo=UTC)
    submission = site.submit(name)
    app = one(site)
    assert (app.spike, app.name, app.state, app.spec_hash) == (
        "crt-payout-v1-1.0", name, AppState.RUNNING, "v2",
    )  # fmt: skip
    assert (app.submission, app.driver_pod, app.suspend) == (submission, f"{name}-driver", False)
    assert app.submitted_at == datetime(2026, 11, 22, 20, tzinfo=UTC)
    site.fails(name, 137, "OOMKilled")
    assert one(site).error == "driver container failed with ExitCode: 137, Reason: OOMKilled"


@pytest.mark.parametrize("state", sorted(set(AppState) - {AppState.NEW, AppState.UNSEEN}))
def test_every_state_is_known(site, state):
    site.deploy()
    site.submit(state=state)
    assert one(site).state is state


def test_an_unknown_state_is_seen_as_such(site):
    site.deploy()
    site.submit(state="PONDERING")
    assert (one(site).state, one(site).state_text) == (AppState.UNSEEN, "PONDERING")


def test_one_that_is_not_understood_is_a_problem_and_hides_no_other(site):
    site.deploy()
    site.deploy("session")
    try:
        site.status("session", {"not": "a state"})
    except InvalidSpec:
        pytest.skip("the CRD of the operator itself lets nobody write that")
    seen = {app.spike: app for app in site.cluster.applications()}
    assert "status.applicationState.state" in seen["session"].problem
    assert (seen["payouts"].problem, seen["payouts"].state) == (None, AppState.NEW)


def test_resources_that_are_not_ours_are_not_seen(site):
    site.deploy()
    other = site.get()
    body = {k: other[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "somebodys"}}
    site.api.post(site.apps, body)
    assert [app.name for app in site.cluster.applications()] == ["payouts"]


def test_a_kick_touches_the_resource_and_not_its_spec(site):
    site.deploy()
    before = site.get()
    site.cluster.kick(one(site))
    assert site.get()["spec"] == before["spec"]
    assert site.get()["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


def test_a_restart_is_a_suspension_that_says_why_and_is_resumed(site):
    site.deploy()
    site.cluster.suspend(one(site), "hung", "ann wants it")
    app = one(site)
    assert (app.suspend, app.controls.restarting, app.controls.restarted) == (True, "hung", "ann wants it")
    site.cluster.resume(app)
    assert (one(site).suspend, one(site).controls.restarting) == (False, None)


def test_a_resubmission_changes_the_spec_so_that_a_terminated_one_starts_again(site):
    site.deploy(sparkConf={"spark.a": "1"})
    before = site.get()["spec"]
    site.cluster.resubmit(one(site), "gave up", None)
    conf = site.get()["spec"]["sparkConf"]
    assert conf.pop("spark.spike.resubmitted")
    assert conf == before["sparkConf"]


@pytest.mark.parametrize("act", ["kick", "suspend", "resume", "resubmit", "converge"])
def test_what_was_changed_meanwhile_is_left_alone(site, act):
    site.deploy()
    app = one(site)
    site.annotate(pause="ann looks into it")
    arguments = {"suspend": ("w", None), "resubmit": ("w", None), "converge": ((), (), None)}.get(act, ())
    after = site.get()
    with pytest.raises(Conflict):
        getattr(site.cluster, act)(app, *arguments)
    assert site.get() == after


@pytest.mark.parametrize("act", ["kick", "manifest"])
def test_one_that_was_deleted_or_made_again_is_another_one(site, act):
    site.deploy()
    app = one(site)
    site.delete()
    with pytest.raises(Conflict, match="gone"):
        getattr(site.cluster, act)(app)
    site.deploy()
    with pytest.raises(Conflict):
        getattr(site.cluster, act)(app)


@pytest.mark.parametrize(
    ("kind", "value", "place", "wanted"),
    [
        (OverlayKind.MEMORY, "768m", ("driver", "memory"), "768m"),
        (
            OverlayKind.SMALLER_BATCHES,
            "2500",
            ("sparkConf", "spark.kubernetes.driverEnv.SPIKE_MAX_OFFSETS_PER_TRIGGER"),
            "2500",
        ),
        (OverlayKind.ON_DEMAND, "life=long", ("driver", "nodeSelector", "life"), "long"),
        (OverlayKind.QUARANTINE, "suspend", ("suspend",), True),
    ],
)
def test_an_overlay_is_laid_marked_and_taken_off_again(site, kind, value, place, wanted):
    site.deploy()
    bare = site.get()["spec"]
    before = site.cluster.replaced_by(one(site), new(kind, value), (), None)
    held = overlay(kind, value, before)
    site.cluster.converge(one(site), [held], [], None)
    assert at(site.get()["spec"], place) == wanted
    assert one(site).controls.overlays == held.mark
    site.cluster.converge(one(site), [], [held], None)
    assert one(site).controls.overlays == ""
    assert pruned(site.get()["spec"]) == pruned(bare)


SPOT_ONLY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}


def test_a_driver_made_from_a_template_is_placed_there_and_freed_from_asking_for_spot_nodes(site):
    site.deploy()
    site.change("payouts", {"spec": {"driver": {"template": {"spec": {"affinity": SPOT_ONLY}}}}})
    bare = site.get()["spec"]
    before = site.cluster.replaced_by(one(site), new(OverlayKind.ON_DEMAND, "life=long"), (), None)
    held = overlay(OverlayKind.ON_DEMAND, "life=long", before)
    site.cluster.converge(one(site), [held], [], None)
    pod = site.get()["spec"]["driver"]["template"]["spec"]
    assert pod["nodeSelector"] == {"life": "long"}
    assert not pod["affinity"]
    assert "nodeSelector" not in site.get()["spec"]["driver"]
    site.cluster.converge(one(site), [], [held], None)
    assert pruned(site.get()["spec"]) == pruned(bare)


def test_what_somebody_else_changed_under_an_overlay_is_not_put_back(site):
    site.deploy()
    before = site.cluster.replaced_by(one(site), new(OverlayKind.MEMORY, "768m"), (), None)
    held = overlay(OverlayKind.MEMORY, "768m", before)
    site.cluster.converge(one(site), [held], [], None)
    site.change("payouts", {"spec": {"driver": {"memory": "2g"}}})
    site.cluster.converge(one(site), [], [held], None)
    assert site.get()["spec"]["driver"]["memory"] == "2g"


def test_a_stable_spec_is_gone_back_to_and_left_again(site):
    site.deploy(spec_hash="v1", arguments=["a"], sparkConf={"spark.old": "1"})
    stable = site.cluster.manifest(one(site))
    site.delete()
    site.deploy(spec_hash="v2", sparkConf={"spark.new": "1"})
    bare = site.get()["spec"]
    wish = new(OverlayKind.STABLE_SPEC, "v1")
    held = overlay(OverlayKind.STABLE_SPEC, "v1", site.cluster.replaced_by(one(site), wish, (), stable))
    site.cluster.converge(one(site), [held], [], stable)
    assert site.get()["spec"] == json.loads(stable)["spec"]
    assert one(site).spec_hash == "v2"
    site.cluster.converge(one(site), [], [held], stable)
    assert site.get()["spec"] == bare


def memory(site):
    return site.get()["spec"]["driver"]["memory"]


@pytest.mark.parametrize("first", ["memory", "stable"])
@pytest.mark.parametrize("ends_first", ["both", "memory", "stable"])
def test_overlays_that_lie_over_each_other_hold_and_end_in_any_order(site, first, ends_first):
    """What is added lies over the spec that was gone back to, and in the end all is as it was deployed."""
    site.deploy(spec_hash="v1", arguments=["old"])
    stable = site.cluster.manifest(one(site))
    site.delete()
    site.deploy(spec_hash="v2", arguments=["new"], driver={"memory": "600m", "cores": 1})
    bare, held = site.get()["spec"], {}
    wishes = {"memory": new(OverlayKind.MEMORY, "900m"), "stable": new(OverlayKind.STABLE_SPEC, "v1")}
    for number, kind in enumerate(sorted(wishes, key=lambda k: k != first)):
        wish = wishes[kind]
        before = site.cluster.replaced_by(one(site), wish, list(held.values()), stable)
        held[kind] = overlay(wish.kind, wish.value, before, number)
        site.cluster.converge(one(site), list(held.values()), [], stable)
    assert (memory(site), site.get()["spec"]["arguments"]) == ("900m", ["old"])
    if ends_first != "both":
        ended = held.pop(ends_first)
        site.cluster.converge(one(site), list(held.values()), [ended], stable)
        said = memory(site), site.get()["spec"]["arguments"]
        assert said == {"memory": ("512m", ["old"]), "stable": ("900m", ["new"])}[ends_first]
    site.cluster.converge(one(site), [], list(held.values()), stable)
    assert site.get()["spec"] == bare


def files(site):
    items = site.api.get(f"/api/v1/namespaces/{site.namespace}/configmaps")["items"]
    return {item["metadata"]["name"] for item in items} - {"kube-root-ca.crt"}


def test_files_of_versions_that_nobody_goes_back_to_are_forgotten(site):
    for name, spike in (("a-1", "a"), ("a-2", "a"), ("b-1", "b")):
        labels = {"spike-pipelines.io/spike": spike, "spike-pipelines.io/application-file": name[-1]}
        path = f"/api/v1/namespaces/{site.namespace}/configmaps"
        site.api.post(path, {"metadata": {"name": name, "labels": labels}, "data": {}})
    now = datetime.now(UTC)
    site.cluster.forget_files("a", {"2"}, now - timedelta(hours=1))
    assert files(site) == {"a-1", "a-2", "b-1"}
    site.cluster.forget_files("a", {"2"}, now + timedelta(hours=1))
    assert files(site) == {"a-2", "b-1"}


def test_a_manifest_is_of_the_spec_that_was_seen(site):
    site.deploy()
    app = one(site)
    site.change("payouts", {"spec": {"image": "another"}})
    with pytest.raises(Conflict, match="changed meanwhile"):
        site.cluster.manifest(app)


def test_a_deleted_resource_is_made_again_as_it_was_without_our_marks(site):
    site.deploy()
    site.annotate(kicked="x", team="payments")
    was = site.get()
    manifest = site.cluster.manifest(one(site))
    site.delete()
    site.cluster.recreate(manifest)
    again = site.get()
    assert (again["spec"], again["metadata"]["labels"]) == (was["spec"], was["metadata"]["labels"])
    assert set(site.notes()) == {"spike-pipelines.io/spec-hash", "spike-pipelines.io/team"}
    assert again["metadata"]["uid"] != was["metadata"]["uid"]


def test_pods_are_seen_with_why_they_wait_or_ended(site):
    site.deploy()
    submission = site.submit()
    site.pod(
        submission,
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        conditions=[
            {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "m"}
        ],
        containerStatuses=[
            {
                "name": "spark-kubernetes-driver", "image": "i", "imageID": "", "ready": False,
                "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            }
        ],
    )  # fmt: skip
    pods = site.cluster.pods(["payouts", "session"])
    (pod,) = pods["payouts"]
    assert (pod.phase, pod.reason, pod.terminated, pod.exit_code, pod.disrupted, pod.submission) == (
        "Failed", "Evicted", "OOMKilled", 137, "TerminationByKubelet", submission,
    )  # fmt: skip
    assert pods["session"] == ()


def test_an_event_is_told_on_the_resource(site):
    site.deploy()
    site.cluster.tell(one(site), "SpikeStuck", "kick: PENDING_RERUN for 61 s")
    assert site.cluster.clues(one(site), 5).events == ("SpikeStuck: kick: PENDING_RERUN for 61 s",)


def test_what_passed_between_two_looks_is_told_oldest_first(site):
    site.deploy(), site.deploy("session")
    first, before = site.submit(), one_of(site, "payouts").as_of
    site.fails(code=137, reason="OOMKilled")
    site.submit("session")
    site.status(state="PENDING_RERUN")
    site.submit(state="SUBMITTED")
    now = one_of(site, "payouts")
    failing, rerun = site.cluster.history(now, before)
    assert (failing.state, failing.submission, rerun.state) == (AppState.FAILING, first, "PENDING_RERUN")
    assert failing.error == "driver container failed with ExitCode: 137, Reason: OOMKilled"
    site.status(state="RUNNING")
    assert site.cluster.history(now, before) == (failing, rerun)


def test_what_a_resource_of_the_same_name_was_before_is_another_ones_history(site):
    site.deploy()
    site.submit()
    before = one(site).as_of
    site.fails()
    site.delete()
    site.deploy()
    site.submit(state="SUBMITTED")
    assert [then.state for then in site.cluster.history(one(site), before)] == [AppState.NEW]


def one_of(site, spike):
    site.settle()
    return next(app for app in site.cluster.applications() if app.spike == spike)


# as a `Cluster`, like local processes


def test_drivers_are_submissions_and_how_they_ended(site):
    site.deploy()
    assert site.cluster.drivers() == ()
    submission = site.submit()
    (driver,) = site.cluster.drivers()
    assert (driver.spike, driver.driver, driver.state) == ("payouts", submission, DriverState.RUNNING)
    site.fails(code=3)
    (driver,) = site.cluster.drivers()
    assert (driver.state, driver.exit_code) == (DriverState.EXITED, 3)


def test_a_driver_that_the_operator_lost_sight_of_is_unknown(site):
    site.deploy()
    site.submit(state="UNKNOWN")
    assert site.cluster.drivers()[0].state is DriverState.UNKNOWN


def test_a_stopped_driver_has_no_pod_and_may_be_stopped_again(site):
    site.deploy()
    submission = site.submit()
    site.pod(submission)
    site.cluster.stop(submission)
    until(lambda: site.cluster.pods(["payouts"])["payouts"] == (), 10, "its pod is gone")
    site.cluster.stop(submission)


def test_a_pod_that_has_taken_the_name_of_the_one_to_stop_is_left(site, monkeypatch):
    """The operator makes the next driver's pod under the same name, between list and deletion."""
    site.deploy()
    submission = site.submit()
    site.pod(submission)
    pods = KubernetesCluster._pods

    def replaced_meanwhile(cluster, selector):
        for found in list(pods(cluster, selector)):
            site.api.delete(f"{site.pods}/payouts-driver")
            site.pod(site.submit())
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(KubernetesCluster, "_pods", replaced_meanwhile)
        site.cluster.stop(submission)
    (left,) = site.cluster.pods(["payouts"])["payouts"]
    assert left.submission != submission


def test_the_log_of_a_driver_that_has_none_is_empty(site):
    site.deploy()
    submission = site.submit()
    assert site.cluster.log_tail(submission, 5) == ()
    site.pod(submission, phase="Pending")
    assert site.cluster.log_tail(submission, 5) == ()


def test_a_spike_that_is_not_deployed_is_not_started(site):
    with pytest.raises(InvalidSpec, match="spike deploy payouts"):
        site.cluster.start(make_spike())


@pytest.mark.parametrize(
    ("state", "suspend"), [("SUSPENDED", True), ("FAILED", False), ("PENDING_RERUN", False)]
)
def test_a_spike_is_started_by_what_moves_the_operator(site, state, suspend):
    site.deploy(suspend=suspend)
    site.submit(state=state)
    before = site.get()
    site.cluster.start(make_spike())
    assert not site.get()["spec"].get("suspend")
    assert site.get()["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


def at(spec, place):
    for key in place:
        spec = spec[key]
    return spec


def pruned(spec):
    """Without what is empty: a patch leaves an empty object where it made one."""
    kept = {k: pruned(v) if isinstance(v, dict) else v for k, v in spec.items()}
    return {k: v for k, v in kept.items() if v not in ({}, None, False)}
