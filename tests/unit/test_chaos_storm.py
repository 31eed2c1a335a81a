"""What counts as a fault, what is tried again, and that everything begun is ended."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from spike_pipelines.domain.batch import Batch, BatchState, Counts
from spike_pipelines.stack.chaos import storm as storming
from spike_pipelines.stack.chaos.aim import Aimed
from spike_pipelines.stack.chaos.kinds import Kind, schedule
from spike_pipelines.stack.chaos.sight import Sight, SpikeSight
from spike_pipelines.stack.chaos.storm import Storm


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(storming, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(storming, "SEEN_SECONDS", 0.02)
    monkeypatch.setattr(storming, "REST", timedelta())


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class FakeHarm:
    key: str = "driver of s"
    what: str = "a part"
    works: bool = True
    begun: int = 0
    ended: int = 0
    at: datetime | None = None

    def begin(self) -> None:
        self.begun += 1
        self.at = now()

    def effect(self) -> datetime | None:
        return self.at if self.works else None

    def end(self) -> None:
        self.ended += 1


@dataclass
class World:
    """One spike. A batch waits, and is committed `commits_after` seconds after it was looked at first."""

    works: bool = True
    flying: bool = True
    recovers: bool = True
    age: timedelta = timedelta()
    harms: list[FakeHarm] = field(default_factory=list)
    busy: list[frozenset[str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def last(self) -> Sight:
        """Ever the same batch, uncommitted; and, where it recovers, one registered and committed just now."""
        at = now() - self.age
        batches = [a_batch(1, at - timedelta(minutes=5), None)] if self.flying else []
        if self.recovers:
            batches.append(a_batch(2, at, at))
        return Sight(at, {"s": SpikeSight(None, tuple(batches))})

    def aim(self, fault, sight, flights, busy) -> Aimed | None:
        if "driver of s" in busy:
            return None
        self.harms.append(FakeHarm(works=self.works))
        self.busy.append(busy)
        return Aimed(self.harms[-1], frozenset({"s"}))

    def storm(self, faults: int) -> Storm:
        queue = [f for f in schedule(1, 200) if f.kind is Kind.KILL_API][:faults]
        return Storm(self.aim, self, queue, 0.0, self.told.append)


def a_batch(number: int, staged_at: datetime, committed_at: datetime | None) -> Batch:
    state = BatchState.COMMITTED if committed_at else BatchState.STAGED
    return Batch(number, "s", "live", 1, state, (), Counts(0, 0, 0, 0), staged_at, committed_at)


def test_fault_that_is_seen_to_work_with_a_batch_in_flight_counts_and_its_recovery_is_timed():
    world = World()
    storm = world.storm(3)
    storm.run()
    assert len(storm.counted) == len(world.harms) == 3
    assert all(t.affected == {"s"} and 0 <= t.recovery_seconds < 5 for t in storm.counted)
    assert all(harm.ended for harm in world.harms)


def test_fault_without_a_batch_in_flight_is_thrown_again_and_given_up_in_the_end():
    world = World(flying=False)
    storm = world.storm(1)
    storm.run()
    assert (len(storm.counted), len(storm.throws)) == (0, storming.MAX_TRIES)
    assert any("given up" in line and "no batch was in flight" in line for line in world.told)


def test_fault_whose_effect_is_not_seen_does_not_count_and_is_ended():
    world = World(works=False)
    storm = world.storm(1)
    storm.run()
    assert (len(storm.counted), len(storm.throws)) == (0, storming.MAX_TRIES)
    assert all(harm.ended for harm in world.harms)
    assert any("no effect was seen" in line for line in world.told)


def test_nothing_is_thrown_on_an_old_look_at_the_ledger():
    world = World(age=timedelta(seconds=5))
    storm = world.storm(1)
    storm._tick(world.last)
    assert world.harms == []


def test_part_that_was_hit_has_a_rest_before_it_is_hit_again(monkeypatch):
    monkeypatch.setattr(storming, "REST", timedelta(seconds=0.2))
    world = World()
    storm = world.storm(2)
    storm.run()
    first, second = storm.counted
    assert second.at - first.at >= timedelta(seconds=0.2)


def test_driver_that_is_not_back_is_not_hit_again_and_a_stream_that_never_does_is_told(monkeypatch):
    monkeypatch.setattr(storming, "RECOVERY", timedelta(seconds=0.05))
    monkeypatch.setattr(storming, "STUCK_SECONDS", 0.05)
    world = World(recovers=False)
    storm = world.storm(2)
    storm.run()
    assert len(world.harms) == 1
    assert "no commit of s" in storm.stuck
    assert "kill appender API" in storm.stuck


def test_nothing_is_thrown_while_no_spike_commits():
    world = World()
    storm = world.storm(1)
    storm._tick(Sight(now(), {"s": SpikeSight(None, (a_batch(1, now(), None), stale()))}))
    assert world.harms == []
    assert storm.stalled_seconds > 0


def stale() -> Batch:
    return a_batch(0, now() - timedelta(minutes=2), now() - storming.STALL - timedelta(seconds=1))


def test_storm_that_can_hit_nothing_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(storming, "STUCK_SECONDS", 0.05)
    storm = World(age=timedelta(seconds=5)).storm(1)
    storm.run()
    assert "nothing could be hit" in storm.stuck


def test_whatever_breaks_all_that_was_begun_is_ended(monkeypatch):
    world = World()
    monkeypatch.setattr(FakeHarm, "effect", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.storm(1).run()
    assert world.harms[0].ended
