from datetime import timedelta

import pytest

from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.domain.ladder import wait

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def test_the_wait_doubles_up_to_its_cap():
    plain = BackOff(SECOND, MINUTE)
    waits = [plain.after(n).total_seconds() for n in (1, 2, 3, 6, 7, 8, 10**9)]
    assert waits == [1, 2, 4, 32, 60, 60, 60]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_chance_moves_it_between_the_factors_of_its_spread(chance, share):
    moved = BackOff(SECOND, MINUTE, spread=(0.8, 1.2))
    assert moved.after(3, chance) == timedelta(seconds=4 * share)
    assert moved.after(50, chance) == MINUTE * share


def test_spikes_of_a_fleet_are_tried_again_within_a_fifth_of_the_wait_but_not_in_step():
    waits = {wait(f"spike-{n}", 3) for n in range(50)}
    assert len(waits) == 50
    assert timedelta(minutes=2) * 0.8 <= min(waits) < max(waits) <= timedelta(minutes=2) * 1.2
    assert wait("spike-1", 3) == wait("spike-1", 3)
