"""What `spike status` says of spikes that nobody describes, and of rates after a rewind."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spike_pipelines.stack.source import LiveStatus, Rates

pytestmark = pytest.mark.real


def status(world, broken=()):
    return LiveStatus(
        SimpleNamespace(
            ledger=world.ledger,
            spikes={},
            applications=SimpleNamespace(broken=dict(broken)),
            supervisor=SimpleNamespace(look=tuple),
            observer=SimpleNamespace(lag=dict),
        )
    )


def test_batches_without_an_application_file_have_a_row_that_says_what_to_do(world):
    world.driver(world.spike()).stage()
    (row,) = status(world).rows()
    assert (row.spike, row.verdict) == ("payouts", "NO_APPLICATION")
    assert "1 batches wait" in row.problem
    assert "put payouts.yaml back" in row.problem


def test_a_spike_whose_file_is_broken_has_that_row_only(world):
    world.driver(world.spike()).stage()
    (row,) = status(world, {"payouts": "line 3: no"}).rows()
    assert (row.verdict, row.problem) == ("INVALID", "line 3: no")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_rewind_is_no_rate():
    rates = Rates(Clock())
    assert [rates.of("a", committed) for committed in (10, 20, 5, 8)] == [None, 10.0, None, 3.0]
