"""`spike lag` as a terminal shows it, and the shape of its JSON."""

import io
import json
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from builders import HOUR, partition, spike
from rich.console import Console

from spike_pipelines.cli import lag as cli
from spike_pipelines.cli.lag import REFRESH_SECONDS, as_json, fleet, partitions, plot, shown
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.lag_history import Trend

REPORT = LagReport(
    LagVerdict.FALLING_BEHIND,
    "1,000 records and 42 s behind",
    1000,
    42.0,
    tuple(PartitionLag(partition(i), 0, i * 10, float(i), log_end=2000) for i in range(30)),
    at=HOUR,
    trend=Trend(600.0, 30.0, 20.0, 10.0),
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


def text(*renderables, width=130):
    console = Console(width=width, color_system=None, file=io.StringIO(), record=True)
    console.print(*renderables)
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
    shown_ = text(*fleet({"c": DARK}, {"c": "yellow"}))
    assert shown_.splitlines()[1].split() == ["c", "UNKNOWN", *"-" * 9]


def test_one_spike_has_its_partitions_the_worst_first_its_creation_and_a_plot():
    out = text(shown(Platform(a=REPORT), "a", 1.0, 110))
    assert "spike created 2026-11-22 21:00:00Z" in out
    assert "seconds behind, over minutes" in out
    rows = [line.split() for line in text(*partitions(REPORT)).splitlines() if line.strip()]
    assert (rows[1][0], rows[-1]) == ("29", ["and", "6", "partitions", "more"])


def test_at_eighty_columns_nothing_is_cut_off_and_what_is_left_out_is_named():
    """The name, the verdict and when records are lost stay; the sentence wraps."""
    name = "cct-adtracking-failure-v1-1.1"
    many = {
        name: replace(REPORT, lag=123_456_789, staged_lag=123_456_789, sentence="so far behind. " * 9),
        "crt-payout-v1-1.0": FINE,
    }
    out = text(shown(Platform(**many), None, 1.0, 80), width=80)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    assert lines[0].split()[:2] == ["spike", "verdict"]
    assert lines[0].split()[-2:] == ["loss", "in"]
    assert lines[1].split()[:2] == [name, "FALLING_BEHIND"]
    assert "not shown at this width: commit, unread" in out
    assert " ".join(out.split()).count("so far behind.") == 9
    wide = text(shown(Platform(**many), None, 1.0, 160), width=160)
    assert "not shown" not in wide
    one = text(shown(Platform(**many), name, 1.0, 80), width=80)
    assert max(map(len, one.splitlines())) <= 80


def test_a_terminal_too_narrow_for_a_name_folds_it():
    table, _ = fleet({"cct-adtracking-failure-v1-1.1": FINE}, {"cct-adtracking-failure-v1-1.1": "green"}, 40)
    lines = text(table, width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line.split()[0] for line in lines[1:]) == "cct-adtracking-failure-v1-1.1"


def test_what_was_cut_off_counts_as_lost_in_its_partition():
    cut = replace(REPORT, partitions=(PartitionLag(partition(), 0, 0, 0.0, cut_off=7),))
    assert text(*partitions(cut)).splitlines()[1].split()[-2] == "7"


def test_without_history_the_plot_says_why():
    assert "no history yet" in plot([], 80)
    assert "no history yet" in plot([DARK.sample(HOUR), REPORT.sample(HOUR)], 80)


def test_a_history_without_one_known_age_has_no_curve_of_it_and_the_other_one():
    """Every look of the last hour found lag, and none its age."""
    blind = replace(REPORT, lag_seconds=None)
    out = plot([blind.sample(HOUR + timedelta(minutes=m)) for m in range(5)], 80)
    assert "seconds behind: not known at any time of this plot" in out
    assert "records behind, over minutes" in out


def test_watching_looks_again_until_somebody_interrupts_it_and_shows_the_newest_look(monkeypatch):
    """Each pause is a look that was shown; the third one is Ctrl-C."""
    platform, out, pauses = Platform(a=FINE), io.StringIO(), []

    def pause(seconds):
        pauses.append((seconds, out.getvalue()))
        platform._reports = {"a": REPORT}
        if len(pauses) == 3:
            raise KeyboardInterrupt

    console = Console(width=130, color_system=None, file=out, force_terminal=True)
    monkeypatch.setattr(cli, "Platform", lambda: platform)
    monkeypatch.setattr(cli, "wide", lambda: console)
    monkeypatch.setattr(cli, "time", SimpleNamespace(sleep=pause))
    with pytest.raises(KeyboardInterrupt):
        cli.lag(None, watch=True)
    seconds, screens = zip(*pauses, strict=True)
    assert set(seconds) == {REFRESH_SECONDS}
    assert [screen.count("FALLING_BEHIND") for screen in screens] == [0, 1, 2]
    assert "a: 1,000 records and 42 s behind" in screens[-1]


def test_json_has_every_figure_of_every_partition():
    found = json.loads(as_json({"a": REPORT, "c": DARK}))
    assert (found["a"]["verdict"], found["a"]["lag_seconds"], found["c"]["lag_seconds"]) == (
        "FALLING_BEHIND",
        42.0,
        None,
    )
    assert found["a"]["partitions"][3]["partition"] == {"topic": "events", "topic_id": "id-1", "index": 3}
