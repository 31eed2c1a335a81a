"""`spike hours` and `spike affected` as typed, over a real ledger."""

import json

import pytest
import typer
from builders import HOUR, NEXT_HOUR
from test_closed_hours import begun, closer, late  # noqa: F401 - a fixture
from typer.testing import CliRunner

from spike_pipelines.cli import hours as hours_cli
from spike_pipelines.cli.main import app
from spike_pipelines.domain.errors import InvalidSpec, Refused

pytestmark = pytest.mark.real


@pytest.fixture
def run(world, monkeypatch):
    class Platform:
        ledger, spikes = world.ledger, world.spikes

    monkeypatch.setattr(hours_cli, "Platform", Platform)
    plain = typer.Typer()
    plain.registered_commands, plain.registered_groups = app.registered_commands, app.registered_groups

    def run(*arguments):
        result = CliRunner().invoke(plain, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def line(output, hour):
    return next(found for found in output.splitlines() if f"{hour:%Y-%m-%dT%H}" in found)


def test_hours_say_when_they_closed_and_what_came_late(world, run, closer):  # noqa: F811
    late(world, closer)
    shown = line(run("hours", "payouts", "--limit", "1000"), HOUR)
    assert shown.split()[1:6] == ["4", "1", "3", "1", "2"]
    assert "closed " in shown
    files = [found for found in run("hours", "payouts", "--late").splitlines() if "s3://" in found]
    assert [file.partition(": s3://")[0] for file in files] == [
        "final, live, hour 2026-11-22T22, 2 rows",
        "final, live, hour 2026-11-22T21, 2 rows",
    ]


def test_an_hour_that_is_open_says_what_it_waits_for_and_when_it_is_due(world, run, closer):  # noqa: F811
    driver = begun(world, records=12)
    driver.stage()
    world.settle(driver.spike)
    assert "open, due 11-22 23:00" in line(run("hours", "payouts"), HOUR)
    closer.close()
    assert "waits: payouts-topic:0 has committed up to 6 of 12" in line(run("hours", "payouts"), HOUR)


def test_hours_for_programs(world, run, closer):  # noqa: F811
    late(world, closer)
    found = {h["hour"]: h for h in json.loads(run("hours", "payouts", "-o", "json"))}
    mine = found[HOUR.isoformat()]
    assert (mine["rows"], mine["late_records"]) == (4, 2)
    assert mine["closed_at"] is not None


def test_an_unknown_dataset_is_answered_with_those_there_are(world, run):
    world.spike()
    with pytest.raises(InvalidSpec, match="no dataset is called 'nope': there are payouts"):
        run("hours", "nope")


def test_hours_that_a_version_wrote_are_ranges_to_paste(world, run, closer):  # noqa: F811
    late(world, closer)
    text = run("affected", "--version", "1.0")
    assert text.splitlines() == [
        "# payouts: 2 hours, 9 records in 5 files, 3 filtered",
        "spike backfill payouts --from 2026-11-22T21 --to 2026-11-22T22",
    ]
    (found,) = json.loads(run("affected", "payouts", "--version", "1.0", "-o", "json"))
    assert (found["from"], found["to"]) == (HOUR.isoformat(), NEXT_HOUR.isoformat())
    assert (found["records"], found["filtered"]) == (9, 3)


def test_a_version_that_wrote_nothing_is_answered_with_those_that_did(world, run, closer):  # noqa: F811
    late(world, closer)
    with pytest.raises(
        Refused, match=r"nothing that there is was made by version 9: payouts: 1.0 \(2 hours\)"
    ):
        run("affected", "--version", "9")
    with pytest.raises(InvalidSpec, match="no spike is called 'nope'"):
        run("affected", "nope", "--version", "1.0")
