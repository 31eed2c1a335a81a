"""A deployment from beginning to end, against a cluster and a ledger that behave as the test says."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.cli.deploy import exit_code, told
from spike_pipelines.domain.batch import Batch, BatchState, Counts
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.errors import Conflict, InvalidSpec, Transient
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.rollout import Rollout
from spike_pipelines.domain.sightings import Sighting
from spike_pipelines.domain.spark_application import AppState, Controls, ObservedApplication
from spike_pipelines.ports import Deployed, Manifest, Specs
from spike_pipelines.services.rollout import Deployment

PAYOUT = Path(__file__).parents[2] / "deployments" / "applications" / "crt-payout-v1-1.0.yaml"
OLD = PAYOUT.read_text()
NEW = OLD.replace("trigger: 10s", "trigger: 11s")
NEWER = OLD.replace("trigger: 10s", "trigger: 12s")
PATIENCE = timedelta(minutes=2)
HOUR = datetime(2026, 5, 1, tzinfo=UTC)


FINE = LagReport(LagVerdict.OK, "fine", 5, 2.0, ())


class Killed(BaseException):
    """The process is gone: nothing catches it."""


@dataclass
class World:
    """Everything outside. `works` says of a text whether its driver commits; `dies_at` is the effect, counted
    from 0, before (or with `after`, behind) which the process is killed."""

    works: dict[str, bool]
    now_: datetime = datetime(2026, 5, 1, 12, tzinfo=UTC)
    shelf: str | None = OLD
    revisions: list[str] = field(default_factory=lambda: [OLD])
    running: str = OLD
    since: datetime = datetime(2026, 5, 1, tzinfo=UTC)
    stable: str | None = None
    noted: set[str] = field(default_factory=set)
    report: LagReport = FINE
    ledger_down: bool = False
    commits: bool = True
    effects: list[str] = field(default_factory=list)
    seen: tuple[Sighting, ...] = ()
    kept: list[set[str]] = field(default_factory=list)
    dies_at: int | None = None
    after: bool = False
    refuses: Exception | None = None
    overlays: str = ""
    image_only: dict | None = None  # epochs, whatever runs
    waited: float = 0.0
    recorded: bool = False  # the deployer has the same on record, from a deployment that failed half way
    settles_after: float = 1e9  # seconds of waiting until nothing lies over the spec any more

    def effect(self, name, act):
        number = len(self.effects)
        self.effects.append(name)
        if number == self.dies_at and not self.after:
            raise Killed
        act()
        if number == self.dies_at:
            raise Killed

    # the shelf
    def put(self, name, text):
        self.effect("shelf", lambda: setattr(self, "shelf", text))

    def get(self, name):
        return self.shelf

    def remove(self, name):
        self.effect("remove", lambda: setattr(self, "shelf", None))

    # the deployer
    def deploy(self, spike, application):
        if self.refuses:
            raise self.refuses
        text, before = application.read_text(), self.running
        self.effect("deploy", lambda: self._run(text))
        changed = text != before and not self.recorded
        return Deployed(len(self.revisions), changed, version(text))

    def _run(self, text):
        if text != self.running:
            self.since = self.now_
        self.running = text
        self.revisions.append(text)

    def good_revision(self, spike, bad, stable):
        if len(self.revisions) != bad:
            return None
        for number in range(bad - 1, 0, -1):
            text = self.revisions[number - 1]
            if text != self.revisions[bad - 1] and stable in (None, version(text)):
                return number
        return None

    def uninstall(self, name):
        assert name == "crt-payout-v1-1-0"
        was_there = bool(self.revisions)
        self.effect("uninstall", self.revisions.clear)
        return was_there

    def application(self, spike, revision):
        return self.revisions[revision - 1]

    def roll_back(self, spike, revision):
        self.effect("roll back", lambda: self._run(self.revisions[revision - 1]))

    # the ledger
    def now(self):
        return self.now_

    def epochs(self):
        if self.ledger_down:
            raise Transient("no answer")
        if self.image_only is not None:
            return self.image_only
        opened = self.since + timedelta(seconds=20)
        if not self.works[self.running] or self.now_ < opened:
            return {}
        epoch = Epoch(
            spike="crt-payout-v1-1.0",
            number=7,
            nonce="n",
            driver="d",
            state=EpochState.OPEN,
            opened_at=opened,
            heartbeat_at=self.now_,
            phase=Phase.READING,
            application_version=version(self.running),
        )
        return {epoch.spike: epoch}

    def refusals(self):
        return {}

    def last_batches(self, spike, limit):
        at = self.now_ - timedelta(seconds=1)
        committed = Batch(
            1, spike, "live", 7, BatchState.COMMITTED, (), Counts(1, 1, 0, 0), staged_at=at, committed_at=at
        )
        others = (
            replace(committed, epoch=6),
            replace(committed, lane="backfill"),
            replace(committed, lost=True),
            replace(committed, committed_at=None),
        )
        return (*others, committed) if self.commits else others

    def specs(self):
        return {"crt-payout-v1-1.0": Specs(dict.fromkeys(self.noted, ""), self.stable)}

    def sightings(self):
        return {s.spike: s for s in self.seen}

    def note_sightings(self, sightings):
        self.effect("sighting", lambda: setattr(self, "seen", tuple(sightings)))

    def note_spec(self, spike, spec_hash, live, manifest):
        self.effect("note", lambda: self.noted.add(spec_hash))

    def mark_stable(self, spike, spec_hash):
        def mark():
            self.stable = spec_hash if spec_hash in self.noted else self.stable

        self.effect("mark", mark)

    # the cluster
    def applications(self):
        app = ObservedApplication(
            "crt-payout-v1-1.0",
            "crt-payout-v1-1-0",
            "u",
            "1",
            AppState.RUNNING,
            spec_hash=version(self.running),
            controls=Controls(overlays=self.overlays if self.waited < self.settles_after else ""),
        )
        return (replace(app, spike="another", name="another"), app)

    def manifest(self, app):
        return Manifest("{}")

    def forget_files(self, spike, keep, before):
        assert before is None or before <= self.now_
        self.effect("forget", lambda: self.kept.append(keep))

    def wait(self, seconds):
        self.waited += seconds
        self.now_ += timedelta(seconds=seconds)


def version(text):
    return VERSIONS[text]


@pytest.fixture(autouse=True)
def _versions(tmp_path):
    for text in (OLD, NEW, NEWER):
        path = tmp_path / PAYOUT.name
        path.write_text(text)
        VERSIONS[text] = load_application(path).version


VERSIONS: dict[str, str] = {}


@pytest.fixture
def deploy(tmp_path):
    lines = []

    def run(world, text=NEW):
        path = tmp_path / PAYOUT.name
        path.write_text(text)
        parts = Deployment(world, world, world, world, lambda _: world.report, lines.append, world.wait)
        return parts.deploy(load_application(path), path, PATIENCE)

    run.lines = lines
    return run


def test_what_somebody_deploys_meanwhile_is_not_taken_back(deploy):
    world = World({OLD: True, NEW: False, NEWER: True})
    wait, looks = world.wait, iter(range(99))

    def waits(seconds):
        wait(seconds)
        if next(looks) == 2:
            world.shelf = NEWER
            world._run(NEWER)

    world.wait = waits
    outcome = deploy(world)
    assert (outcome.verdict.state, outcome.back_to) == (Rollout.FAILED, None)
    assert (world.running, world.shelf) == (NEWER, NEWER)


def test_what_works_is_marked_as_what_to_go_back_to(deploy):
    world = World({OLD: True, NEW: True})
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.STABLE
    assert (world.running, world.shelf, world.stable) == (NEW, NEW, version(NEW))
    assert world.effects == ["shelf", "deploy", "note", "mark", "forget"]
    assert world.kept == [{version(NEW)}]


def test_the_appender_knows_the_new_file_before_its_driver_comes(deploy):
    world = World({OLD: True, NEW: True})
    deploy(world)
    assert world.effects.index("shelf") < world.effects.index("deploy")


def test_what_does_not_work_is_taken_back_with_its_file_and_the_reason(deploy):
    world = World({OLD: True, NEW: False}, stable="?")
    world.stable = version(OLD)
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.FAILED
    assert outcome.back_to == 1
    assert "no driver has been heard of" in outcome.verdict.reason
    assert (world.running, world.shelf, world.stable) == (OLD, OLD, version(OLD))


def test_a_commit_of_another_epoch_or_lane_or_a_declared_loss_is_not_its_own(deploy):
    outcome = deploy(World({OLD: True, NEW: True}, commits=False))
    assert outcome.verdict.state is Rollout.FAILED
    assert "commits nothing" in outcome.verdict.reason


def test_a_first_deployment_that_does_not_work_stays_and_says_so(deploy):
    world = World({NEW: False}, revisions=[], running=NEW)
    outcome = deploy(world)
    assert outcome.back_to is None
    assert world.running == NEW
    assert any("nothing earlier" in line for line in told(outcome))


def test_a_stable_version_that_helm_no_longer_has_is_no_reason_to_stay_broken(deploy):
    world = World({OLD: True, NEW: False}, stable="gone")
    assert deploy(world).back_to == 1


def test_a_ledger_that_does_not_answer_takes_nothing_back(deploy):
    world = World({OLD: True, NEW: True}, ledger_down=True)
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.UNDECIDED
    assert "no answer" in outcome.verdict.reason
    assert world.running == NEW
    assert world.stable is None


def test_what_cannot_be_deployed_ends_before_anything_is_watched(deploy):
    world = World({OLD: True, NEW: True}, refuses=InvalidSpec("no such key"))
    with pytest.raises(InvalidSpec):
        deploy(world)
    assert world.effects == ["shelf", "shelf"]
    assert world.shelf == OLD


def test_a_first_deployment_that_is_refused_leaves_no_file(deploy):
    world = World({NEW: True}, shelf=None, refuses=Conflict("somebody else deploys it"))
    with pytest.raises(Conflict):
        deploy(world)
    assert world.shelf is None


def test_the_file_of_a_deployment_that_did_not_answer_stays(deploy):
    """It may be in place: its driver must be known to the appender."""
    world = World({OLD: True, NEW: True}, refuses=Transient("no answer"))
    with pytest.raises(Transient):
        deploy(world)
    assert world.shelf == NEW


def test_the_stable_spec_again_is_not_gone_behind(deploy):
    """It worked before: whatever is wrong now, an older spec is not what mends it."""
    world = World({OLD: True, NEW: True})
    assert deploy(world).verdict.state is Rollout.STABLE
    world.works[NEW] = False
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.UNDECIDED
    assert "seen to work" in outcome.verdict.reason
    assert (world.running, world.shelf, outcome.back_to) == (NEW, NEW, None)


def test_each_thing_that_is_waited_for_is_told_once(deploy):
    deploy(World({OLD: True, NEW: False}))
    waiting = [line for line in deploy.lines if line.startswith("waiting")]
    assert len(waiting) == len(set(waiting)) == 1


def test_what_works_under_an_overlay_only_is_not_marked(deploy):
    """It is the spec of before that works, or more memory than the file says."""
    world = World({OLD: True, NEW: True}, noted={version(NEW)}, overlays="7:stable-spec=1")
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.UNDECIDED
    assert "7:stable-spec=1" in outcome.verdict.reason
    assert world.stable is None


def test_an_overlay_of_before_is_waited_for_until_it_is_off(deploy):
    world = World({OLD: True, NEW: True}, overlays="7:more-memory=768m", settles_after=30)
    assert deploy(world).verdict.state is Rollout.STABLE
    assert world.stable == version(NEW)


def test_the_driver_of_before_does_not_speak_for_a_spec_that_was_recorded_and_not_applied(deploy):
    """An upgrade that the API server refused half way is on Helm's record, as if it stood."""
    world = World({OLD: True, NEW: True}, recorded=True)
    before = Epoch(
        "crt-payout-v1-1.0", 7, "n", "d", EpochState.OPEN, HOUR, world.now_ + PATIENCE, phase=Phase.READING,
        application_version=version(NEW),
    )  # fmt: skip
    world.image_only = {before.spike: before}
    outcome = deploy(world)
    assert outcome.verdict.state is Rollout.FAILED
    assert "still the driver's of before" in outcome.verdict.reason


def undeploy(world):
    parts = Deployment(world, world, world, world, lambda _: world.report, print, world.wait)
    return parts.undeploy("crt-payout-v1-1.0")


def test_an_ended_spike_has_no_file_first_and_is_missed_by_nobody():
    seen = Sighting("crt-payout-v1-1.0", "u", "RUNNING", datetime(2026, 5, 1, tzinfo=UTC), "1", HOUR)
    world = World({OLD: True}, seen=(seen,))
    assert undeploy(world)
    assert world.effects == ["remove", "uninstall", "sighting", "forget"]
    assert (world.shelf, world.revisions, world.kept) == (None, [], [frozenset()])
    assert world.seen[0].state_text == "undeployed"
    assert not undeploy(world)


def test_a_name_that_is_another_spikes_in_kubernetes_ends_and_replaces_nothing(deploy, tmp_path):
    world = World({OLD: True})
    parts = Deployment(world, world, world, world, lambda _: world.report, print, world.wait)
    with pytest.raises(InvalidSpec, match=r"crt-payout-v1-1.0's, not crt.payout-v1-1.0's"):
        parts.undeploy("crt.payout-v1-1.0")
    other = tmp_path / "crt.payout-v1-1.0.yaml"
    other.write_text(OLD.replace("name: crt-payout-v1-1.0", "name: crt.payout-v1-1.0"))
    with pytest.raises(InvalidSpec, match="cannot share it"):
        parts.deploy(load_application(other), other, PATIENCE)
    assert world.effects == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", range(5))
def test_killed_at_any_effect_the_same_deployment_again_ends_it(deploy, dies_at, after):
    world = World({OLD: True, NEW: True}, dies_at=dies_at, after=after)
    with pytest.raises(Killed):
        deploy(world)
    world.dies_at = None
    assert deploy(world).verdict.state is Rollout.STABLE
    assert (world.running, world.shelf, world.stable) == (NEW, NEW, version(NEW))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", range(4))
def test_killed_at_any_effect_of_a_bad_deployment_the_same_again_takes_it_back(deploy, dies_at, after):
    world = World({OLD: True, NEW: False}, dies_at=dies_at, after=after, noted={"-"})
    world.stable = version(OLD)
    with pytest.raises(Killed):
        deploy(world)
    world.dies_at = None
    assert deploy(world).verdict.state is Rollout.FAILED
    assert (world.running, world.shelf) == (OLD, OLD)


@pytest.mark.parametrize(
    ("works", "down", "code", "word"),
    [(True, False, 0, "stable:"), (False, False, 1, "is back"), (True, True, 3, "not marked stable")],
)
def test_the_command_ends_with_what_a_pipeline_and_a_person_can_act_on(deploy, works, down, code, word):
    outcome = deploy(World({OLD: True, NEW: works}, ledger_down=down))
    assert exit_code(outcome) == code
    assert word in " ".join(told(outcome))
