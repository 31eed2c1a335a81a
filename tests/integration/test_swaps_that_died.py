"""Backfills and replays freeze the same dead letters: one whose process died is in nobody's way."""

import pytest
from dying import Trap, expire_leases
from rereading import AS_BEFORE, MENDED, backfilled, breaches
from test_backfill import ran, registered_and_dead  # noqa: F401
from test_replay import replayed
from test_swap import dying, planned, producing

from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.swap import Scope, SwapBusy, SwapKind, SwapState

pytestmark = pytest.mark.real


def states(world):
    return [(s.kind, s.state) for s in reversed(world.ledger.swaps("payouts", 9))]


def test_a_backfill_gives_up_a_replay_that_died_before_it_registered(world, ran):  # noqa: F811
    planned(world, ran.spike)
    backfilled(world, ran.spike, MENDED)
    assert states(world) == [(SwapKind.REPLAY, SwapState.ABORTED), (SwapKind.BACKFILL, SwapState.SWAPPED)]
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_a_backfill_finishes_a_replay_that_died_among_its_copies(world, ran):  # noqa: F811
    swap = planned(world, ran.spike)
    with pytest.raises(Transient):
        dying(world, Trap("store.copy", 1, after=True)).finish(
            ran.spike, swap.number, producing(world, ran.spike, final=4)
        )
    expire_leases(world)
    assert backfilled(world, ran.spike, MENDED).final == 8
    assert states(world) == [(SwapKind.REPLAY, SwapState.SWAPPED), (SwapKind.BACKFILL, SwapState.SWAPPED)]
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_a_replay_at_work_is_left_alone_and_named(world, ran):  # noqa: F811
    swap = planned(world, ran.spike)
    world.ledger.acquire(f"swap:{swap.number}", "somebody", 30)
    with pytest.raises(SwapBusy, match=f"swap {swap.number} is replacing 2 of these 4 files"):
        backfilled(world, ran.spike)
    assert states(world) == [(SwapKind.REPLAY, SwapState.PLANNED)]


def test_a_replay_gives_up_a_backfill_that_died_before_it_had_read(world, ran):  # noqa: F811
    with pytest.raises(Transient):
        backfilled(world, ran.spike, meanwhile=lambda: (_ for _ in ()).throw(Transient("killed")))
    done = replayed(world, ran.spike)
    assert [(s.kind, s.state) for s in done.resumed] == [(SwapKind.BACKFILL, SwapState.ABORTED)]
    assert done.swap.state is SwapState.SWAPPED


def test_a_replay_finishes_a_backfill_that_died_among_its_copies(world, ran):  # noqa: F811
    registered_and_dead(world, ran.spike, AS_BEFORE)
    done = replayed(world, ran.spike, Scope(reason="of none"))
    assert [(s.kind, s.state) for s in done.resumed] == [(SwapKind.BACKFILL, SwapState.SWAPPED)]
    world.settle(ran.spike)
    assert breaches(world) == {}
