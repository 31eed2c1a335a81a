"""Whether a batch was in flight when a fault took effect, and when the way was free again."""

from datetime import UTC, datetime, timedelta

from spike_pipelines.domain.batch import Batch, BatchState, Counts
from spike_pipelines.domain.epochs import Epoch, EpochState
from spike_pipelines.stack.chaos.sight import (
    InFlight,
    Sight,
    SpikeSight,
    in_flight,
    last_commit,
    recovered_at,
    was_in_flight,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def batch(number: int, staged: float, committed: float | None = None, state=BatchState.STAGED) -> Batch:
    return Batch(
        number=number,
        spike="s",
        lane="live",
        epoch=1,
        state=state if committed is None else BatchState.COMMITTED,
        ranges=(),
        counts=Counts(0, 0, 0, 0),
        staged_at=at(staged),
        committed_at=None if committed is None else at(committed),
    )


def epoch(phase="staging", began: float | None = -2, heard: float = -1, state=EpochState.OPEN) -> Epoch:
    return Epoch(
        spike="s",
        number=1,
        nonce="n",
        driver="d",
        state=state,
        opened_at=at(-100),
        heartbeat_at=at(heard),
        phase=phase,
        batch_started_at=None if began is None else at(began),
    )


def flying(*batches: Batch, epoch: Epoch | None = None) -> InFlight:
    return in_flight("s", SpikeSight(epoch, batches), NOW)


def test_unfinished_batches_are_in_flight_and_committed_or_aborted_ones_are_not():
    assert flying(
        batch(4, -1),
        batch(3, -2, state=BatchState.INTENDED),
        batch(2, -5, committed=-3),
        batch(1, -9, state=BatchState.ABORTED),
    ) == InFlight("s", frozenset({3, 4}))
    assert not flying(batch(2, -5, committed=-3))
    assert not flying()


def test_batch_that_a_driver_writes_is_in_flight():
    assert flying(epoch=epoch()) == InFlight("s", writing_since=at(-2))
    assert flying(batch(1, -4, -3), epoch=epoch("posting")).writing_since == at(-2)


def test_heartbeat_tells_nothing_of_a_batch_that_is_registered_by_now():
    assert flying(batch(1, -1, -0.5), epoch=epoch()).writing_since is None


def test_driver_that_reads_or_was_not_heard_or_lost_its_epoch_writes_nothing():
    assert not flying(epoch=epoch("reading"))
    assert not flying(epoch=epoch("staging", began=None))
    assert not flying(epoch=epoch(heard=-7))
    assert not flying(epoch=epoch(state=EpochState.RETIRED))


def test_batch_that_was_committed_before_the_effect_was_not_in_flight():
    before = InFlight("s", frozenset({1}))
    assert not was_in_flight(before, NOW, SpikeSight(None, (batch(1, -2, committed=-0.1),)))
    assert was_in_flight(before, NOW, SpikeSight(None, (batch(1, -2, committed=0.1),)))
    assert was_in_flight(before, NOW, SpikeSight(None, (batch(1, -2),)))


def test_batch_that_came_after_the_effect_was_not_in_flight():
    assert not was_in_flight(InFlight("s", frozenset({1})), NOW, SpikeSight(None, (batch(1, 0.1),)))
    assert not was_in_flight(InFlight("s", writing_since=at(0.1)), NOW, SpikeSight())


def test_batch_that_is_not_known_any_more_proves_nothing():
    assert not was_in_flight(InFlight("s", frozenset({1})), NOW, SpikeSight())


def test_write_that_was_registered_before_the_effect_was_not_in_flight():
    before = InFlight("s", writing_since=at(-2))
    assert not was_in_flight(before, NOW, SpikeSight(None, (batch(1, -1),)))
    assert was_in_flight(before, NOW, SpikeSight(None, (batch(1, 1), batch(0, -3))))


def test_batches_in_flight_have_names_to_count_them_by():
    assert InFlight("s", frozenset({1, 2}), at(0)).names == {"s #1", "s #2", "s since 12:00:00"}


def test_last_commit_is_the_newest_of_all_spikes():
    seen = {
        "a": SpikeSight(None, (batch(3, -1), batch(1, -9, -8))),
        "b": SpikeSight(None, (batch(2, -7, -6),)),
    }
    assert last_commit(Sight(NOW, seen)) == at(-6)
    assert last_commit(Sight(NOW, {"a": SpikeSight()})) is None


def test_recovery_is_the_commit_of_what_was_registered_after_the_effect():
    old, new, newer = batch(1, -1, committed=1), batch(2, 4, committed=6), batch(3, 5, committed=9)
    assert recovered_at(NOW, SpikeSight(None, (old, batch(2, 4)))) is None
    assert recovered_at(NOW, SpikeSight(None, (newer, new, old))) == at(6)
