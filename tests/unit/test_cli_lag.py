"""`spike lag` as a terminal shows it, and the shape of its JSON."""

import io
import json
from dataclasses import replace
from datetime import timedelta

from builders import HOUR, partition, spike
from rich.console import Console

from spike_pipelines.cli.lag import as_json, fleet, partitions, plot, shown
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.lag_history import Trend

REPORT = LagReport(
    LagVerdict.FALLING_BEHIND,
    "1,000 records and 42 s behind",
    1000,
    42.0,
    tuple(PartitionLag(partition(i), 0, i * 10, float(i), log_end=2000) for i in range(30)),
    at=HOUR,
    trend=Trend(600.0, 30.0, 20.0, 10.0, 0.0),
    time_to_loss_seconds=3600.0,
    created_at=HOUR,
)
FINE = replace(REPORT, verdict=LagVerdict.OK, sentence="fine", time_to_loss_seconds=None, lag_seconds=1.0)
DARK = LagReport(LagVerdict.UNKNOWN, "not observed: down", 0, None, (), observed=False)


class Platform:
    def __init__(self, **reports):
        self.spikes = {name: spike(name) for name in reports}
        self._reports = reports
        self.observer = self.ledger = self

    def lag(self):
        return self._reports

    def lag_samples(self, name, since):
        return [self._reports[name].sample(HOUR + timedelta(minutes=m)) for m in range(5)]


def text(renderable):
    console = Console(width=130, color_system=None, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


def test_the_table_has_the_spike_nearest_to_loss_first_and_says_what_is_wrong():
    out = text(shown(Platform(b=FINE, a=REPORT, c=DARK), None, 1.0, 110))
    lines = out.splitlines()
    assert lines[1].split() == [
        "a",
        "FALLING_BEHIND",
        "1,000",
        "0",
        "-",
        "42",
        "s",
        "30",
        "10",
        "-",
        "1",
        "h",
        "0",
        "min",
        "-",
    ]
    assert "a: 1,000 records and 42 s behind" in out
    assert "c: not observed: down" in out
    assert "b: fine" not in out


def test_what_is_not_known_is_a_dash_and_never_a_zero():
    assert text(fleet({"c": DARK}, {"c": "yellow"})).splitlines()[1].split() == ["c", "UNKNOWN", *"-" * 9]


def test_one_spike_has_its_partitions_the_worst_first_its_creation_and_a_plot():
    out = text(shown(Platform(a=REPORT), "a", 1.0, 110))
    assert "spike created 2026-11-22 21:00:00Z" in out
    assert "seconds behind, over minutes" in out
    rows = [line.split() for line in text(partitions(REPORT)).splitlines()]
    assert (rows[1][0], rows[-1]) == ("29", ["and", "6", "more"])


def test_without_history_the_plot_says_why():
    assert "no history yet" in plot([], 80)
    assert "no history yet" in plot([DARK.sample(HOUR), REPORT.sample(HOUR)], 80)


def test_json_has_every_figure_of_every_partition():
    found = json.loads(as_json({"a": REPORT, "c": DARK}))
    assert (found["a"]["verdict"], found["a"]["lag_seconds"], found["c"]["lag_seconds"]) == (
        "FALLING_BEHIND",
        42.0,
        None,
    )
    assert found["a"]["partitions"][3]["partition"] == {"topic": "events", "topic_id": "id-1", "index": 3}
