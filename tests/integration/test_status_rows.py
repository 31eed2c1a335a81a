"""What `spike status` says of spikes that nobody describes, and of rates after a rewind."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.supervision import Decision, Verdict
from spike_pipelines.stack.source import LiveStatus, Rates

pytestmark = pytest.mark.real


def status(world, broken=(), decisions=(), lags=None):
    return LiveStatus(
        SimpleNamespace(
            ledger=world.ledger,
            spikes={decision.spike: None for decision in decisions},
            applications=SimpleNamespace(broken=dict(broken)),
            supervisor=SimpleNamespace(look=lambda: decisions),
            observer=SimpleNamespace(lag=lambda: lags or {}),
        )
    )


def test_batches_without_an_application_file_have_a_row_that_says_what_to_do(world):
    world.driver(world.spike()).stage()
    (row,) = status(world).rows()
    assert (row.spike, row.verdict) == ("payouts", "NO_APPLICATION")
    assert "1 batch waits" in row.problem
    assert "put payouts.yaml back" in row.problem


def test_a_spike_whose_file_is_broken_has_that_row_only(world):
    world.driver(world.spike()).stage()
    (row,) = status(world, {"payouts": "line 3: no"}).rows()
    assert (row.verdict, row.problem) == ("INVALID", "line 3: no")


def test_a_lag_that_nobody_observed_is_a_dash_whatever_the_driver_does(world):
    blind = LagReport(LagVerdict.UNKNOWN, "not observed: Kafka", 0, None, (), observed=False)
    starting = Decision("payouts", Verdict.STARTING, "it started 5 s ago")
    (row,) = status(world, decisions=(starting,), lags={"payouts": blind}).rows()
    assert (row.verdict, row.lag, row.lag_seconds) == ("STARTING", None, None)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_rewind_is_no_rate():
    rates = Rates(Clock())
    assert [rates.of("a", committed) for committed in (10, 20, 5, 8)] == [None, 10.0, None, 3.0]
