"""The table, rendered as a terminal would show it."""

import io
from dataclasses import replace

from builders import HOUR, NEXT_HOUR
from rich.console import Console

from spike_pipelines.domain.overlays import Overlay, OverlayKind
from spike_pipelines.stack.snapshot import PartSnapshot, PartState
from spike_pipelines.stack.source import in_words
from spike_pipelines.stack.status import SpikeRow, parts_line, table

ROW = SpikeRow(
    spike="crt-payout-v1-1.0",
    verdict="BEHIND",
    epoch=3,
    committed=1234567,
    lag=890,
    lag_seconds=42.4,
    records_per_second=1000.2,
    commit_age_seconds=7.0,
    problem="42 s behind, the objective is 30 s",
)


def shown(*args, width=110, **kwargs) -> str:
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(table(*args, width=width, **kwargs))
    return console.export_text()


def test_row_has_every_figure_and_the_sentence_below():
    text = shown([ROW], [])
    line = next(line for line in text.splitlines() if "1,234,567" in line)
    assert line.split() == ["crt-payout-v1-1.0", "BEHIND", "3", "1,234,567", "890", "42", "1,000", "7", "s"]
    assert "crt-payout-v1-1.0: 42 s behind, the objective is 30 s" in text


def test_the_live_table_has_the_first_sentence_only():
    row = SpikeRow("a", "RETRYING", problem="Kafka at 127.0.0.1:9092 does not answer. Look at its log.")
    lines = [line.strip() for line in shown([row], [], brief=True).splitlines()]
    assert "a: Kafka at 127.0.0.1:9092 does not answer" in lines
    assert "Look at" not in shown([row], [], brief=True)


def test_at_eighty_columns_nothing_is_cut_off_and_the_sentence_wraps():
    row = replace(
        ROW, spike="cct-adtracking-failure-v1-1.1", verdict="RETENTION_RISK", problem="behind. " * 20
    )
    text = shown([row], [], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("behind.") == 20
    line = next(line for line in text.splitlines() if "RETENTION_RISK" in line)
    assert line.split()[0] == "cct-adtracking-failure-v1-1.1"
    assert line.split()[-2:] == ["7", "s"]
    assert "not shown at this width: epoch, committed" in text


def test_what_is_not_known_is_a_dash_and_never_a_number():
    line = next(line for line in shown([SpikeRow("a", "UNKNOWN")], []).splitlines() if "UNKNOWN" in line)
    assert line.split() == ["a", "UNKNOWN", "-", "-", "-", "-", "-", "-"]


def test_old_commits_are_told_in_minutes():
    assert "5 min" in shown([SpikeRow("a", "OK", commit_age_seconds=300)], [])


def test_parts_line_names_what_is_not_ready_and_why():
    parts = [
        PartSnapshot(name="s3", state=PartState.READY),
        PartSnapshot(name="kafka", state=PartState.BACKING_OFF, problem="kafka was killed by signal 9."),
    ]
    assert str(parts_line(parts)) == "s3 ●  kafka ◌ backing off (kafka was killed by signal 9.)"


def test_a_part_that_was_stopped_on_request_says_how_to_start_it():
    parts = [PartSnapshot(name="kafka", state=PartState.STOPPED)]
    assert str(parts_line(parts)) == "kafka ◌ stopped on request: spike stack start kafka"


def test_dagster_link_is_below():
    assert "Dagster: http://127.0.0.1:3000" in shown([], [], link="http://127.0.0.1:3000")


def test_an_overlay_is_told_with_its_end_and_its_cause():
    laid = Overlay(
        7, "payouts", OverlayKind.MEMORY, "768m", "3 drivers ended out of memory", "v2", HOUR, NEXT_HOUR
    )
    assert in_words([laid], HOUR) == (
        "overlay more-memory 768m until 22 Nov 22:00 UTC (3 drivers ended out of memory)"
    )
    assert in_words([laid], NEXT_HOUR) is None
