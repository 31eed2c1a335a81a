"""The supervisor against an API server, over hours: the operator's part is played by the tests.

The ledger is the real one's statements in memory, so that its clock can be moved; the resources are real.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from builders import Driver, World
from reconciler import Reconciler
from sites import Site
from typer.testing import CliRunner

from spike_pipelines.adapters.applications import Applications
from spike_pipelines.adapters.kubernetes import KubernetesCluster
from spike_pipelines.adapters.memory_ledger import MemoryLedger
from spike_pipelines.cli.main import app
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Fenced, InvalidSpec, Transient
from spike_pipelines.domain.fleet import DRIVERS_A_MINUTE
from spike_pipelines.domain.overlays import OverlayKind
from spike_pipelines.domain.sightings import UNDEPLOYED
from spike_pipelines.domain.supervision import ActionKind, Verdict
from spike_pipelines.services.supervise_applications import ApplicationSupervisor

START = datetime.now(UTC)


@dataclass
class Hours:
    """A platform whose clock is moved by hand. The appender has answered for a day."""

    site: Site
    at: datetime = START
    world: World = field(init=False)
    on_demand: str | None = "life=long"

    def __post_init__(self):
        self.world = World(MemoryLedger(lambda: self.at))
        self.site.now = lambda: self.at

    def since(self):
        return self.at - timedelta(days=1)

    @property
    def supervisor(self):
        w = self.world
        return ApplicationSupervisor(w.ledger, self.site.cluster, self, w.broker, w.spikes, self.on_demand)

    def deploy(self, *names, version="v2", **spec):
        for name in names or ("payouts",):
            self.world.spike(name, version=version, max_offsets_per_trigger=100_000)
            self.site.deploy(name, version, **spec)

    def tick(self, seconds=5):
        """A sensor tick so much later, and its recovery run: what was seen and done, by spike."""
        self.at += timedelta(seconds=seconds)
        self.site.settle()
        decisions = {d.spike: d for d in self.supervisor.watch()}
        needed = [name for name, d in decisions.items() if d.action]
        done = {r.decision.spike: r for r in self.supervisor.recover_all(needed)}
        return {
            name: (d.verdict, done[name].action.noted if name in done else None)
            for name, d in decisions.items()
        }

    def until(self, verdict, action, within, step=10):
        """Tick until this is seen; how many seconds that took."""
        for passed in range(step, within + 1, step):
            if self.tick(step)["payouts"] == (verdict, action):
                return passed
        pytest.fail(f"{verdict} {action} not within {within} s: {self.supervisor.look()[0]}")

    def driver(self, submission, spike="payouts", version="v2"):
        """A driver that has opened its epoch and beats."""
        return self.world.registrar.open_epoch(self.world.spikes[spike], submission, None, version)

    def beats(self):
        self.world.execute(
            f"UPDATE epochs SET phase = 'reading', heartbeat_at = {int(self.at.timestamp() * 1e6)}"
            " WHERE state = 'open'"
        )

    def recoveries(self, spike="payouts"):
        since = self.at - timedelta(days=1)
        return [r.action for r in self.world.ledger.recoveries(since).get(spike, ())]


@pytest.fixture
def hours(site):
    return Hours(site)


def test_a_stuck_rerun_is_kicked_within_two_ticks_of_being_stuck_then_restarted(hours):
    hours.deploy()
    hours.tick()
    hours.site.submit(state="PENDING_RERUN")
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)
    assert hours.tick(61)["payouts"] == (Verdict.STUCK, "kick")
    assert "spike-pipelines.io/kicked" in hours.site.notes()
    assert hours.tick()["payouts"] == (Verdict.STUCK, None)
    assert hours.until(Verdict.STUCK, "restart", 60) <= 60
    assert hours.site.get()["spec"]["suspend"] is True
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "resume")
    assert hours.site.get()["spec"]["suspend"] is False
    assert hours.recoveries() == ["kick", "restart"]


def test_a_restart_that_died_half_way_is_finished_by_whoever_looks_next(hours):
    hours.deploy()
    hours.tick()
    hours.site.cluster.suspend(hours.site.cluster.applications()[0], "hung", None)
    hours.site.submit(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "resume")


def test_a_driver_that_works_is_left_alone_whatever_the_operator_says(hours):
    hours.deploy()
    hours.driver(hours.site.submit())
    hours.tick()
    hours.site.status(state="UNKNOWN")
    for _ in range(30):
        hours.beats()
        assert hours.tick(20)["payouts"] == (Verdict.RUNNING, None)


def test_a_driver_that_calls_itself_by_its_pods_uid_is_known_after_one_look_at_the_pod(hours, monkeypatch):
    hours.deploy()
    submission = hours.site.submit()
    hours.driver(hours.site.pod(submission))
    hours.beats()
    assert hours.tick(0)["payouts"] == (Verdict.RUNNING, None)

    def asks(*_):
        pytest.fail("pods are for suspects")

    monkeypatch.setattr("spike_pipelines.adapters.kubernetes.KubernetesCluster.pods", asks)
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def test_a_running_driver_that_is_silent_is_fenced_and_restarted(hours):
    hours.deploy()
    submission = hours.site.submit()
    hours.driver(submission)
    hours.tick()
    assert hours.tick(65)["payouts"] == (Verdict.HUNG, "restart")
    assert hours.world.ledger.epochs()["payouts"].state is EpochState.RETIRED
    assert hours.site.get()["spec"]["suspend"] is True
    with pytest.raises(Fenced):
        hours.world.registrar.open_epoch(hours.world.spikes["payouts"], submission, None, "v2")


def crash(hours, times, code=1, reason="Error", **pod):
    """Lives of twenty seconds, each seen by a tick. What the last tick saw and did."""
    for _ in range(times):
        hours.site.submit()
        hours.tick(10)
        hours.site.fails(code=code, reason=reason)
        seen = hours.tick(10)["payouts"]
    return seen


def test_out_of_memory_again_and_again_gets_half_as_much_again_until_somebody_deploys(hours):
    hours.deploy()
    assert crash(hours, 2, 137, "OOMKilled") == (Verdict.STARTING, None)
    assert crash(hours, 1, 137, "OOMKilled") == (Verdict.CRASHING, "more-memory")
    assert hours.site.get()["spec"]["driver"]["memory"] == "768m"
    (overlay,) = hours.world.ledger.open_overlays()["payouts"]
    assert (overlay.kind, overlay.value, overlay.before) == (
        OverlayKind.MEMORY, "768m", '{"driver": {"memory": "512m"}}',
    )  # fmt: skip
    hours.tick(40)
    assert crash(hours, 1, 137, "OOMKilled") == (Verdict.CRASHING, "more-memory")
    assert hours.site.get()["spec"]["driver"]["memory"] == "1152m"
    hours.site.annotate(spec_hash="v3")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "converge")
    assert hours.site.get()["spec"]["driver"]["memory"] == "512m"
    hours.tick()
    assert hours.world.ledger.open_overlays() == {}


def test_status_shows_verdicts_and_overlays_of_a_cluster_without_a_stack(hours, monkeypatch):
    hours.deploy()
    crash(hours, 3, 137, "OOMKilled")
    world = hours.world
    platform = SimpleNamespace(
        applications=Applications(world.spikes, {}),
        spikes=world.spikes,
        supervisor=hours.supervisor,
        ledger=world.ledger,
        observer=SimpleNamespace(lag=dict),
    )
    monkeypatch.setattr("spike_pipelines.cli.stack.Platform", lambda _: platform)
    env = {"SPIKE_CLUSTER": "kubernetes", "SPIKE_STATE_DIR": "/none"}
    shown = json.loads(CliRunner().invoke(app, ["status", "-o", "json"], env=env).output)
    (row,) = shown["spikes"]
    assert (row["spike"], row["verdict"], shown["parts"]) == ("payouts", "STARTING", [])
    assert "overlay more-memory 768m until" in row["problem"]


def test_an_overlay_that_only_the_ledger_has_comes_to_the_resource(hours, monkeypatch):
    """The run died between the row and the patch."""
    hours.deploy()
    crash(hours, 2, 137, "OOMKilled")

    def dies(*_):
        raise Transient("the API server does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("spike_pipelines.adapters.kubernetes.KubernetesCluster.converge", dies)
        with pytest.raises(Transient):
            crash(hours, 1, 137, "OOMKilled")
    assert hours.site.get()["spec"]["driver"]["memory"] == "512m"
    assert hours.tick()["payouts"] == (Verdict.STARTING, "converge")
    assert hours.site.get()["spec"]["driver"]["memory"] == "768m"
    assert hours.recoveries() == ["more-memory", "converge"]


def test_an_overlay_ends_when_its_time_is_over(hours):
    hours.deploy()
    crash(hours, 3, 137, "OOMKilled")
    hours.driver(hours.site.submit())
    hours.beats()
    assert hours.tick()["payouts"][0] is Verdict.RUNNING
    hours.at += timedelta(days=7)
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.STARTING, "converge")
    assert hours.site.get()["spec"]["driver"]["memory"] == "512m"


def test_a_crash_loop_after_a_bad_rollout_goes_back_to_the_spec_that_worked(hours):
    hours.deploy(version="v1", arguments=["old"])
    hours.driver(hours.site.submit(), version="v1")
    hours.tick()
    hours.at += timedelta(minutes=11)
    hours.beats()
    worked(hours)
    hours.tick()
    assert hours.world.ledger.specs()["payouts"].stable == "v1"
    hours.site.annotate(spec_hash="v2")
    hours.site.change("payouts", {"spec": {"arguments": ["new"], "image": "bad"}})
    hours.world.spike(version="v2")
    assert crash(hours, 3) == (Verdict.CRASHING, "stable-spec")
    spec = hours.site.get()["spec"]
    assert (spec["arguments"], spec["image"]) == (["old"], "spike:v1")


def test_after_another_image_a_deleted_resource_comes_back_with_that_one(hours):
    """Of the same version: the application file does not say the image."""
    hours.deploy(image="a:1")
    hours.site.annotate(spec_digest="1")
    hours.tick()
    hours.site.change("payouts", {"spec": {"image": "a:2"}})
    hours.site.annotate(spec_digest="2")
    hours.tick()
    hours.site.delete()
    hours.tick()
    assert hours.tick(61)["payouts"] == (Verdict.MISSING, "recreate")
    assert hours.site.get()["spec"]["image"] == "a:2"


def test_a_driver_of_the_image_before_does_not_make_the_new_one_stable(hours):
    hours.deploy(image="a:1")
    hours.site.annotate(spec_digest="1")
    hours.driver(hours.site.submit())
    hours.tick()
    hours.site.annotate(spec_digest="2")
    hours.tick()
    hours.at += timedelta(minutes=11)
    hours.beats()
    worked(hours)
    hours.tick()
    assert hours.world.ledger.specs()["payouts"].stable is None


def test_a_spec_that_was_edited_is_told_until_it_is_as_it_was_deployed(hours):
    hours.deploy()
    hours.driver(hours.site.submit())
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)
    memory = hours.site.get()["spec"]["driver"]["memory"]
    hours.site.change("payouts", {"spec": {"driver": {"memory": "9g"}}})
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.DRIFTED, None)
    assert "spec of payouts was edited" in hours.supervisor.look()[0].cause
    hours.site.change("payouts", {"spec": {"driver": {"memory": memory, "nodeSelector": {}}}})
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def worked(hours):
    """A commit, now."""
    spike = hours.world.spikes["payouts"]
    if not hours.world.ledger.last_commits():
        open_now = hours.world.ledger.epochs()["payouts"]
        granted = hours.world.registrar.open_epoch(spike, open_now.driver, None, open_now.application_version)
        Driver(hours.world, spike, granted).stage()
        hours.world.promoter().promote(spike, limit=1)


def test_what_crashes_whatever_is_tried_is_put_away_and_tried_again_an_hour_later(hours):
    hours.deploy()
    assert crash(hours, 3) == (Verdict.CRASHING, "restart")
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "resume")
    hours.tick(40)
    assert crash(hours, 1) == (Verdict.CRASHING, "quarantine")
    assert hours.site.get()["spec"]["suspend"] is True
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.QUARANTINED, None)
    hours.at += timedelta(hours=1)
    assert hours.tick()["payouts"] == (Verdict.STARTING, "converge")
    assert not hours.site.get()["spec"].get("suspend")


def dies_between_two_looks(hours, name="payouts", code=137, reason="OOMKilled"):
    """As with an operator whose wait is over when the driver ends: all of it within a second."""
    hours.site.fails(name, code, reason)
    hours.site.status(name, state="PENDING_RERUN")
    return hours.site.submit(name, state="SUBMITTED")


def test_a_crash_loop_that_no_look_falls_into_is_read_and_mended_while_the_next_driver_begins(hours):
    hours.deploy()
    hours.site.submit()
    hours.tick()
    for _ in range(2):
        submission = dies_between_two_looks(hours)
        assert hours.tick(20)["payouts"] == (Verdict.STARTING, None)
        hours.site.status(state="RUNNING")
        hours.tick()
    hours.driver(submission)
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)
    dies_between_two_looks(hours)
    assert hours.tick(20)["payouts"] == (Verdict.CRASHING, "more-memory")
    assert hours.world.ledger.epochs()["payouts"].state is EpochState.RETIRED
    assert hours.site.get()["spec"]["driver"]["memory"] == "768m"
    (told,) = hours.world.ledger.recoveries(hours.since())["payouts"]
    assert "3 drivers within 30 min ended out of memory" in told.cause
    hours.site.attempts["payouts"] = 0  # another spec
    hours.site.submit(state="SUBMITTED")
    assert hours.tick(40)["payouts"] == (Verdict.STARTING, None)
    dies_between_two_looks(hours)
    assert hours.tick(20)["payouts"] == (Verdict.CRASHING, "more-memory")
    assert hours.site.get()["spec"]["driver"]["memory"] == "1152m"


def test_under_an_operator_that_submits_anew_at_once_drivers_out_of_memory_get_more(hours):
    """As recorded: lives that are longer than the operator's wait, and a look every five seconds."""
    policy = {"type": "Always", "onFailureRetryInterval": 10}
    hours.deploy(restartPolicy=policy)
    site, states = hours.site, set()
    operator = Reconciler(
        site.api, site.namespace, lambda _, submission: site.pod(submission), lambda: hours.at
    )

    def look():
        operator.reconcile()
        seen = hours.tick()["payouts"]
        states.add(hours.supervisor.ledger.sightings()["payouts"].state_text)
        return seen

    look()
    for _ in range(3):
        for _ in range(8):
            assert look()[1] is None
        site.pod_is("Failed", 137, "OOMKilled")
        seen = look()
    assert states == {"SUBMITTED", "RUNNING"}
    assert seen == (Verdict.CRASHING, "more-memory")
    operator.reconcile()
    look()
    assert site.get()["spec"]["driver"]["memory"] == "768m"
    assert hours.recoveries() == ["more-memory"]


def test_an_ending_is_read_while_the_operator_submits_anew(hours):
    """Which takes it seconds, in a state that says nothing of it any more."""
    hours.deploy()
    for _ in range(3):
        hours.site.submit()
        assert hours.tick()["payouts"] == (Verdict.STARTING, None)
        hours.site.fails(code=137, reason="OOMKilled")
        hours.site.status(state="PENDING_RERUN")
        seen = hours.tick()["payouts"]
    assert seen == (Verdict.CRASHING, "more-memory")


def test_several_lives_between_two_looks_are_all_read(hours):
    """As after minutes without Dagster."""
    hours.deploy()
    hours.site.submit()
    hours.tick()
    for _ in range(3):
        dies_between_two_looks(hours)
    assert hours.tick(120)["payouts"] == (Verdict.CRASHING, "more-memory")


def test_a_driver_that_is_heard_is_left_alone_however_its_forerunners_ended(hours):
    hours.deploy()
    hours.site.submit()
    hours.tick()
    for _ in range(3):
        submission = dies_between_two_looks(hours)
    hours.driver(submission)
    hours.site.status(state="RUNNING")
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def test_a_look_of_which_nothing_could_be_noted_is_read_again_and_counted_once(hours, monkeypatch):
    hours.deploy()
    hours.site.submit()
    hours.tick()
    dies_between_two_looks(hours)

    def lost(*_):
        raise Transient("the ledger is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryLedger, "note_look", lost)
        with pytest.raises(Transient):
            hours.tick(20)
    hours.site.status(state="RUNNING")
    dies_between_two_looks(hours)
    assert hours.tick(20)["payouts"] == (Verdict.STARTING, None)
    lives = hours.world.ledger.sightings()["payouts"].lives
    assert [life.ending for life in lives] == ["out of memory", "out of memory", None]


def test_what_ended_before_something_was_done_about_it_calls_for_nothing_more(hours):
    """Also where the recovery's own look was the first to see it."""
    hours.deploy()
    hours.site.submit()
    hours.tick()
    for _ in range(3):
        dies_between_two_looks(hours)
    hours.at += timedelta(seconds=5)
    hours.supervisor.watch()
    dies_between_two_looks(hours)
    hours.site.fails(code=137, reason="OOMKilled")
    hours.site.status(state="PENDING_RERUN")
    hours.at += timedelta(seconds=5)
    (done,) = hours.supervisor.recover_all(["payouts"])
    assert done.action.noted == "more-memory"
    hours.tick()
    hours.site.attempts["payouts"] = 0  # another spec
    hours.site.submit(state="SUBMITTED")
    assert hours.tick(40)["payouts"] == (Verdict.STARTING, None)
    assert hours.recoveries() == ["more-memory"]


def test_while_nobody_listens_no_driver_is_ended_for_those_before_it(hours, monkeypatch):
    hours.deploy()
    hours.site.submit()
    hours.tick()
    for _ in range(3):
        dies_between_two_looks(hours)
    hours.site.status(state="RUNNING")
    with monkeypatch.context() as patch:
        patch.setattr(Hours, "since", lambda _: None)
        assert hours.tick()["payouts"] == (Verdict.UNKNOWN, None)
        assert hours.tick(600)["payouts"] == (Verdict.UNKNOWN, None)
    back = hours.at + timedelta(seconds=3)
    monkeypatch.setattr(Hours, "since", lambda _: back)
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)
    assert hours.site.get()["spec"]["driver"]["memory"] == "512m"


@pytest.mark.parametrize("sign", ["opens an epoch", "beats"])
def test_a_driver_that_is_heard_between_look_and_act_is_left_alone(hours, monkeypatch, sign):
    """Which the resource does not show: its version is that of the look."""
    hours.deploy()
    submission = hours.site.submit()
    hours.tick()
    if sign == "beats":
        hours.driver(submission)
        hours.at += timedelta(seconds=65)
    else:
        for _ in range(3):
            submission = dies_between_two_looks(hours)
        hours.site.status(state="RUNNING")
    clues = KubernetesCluster.clues

    def meanwhile(cluster, seen, lines):
        if sign == "beats":
            hours.beats()
        else:
            hours.driver(submission)
        return clues(cluster, seen, lines)

    with monkeypatch.context() as patch:
        patch.setattr(KubernetesCluster, "clues", meanwhile)
        (done,) = hours.supervisor.recover_all(["payouts"])
    assert "not done: driver" in done.decision.cause
    epoch = hours.world.ledger.epochs()["payouts"]
    assert (epoch.driver, epoch.state) == (submission, EpochState.OPEN)
    spec = hours.site.get()["spec"]
    assert (spec["driver"]["memory"], spec.get("suspend", False)) == ("512m", False)
    assert (hours.recoveries(), hours.world.ledger.open_overlays()) == ([], {})
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def test_what_the_api_server_has_forgotten_is_unseen_and_fails_no_look(hours, fake):
    if hours.site.fake is None:
        pytest.skip("a real API server does not forget when told to")
    hours.deploy()
    hours.site.submit()
    hours.tick()
    dies_between_two_looks(hours)
    fake.forget()
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)
    assert [li.ending for li in hours.world.ledger.sightings()["payouts"].lives] == ["unseen", None]


def test_histories_are_asked_for_where_an_ending_was_missed_and_so_many_a_look(hours):
    if hours.site.fake is None:
        pytest.skip("a real API server does not tell what it was asked")
    names = [f"spike-{i:02}" for i in range(25)]
    hours.deploy(*names, "fine")
    for name in (*names, "fine"):
        hours.site.submit(name)
    hours.tick()
    assert watched(hours) == []
    for name in names:
        dies_between_two_looks(hours, name)
    hours.supervisor.watch()
    assert watched(hours) == names[:20]
    endings = [hours.world.ledger.sightings()[name].lives[0].ending for name in names]
    assert endings == ["out of memory"] * 20 + ["unseen"] * 5
    hours.supervisor.watch()
    assert len(watched(hours)) == 20


def watched(hours):
    asked = [q["fieldSelector"] for _, _, q in hours.site.fake.requests if "watch" in q]
    return [selector.removeprefix("metadata.name=") for selector in asked]


def test_drivers_that_end_between_two_looks_are_told(hours):
    """Though nothing says how they ended."""
    hours.deploy()
    for _ in range(4):
        hours.site.submit()
        assert hours.tick(30)["payouts"] == (Verdict.STARTING, None)
    hours.site.submit()
    assert hours.tick(30)["payouts"] == (Verdict.CRASHING, "page")
    (told,) = hours.world.ledger.recoveries(hours.since())["payouts"]
    assert "4 drivers within 30 min ended unseen" in told.cause


def test_drivers_that_lose_their_nodes_go_to_nodes_that_stay(hours):
    hours.deploy()
    for _ in range(2):
        submission = hours.site.submit()
        hours.tick(10)
        hours.site.pod(submission, pod=f"driver-{submission[:4]}", phase="Failed", reason="Evicted")
        hours.site.fails(code=137)
        seen = hours.tick(10)["payouts"]
    assert seen == (Verdict.CRASHING, "on-demand")
    assert hours.site.get()["spec"]["driver"]["nodeSelector"] == {"life": "long"}


def test_an_image_that_cannot_be_had_is_told_with_the_reason_and_not_restarted(hours):
    hours.deploy()
    hours.tick()
    submission = hours.site.submit(state="SUBMITTED")
    hours.site.pod(
        submission,
        phase="Pending",
        containerStatuses=[
            {
                "name": "spark-kubernetes-driver", "image": "i", "imageID": "", "ready": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            }
        ],
    )  # fmt: skip
    hours.tick()
    assert hours.tick(301)["payouts"] == (Verdict.PENDING, "page")
    assert "ImagePullBackOff: no such image" in hours.supervisor.look()[0].cause
    assert (
        hours.site.cluster.clues(hours.site.cluster.applications()[0], 5)
        .events[-1]
        .startswith("SpikePending: page")
    )


def test_a_resource_deleted_by_hand_comes_back_as_it_was(hours):
    hours.deploy(arguments=["as", "deployed"])
    hours.tick()
    hours.site.delete()
    hours.tick()
    assert hours.tick(30)["payouts"] == (Verdict.MISSING, None)
    assert hours.tick(40)["payouts"] == (Verdict.MISSING, "recreate")
    assert hours.site.get()["spec"]["arguments"] == ["as", "deployed"]
    assert hours.tick()["payouts"] == (Verdict.STARTING, None)


def test_a_spike_that_was_undeployed_does_not_come_back_while_its_file_is_still_read(hours):
    hours.deploy()
    hours.tick()
    hours.site.delete()
    hours.tick()
    seen = hours.world.ledger.sightings()["payouts"]
    hours.world.ledger.note_sightings([replace(seen, state_text=UNDEPLOYED)])
    for _ in range(3):
        assert hours.tick(61)["payouts"] == (Verdict.NOT_DEPLOYED, None)


def test_what_was_never_deployed_is_not_invented(hours):
    hours.world.spike()
    for _ in range(3):
        assert hours.tick(100)["payouts"] == (Verdict.NOT_DEPLOYED, None)


def test_a_driver_of_an_older_spec_is_drift(hours):
    hours.deploy(version="v1")
    hours.driver(hours.site.submit(), version="v1")
    hours.beats()
    hours.tick()
    hours.site.annotate(spec_hash="v2")
    hours.world.spike(version="v2")
    hours.beats()
    assert hours.tick()["payouts"][1] is None
    hours.at += timedelta(minutes=6)
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.DRIFTED, "kick")


def test_a_person_pauses_and_restarts_by_annotation(hours):
    hours.deploy()
    hours.tick()
    hours.site.submit(state="PENDING_RERUN")
    hours.site.annotate(pause="ann looks into it")
    assert hours.tick(500)["payouts"] == (Verdict.PAUSED, None)
    hours.site.annotate(pause=None, restart="now")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "asked")
    hours.site.status(state="SUSPENDED")
    assert hours.tick()["payouts"] == (Verdict.STARTING, "resume")
    hours.driver(hours.site.submit())
    hours.beats()
    assert hours.tick()["payouts"] == (Verdict.RUNNING, None)


def test_what_somebody_changed_between_look_and_act_is_not_acted_on(hours, monkeypatch):
    hours.deploy()
    hours.tick()
    hours.site.submit(state="FAILED")
    look = hours.supervisor.see()
    hours.site.annotate(pause="ann was faster")
    monkeypatch.setattr(ApplicationSupervisor, "see", lambda _: look)
    (done,) = hours.supervisor.recover_all(["payouts"])
    assert done.action.kind is ActionKind.RESUBMIT
    assert "not done" in done.decision.cause
    assert "sparkConf" not in hours.site.get()["spec"]
    assert hours.recoveries() == ["restart (not done)"]


def test_a_step_that_somebody_else_prevented_is_taken_again_after_its_wait(hours, monkeypatch):
    """As where the operator writes a status between look and patch: that is no step that did not help."""
    hours.deploy()
    hours.tick()
    hours.site.submit(state="PENDING_RERUN")
    hours.tick()
    kick = KubernetesCluster.kick

    def too_late(cluster, app):
        hours.site.annotate(somebody="was faster")
        kick(cluster, app)

    with monkeypatch.context() as patch:
        patch.setattr(KubernetesCluster, "kick", too_late)
        assert hours.tick(61)["payouts"] == (Verdict.STUCK, "kick")
    assert "spike-pipelines.io/kicked" not in hours.site.notes()
    assert hours.tick(1)["payouts"] == (Verdict.STUCK, None)
    hours.until(Verdict.STUCK, "kick", 60)
    assert "spike-pipelines.io/kicked" in hours.site.notes()


def test_an_error_is_told_though_the_lease_is_lost_as_well(hours, monkeypatch):
    hours.deploy()
    hours.site.submit(state="FAILED")
    hours.tick(0)

    def late(*_):
        hours.at += timedelta(minutes=5)
        hours.world.ledger.acquire("supervision", "another run", 60)
        raise Transient("the API server took five minutes to say nothing")

    monkeypatch.setattr(KubernetesCluster, "resubmit", late)
    hours.at += timedelta(hours=2)
    with pytest.raises(Transient, match="five minutes"):
        list(hours.supervisor.recover_all(["payouts"]))


def test_one_recovery_run_at_a_time(hours):
    hours.deploy()
    hours.site.submit(state="FAILED")
    hours.tick(0)
    hours.site.status(state="FAILED")
    hours.at += timedelta(hours=2)
    other = hours.world.ledger.acquire("supervision", "another run", 60)
    assert list(hours.supervisor.recover_all(["payouts"])) == []
    hours.world.ledger.release(other)
    assert len(list(hours.supervisor.recover_all(["payouts"]))) == 1


def test_many_at_once_are_one_incident_within_a_budget(hours):
    names = [f"spike-{i}" for i in range(40)]
    hours.deploy(*names)
    hours.tick()
    for name in names:
        hours.site.submit(name, state="FAILED")
    seen = hours.tick()
    acted = [name for name, (_, action) in seen.items() if action]
    assert len(acted) == 20
    assert "incident: 40 of 40 spikes at once" in hours.supervisor.look()[-1].cause
    assert not [a for a in hours.tick().values() if a[1]]
    again = [name for name, (_, action) in hours.tick(61).items() if action]
    assert len(again) == 20
    assert not set(again) & set(acted)


def events(site):
    return [
        e for e in site.api.get(f"/api/v1/namespaces/{site.namespace}/events")["items"]
        if e["reason"] == "SpikeIncident"
    ]  # fmt: skip


def test_a_storm_of_three_hundred_failures_is_one_incident_within_the_budget(hours):
    if hours.site.fake is None:
        pytest.skip("takes minutes of requests on a real API server; bench/bench_cluster.py has it there")
    names = [f"spike-{i:03}" for i in range(300)]
    hours.deploy(*names)
    hours.tick()
    for name in names:
        hours.site.submit(name, state="FAILED")
    sick, ticks = set(names), 0
    while sick:
        acted = {name for name, (_, action) in hours.tick(61 if ticks != 1 else 5).items() if action}
        assert len(acted) == (DRIVERS_A_MINUTE if ticks != 1 else 0)
        assert acted <= sick
        for name in acted:
            hours.driver(hours.site.submit(name), name)
        hours.beats()
        sick -= acted
        ticks += 1
    hours.at += timedelta(minutes=10)
    hours.beats()
    hours.tick()
    noted = [r.verdict for r in hours.world.ledger.recoveries(START)["*"]]
    assert (noted.count("INCIDENT"), noted.count("INCIDENT_OVER")) == (1, 1)
    (told,) = events(hours.site)
    assert "incident: 300 of 300 spikes at once" in told["message"]


def test_a_cluster_that_does_not_answer_judges_nobody(hours, fake):
    hours.deploy()
    hours.tick()
    if hours.site.fake is None:
        pytest.skip("a real API server does not fail when told to")
    fake.fail(500, times=2)
    with pytest.raises(Transient):
        hours.tick()
    assert hours.recoveries() == []


def test_one_spike_that_cannot_be_helped_keeps_no_other_waiting(hours, monkeypatch):
    hours.deploy("first", "second")
    for name in ("first", "second"):
        hours.site.submit(name, state="FAILED")
    resubmit = KubernetesCluster.resubmit

    def refused(cluster, app, *rest):
        if app.name == "first":
            raise InvalidSpec("the operator's webhook says no")
        resubmit(cluster, app, *rest)

    monkeypatch.setattr(KubernetesCluster, "resubmit", refused)
    with pytest.raises(InvalidSpec):
        hours.tick()
    assert "sparkConf" in hours.site.get("second")["spec"]
