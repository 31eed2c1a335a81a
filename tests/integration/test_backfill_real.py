"""A backfill's swap on PostgreSQL, S3 and Iceberg, killed at each effect. Only Kafka and Spark are played."""

import contextlib

import pytest
from builders import HOUR, stage_file
from dying import Dead, Trap, Trapped, expire_leases
from rereading import ALL_GOOD, AS_BEFORE, Dying, Reading, rows
from test_operate import ask
from test_swap import breaches
from test_swap_real import body, real  # noqa: F401 - a fixture

from spike_pipelines.domain.errors import LeaseLost, Transient
from spike_pipelines.domain.swap import SwapState
from spike_pipelines.services.backfill import Ask, Backfiller
from spike_pipelines.services.swap import Swapper

pytestmark = pytest.mark.real


class Written(Reading):
    """Files that tables take."""

    def _put(self, order, key, kind, places):
        made = body(kind, order.hour, len(places), *places[0])
        return stage_file(self.world.store, order.prefix, key, kind, order.hour, len(places), made)


def dying(world, trap, fates):
    trapped = Trapped(world, trap)
    swapper = Swapper(trapped.ledger, trapped.promoter())
    return Backfiller(trapped.ledger, swapper, world.broker, Dying(Written(world, fates), trap)), trapped


@pytest.mark.parametrize(
    ("name", "after", "error", "effects"),
    [(None, False, Dead, 25), ("ledger.commit", True, Transient, 5)],
    ids=["killed before any", "no answer to a commit"],
)
def test_whatever_effect_a_backfill_dies_at_readers_see_the_old_hour_or_the_new_one(
    real,  # noqa: F811
    name,
    after,
    error,
    effects,
):
    """One process after the other, each dies one effect later; what it leaves is the next one's."""
    driver = real.driver(real.spike())
    driver.stage(4, 2, 1)
    spike = driver.spike
    real.settle(spike)
    for at in range(1, 100):
        trap = Trap(name, at, after, error)
        backfiller, trapped = dying(real, trap, (AS_BEFORE, ALL_GOOD)[at % 2])
        with contextlib.suppress(error, LeaseLost):
            backfiller.backfill(spike, HOUR, Ask(ask()))
            trapped.settle(spike)
        place = f"died {'after' if after else 'before'} effect {at}"
        final, dead = rows(real, spike)
        assert (final in {4, 7}, dead in {2, 0}) == (True, True), place
        real.settle(spike)
        assert rows(real, spike) in {(4, 2), (7, 0)}, place
        assert breaches(real) == {}, place
        if not trap.sprung:
            break
        expire_leases(real)
    assert at > effects
    states = [swap.state for swap in real.ledger.swaps(spike.name, 100)]
    assert set(states) == {SwapState.SWAPPED, SwapState.ABORTED}
    assert real.ledger.open_swaps(spike.name) == ()
