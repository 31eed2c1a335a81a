"""The supervisor's hand over a real ledger: it looks again, notes, fences, ends, and only then starts."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from builders import HOUR

from spike_pipelines.domain.epochs import EpochState, Phase
from spike_pipelines.domain.errors import Fenced, Transient
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.domain.supervision import ActionKind, Verdict
from spike_pipelines.ports import DriverState, ObservedDriver, Refusal
from spike_pipelines.services.observe import Observer
from spike_pipelines.services.supervise import Supervisor

pytestmark = pytest.mark.real


@dataclass
class FakeCluster:
    """Drivers as values; calls are written down with the state of the epoch at that moment."""

    world: object
    found: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    up: bool = True

    def drivers(self):
        if not self.up:
            raise Transient("the cluster does not answer")
        return tuple(self.found)

    def start(self, spike):
        self.calls.append("start")
        self.found.append(
            ObservedDriver(spike.name, f"new-{len(self.calls)}", DriverState.RUNNING, self.world.ledger.now())
        )
        return self.found[-1]

    def stop(self, driver):
        epoch = self.world.ledger.epochs().get("payouts")
        self.calls.append(f"stop {driver}, epoch {epoch.state if epoch else 'none'}")
        self.found = [d for d in self.found if d.driver != driver]

    def obstacle(self, spike):
        return None

    def log_tail(self, driver, lines):
        return (f"{driver} said this",)


class Listening:
    """An appender that has answered for a day."""

    def since(self):
        return datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def cluster(world):
    world.spike()
    return FakeCluster(world)


@pytest.fixture
def supervisor(world, cluster):
    return Supervisor(world.ledger, cluster, Listening(), world.broker, world.spikes)


def runs(cluster, driver="a", state=DriverState.RUNNING, **changes):
    started = cluster.world.ledger.now() - timedelta(minutes=10)
    cluster.found.append(ObservedDriver("payouts", driver, state, started, **changes))


def silent(world, minutes=5):
    world.execute(f"UPDATE epochs SET heartbeat_at = clock_timestamp() - interval '{minutes} minutes'")


def test_a_driver_that_is_not_there_is_started_and_its_epoch_freed(world, cluster, supervisor):
    world.driver(world.spikes["payouts"], "a")
    runs(cluster, "a", DriverState.EXITED, exit_code=-9)
    done = supervisor.recover("payouts")
    assert done.decision.cause == "no driver runs (the last one was killed by signal 9)"
    assert (done.started, cluster.calls[-1]) == ("new-2", "start")
    assert world.driver(world.spikes["payouts"], "new-2").token.number == 2


def test_a_hung_driver_is_fenced_first_ended_second_and_replaced_third(world, cluster, supervisor):
    hung = world.driver(world.spikes["payouts"], "a")
    runs(cluster, "a")
    silent(world)
    done = supervisor.recover("payouts")
    assert cluster.calls == ["stop a, epoch retired", "start"]
    assert done.log_tail == ("a said this",)
    with pytest.raises(Fenced):
        hung.stage()


def test_a_driver_that_fails_over_its_file_is_replaced_once_the_file_is_another(world, cluster, supervisor):
    spike = world.spikes["payouts"]
    world.driver(spike, "a")
    world.execute("UPDATE epochs SET phase = 'retrying', problem = 'no such column'")
    runs(cluster, "a")
    assert supervisor.recover("payouts") is None, "its file is the one it read"
    world.spikes["payouts"] = replace(spike, version="mended")
    done = supervisor.recover("payouts")
    assert (done.decision.verdict, done.action.kind) == (Verdict.DRIFTED, ActionKind.RESTART)
    assert cluster.calls == ["stop a, epoch retired", "start"]


def test_a_recovery_is_noted_before_it_acts_and_holds_the_next_one_back(world, cluster, supervisor):
    runs(cluster, "a")
    world.driver(world.spikes["payouts"], "a")
    silent(world)

    def dies(driver):
        raise Transient("the cluster does not answer")

    cluster.stop = dies
    with pytest.raises(Transient):
        supervisor.recover("payouts")
    (noted,) = world.ledger.recoveries(HOUR - timedelta(days=365 * 50))["payouts"]
    assert (noted.action, noted.verdict) == ("restart", "HUNG")
    assert supervisor.recover("payouts") is None
    assert "1 in the last hour" in supervisor.look()[0].cause


def test_what_mended_itself_is_left_alone(world, cluster, supervisor):
    world.driver(world.spikes["payouts"], "a")
    runs(cluster, "a")
    assert supervisor.recover("payouts") is None
    assert cluster.calls == []


def test_of_two_drivers_the_one_without_the_epoch_is_ended_and_none_is_started(world, cluster, supervisor):
    world.driver(world.spikes["payouts"], "a")
    runs(cluster, "a"), runs(cluster, "b")
    done = supervisor.recover("payouts")
    assert (done.action.kind, cluster.calls) == (ActionKind.STOP, ["stop b, epoch open"])
    assert world.ledger.epochs()["payouts"].state is EpochState.OPEN


def test_nobody_is_judged_by_what_could_not_be_observed(cluster, supervisor):
    cluster.up = False
    with pytest.raises(Transient):
        supervisor.look()
    assert cluster.calls == []


def test_other_spikes_drivers_are_not_mine(world, cluster, supervisor):
    world.spike("session")
    runs(cluster, "a")
    verdicts = {d.spike: d.verdict for d in supervisor.look()}
    assert verdicts["session"] is Verdict.MISSING
    assert verdicts["payouts"] is not Verdict.MISSING


def still(world, read, minutes=5):
    """The driver beats, and its engine has not moved for so long."""
    world.execute(
        f"UPDATE epochs SET phase = 'reading', heartbeat_at = clock_timestamp(),"
        f" progress_at = clock_timestamp() - interval '{minutes} minutes'"
    )
    assert world.ledger.epochs()["payouts"].read == read


def reading(world, offset):
    driver = world.driver(world.spikes["payouts"], "a")
    driver.ends = dict.fromkeys(driver.ends, offset)
    world.registrar.heartbeat(
        driver.spike, driver.token, phase=Phase.READING, problem=None, batch_started_at=None,
        progress_at=world.ledger.now(), read=driver.ends,
    )  # fmt: skip
    return driver


def test_an_engine_that_stands_still_while_records_wait_is_replaced(world, cluster, supervisor):
    driver = reading(world, 98)
    runs(cluster, "a")
    assert supervisor.look()[0].verdict is Verdict.RUNNING
    still(world, driver.ends)
    done = supervisor.recover("payouts")
    assert "and 2 records wait to be read" in done.decision.cause
    assert cluster.calls == ["stop a, epoch retired", "start"]


def test_an_engine_that_has_read_all_may_stand_still(world, cluster, supervisor):
    driver = reading(world, 100)
    runs(cluster, "a")
    still(world, driver.ends)
    assert supervisor.look()[0].verdict is Verdict.RUNNING


def test_a_broker_that_does_not_answer_blames_no_driver(world, cluster, supervisor):
    driver = reading(world, 0)
    runs(cluster, "a")
    still(world, driver.ends)
    world.broker.up = False
    assert supervisor.look()[0].verdict is Verdict.RUNNING


def test_a_blocked_spike_is_free_again_once_an_epoch_is_granted(world, cluster, supervisor):
    refusal = Refusal(world.ledger.now() - timedelta(minutes=6), "lost", "records are gone", "a")
    with world.ledger.begin() as tx:
        tx.lock_spike("payouts", "payouts")
        tx.refuse("payouts", refusal)
    done = supervisor.recover("payouts")
    assert (done.decision.verdict, done.started) == (Verdict.BLOCKED, "new-1")
    world.driver(world.spikes["payouts"], "new-1")
    assert supervisor.look()[0].verdict is Verdict.STARTING


# lag


def observer(world, cluster):
    return Observer(world.ledger, world.broker, cluster, world.spikes)


def test_lag_is_from_committed_ends_to_log_ends_of_all_partitions(world, cluster):
    driver = world.driver(world.spikes["payouts"])
    driver.stage(), driver.stage()
    world.promoter().promote(driver.spike, limit=1)
    runs(cluster)
    report = observer(world, cluster).lag()["payouts"]
    assert report.lag == 100 - 6
    assert report.lag_seconds is not None


def test_a_cluster_that_does_not_answer_is_unknown_not_stopped(world, cluster):
    world.driver(world.spikes["payouts"])
    stopped = observer(world, cluster).lag()["payouts"].verdict
    cluster.up = False
    assert (stopped, observer(world, cluster).lag()["payouts"].verdict) == (
        LagVerdict.STOPPED,
        LagVerdict.UNKNOWN,
    )


def test_a_broker_that_does_not_answer_is_unknown_with_the_reason(world, cluster):
    world.broker.up = False
    report = observer(world, cluster).lag()["payouts"]
    assert (report.verdict, report.observed) == (LagVerdict.UNKNOWN, False)
    assert "the broker in memory is down" in report.sentence


def test_a_topic_that_is_not_there_is_unknown_and_says_what_to_do(world, cluster):
    world.broker.delete("payouts-topic")
    report = observer(world, cluster).lag()["payouts"]
    assert report.verdict is LagVerdict.UNKNOWN
    assert "create it" in report.sentence


def test_held_and_full_spikes_are_told(world, cluster):
    driver = world.driver(world.spikes["payouts"])
    for _ in range(4):
        driver.stage()
    world.execute("UPDATE batches SET staged_at = staged_at - interval '1 minute'")  # another one is due
    runs(cluster)
    assert observer(world, cluster).lag()["payouts"].verdict is LagVerdict.BACKPRESSURED
    world.spikes["payouts"] = replace(driver.spike, max_staged_batches=9)
    world.execute("UPDATE batches SET state = 'held' WHERE number = (SELECT min(number) FROM batches)")
    assert observer(world, cluster).lag()["payouts"].verdict is LagVerdict.HELD
