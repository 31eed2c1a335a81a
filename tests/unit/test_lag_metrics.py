"""What the page says of looks that are old: nothing of now, but nothing is forgotten that stands."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, partition
from prometheus_client import CollectorRegistry

from spike_pipelines.appender.lag_metrics import STALE, LagCollector
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.ports import Tally

LOST = LagReport(
    LagVerdict.LOST, "5 records were lost", 10, 12.0, (PartitionLag(partition(), 0, 10, 12.0),),
    at=HOUR, unacknowledged_loss=5,
)  # fmt: skip
FINE = replace(LOST, verdict=LagVerdict.OK, unacknowledged_loss=0)
LATER = HOUR + STALE + timedelta(seconds=1)


class Ledger:
    def __init__(self, now, recoveries=(), **reports):
        self.now, self.recoveries, self.reports = now, dict(recoveries), reports

    def latest_lag(self):
        return self.reports

    def tally(self):
        return Tally(self.now, {}, {}, {}, self.recoveries, {})


@pytest.fixture
def page():
    def made(now, **reports):
        registry = CollectorRegistry()
        registry.register(LagCollector(Ledger(now, **reports)))

        def value(name, **labels):
            return registry.get_sample_value(name, labels)

        return value

    return made


def test_a_look_that_is_old_gives_unknown_and_no_figures_of_now(page):
    value = page(LATER, a=FINE, b=FINE)
    assert value("spike_verdict", spike="a", verdict="UNKNOWN") == 1
    assert value("spike_verdict", spike="a", verdict="OK") == 0
    assert value("spike_lag_seconds", spike="a") is None
    assert page(HOUR, a=FINE)("spike_lag_seconds", spike="a") == 12


def test_a_loss_stands_while_nobody_looks(page):
    """The observer is down: its alert does not go out by itself."""
    assert page(LATER, a=LOST)("spike_lost_records", spike="a") == 5


def test_a_spike_that_later_looks_leave_out_was_removed_and_is_not_unknown_for_days(page):
    value = page(LATER, gone=LOST, here=replace(FINE, at=LATER))
    assert value("spike_verdict", spike="here", verdict="OK") == 1
    for name in ("spike_lost_records", "spike_observed_timestamp_seconds", "spike_objective_seconds"):
        assert value(name, spike="gone") is None
    assert value("spike_verdict", spike="gone", verdict="UNKNOWN") is None


def test_a_spike_that_one_look_left_out_is_still_there(page):
    value = page(HOUR + STALE, one=FINE, other=replace(FINE, at=HOUR + STALE))
    assert value("spike_verdict", spike="one", verdict="OK") == 1


@pytest.mark.parametrize(("begun", "over", "shown"), [(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)])
def test_an_incident_is_one_figure_while_it_lasts_and_nobodys_restart(page, begun, over, shown):
    noted = {("*", "INCIDENT"): begun, ("*", "INCIDENT_GOES_ON"): 7, ("*", "INCIDENT_OVER"): over}
    value = page(HOUR, recoveries={**noted, ("a", "HUNG"): 2}, a=FINE)
    assert value("spike_incident") == shown
    assert value("spike_restarts_total", spike="a", cause="HUNG") == 2
    assert value("spike_restarts_total", spike="*", cause="INCIDENT") is None
