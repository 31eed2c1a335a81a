"""`spike backfill --as` and `--offsets`: what is said, what is written, and what is refused."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import partition
from typer.testing import CliRunner

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.cli import backfill as command
from spike_pipelines.cli.main import app
from spike_pipelines.domain.backfill import HourPlan
from spike_pipelines.domain.fork import Fork, check_loss
from spike_pipelines.domain.offsets import OffsetRange, Position
from spike_pipelines.domain.spike import Start
from spike_pipelines.services.backfill import Rehearsed

SHIPPED = Path(__file__).parents[2] / "deployments" / "applications"
OLD, NEW = "crt-payout-v1-1.0", "crt-payout-eur-v1-1.0"
HOUR = datetime(2026, 11, 22, 21, tzinfo=UTC)
P = partition(topic="crt.payout")
LOST = (OffsetRange(P, 0, 40),)


@pytest.fixture
def platform(tmp_path, monkeypatch):
    applications = tmp_path / "applications"
    shutil.copytree(SHIPPED, applications)
    noted = []

    def look(_, since, *, accept_loss):
        found = Fork(since, (OffsetRange(P, 40, 100),), fake.lost)
        check_loss(found, accept_loss=accept_loss)
        return found

    fake = SimpleNamespace(
        spikes={OLD: load_application(applications / f"{OLD}.yaml")},
        settings=SimpleNamespace(applications_dir=applications),
        lost=(),
        noted=noted,
        forker=SimpleNamespace(look=look, begin=lambda *told: noted.append(told)),
        ledger=SimpleNamespace(
            now=lambda: HOUR + timedelta(days=1),
            swaps=lambda *_: (),
            epochs=dict,
            all_positions=lambda: {OLD: {P: Position(P, 0, 100, 100)}},
            fed_hours=lambda *_: (HOUR, HOUR + timedelta(hours=1), HOUR + timedelta(hours=5)),
        ),
        backfiller=SimpleNamespace(
            rehearse=lambda _, hour, **__: Rehearsed(hour, HourPlan(hour, (1,), (), (), 10, ())),
            older=lambda *_: ((), ()),
        ),
    )
    monkeypatch.setattr(command, "Platform", lambda: fake)
    return fake


def say(*words):
    done = CliRunner().invoke(app, ["backfill", OLD, *words])
    return done.exit_code, " ".join((done.stdout + done.stderr).split())


def written(platform):
    return platform.settings.applications_dir / f"{NEW}.yaml"


def test_a_new_dataset_is_an_application_file_that_reads_the_same_topic_from_then_on(platform):
    code, told = say("--as", NEW, "--from", "2026-11-22T21")
    assert code == 0, told
    new, old = load_application(written(platform)), platform.spikes[OLD]
    assert (new.topic, new.start, new.schema) == (old.topic, HOUR, old.schema)
    assert new.dataset.name == "crt_payout_eur"
    assert "60 offsets up to now" in told
    assert "spike down && spike up" in told


def test_without_from_it_reads_all_that_kafka_has(platform):
    platform.lost = LOST
    code, told = say("--as", NEW)
    assert code == 0, told
    assert load_application(written(platform)).start is Start.EARLIEST
    assert "without crt.payout:0[0,40): Kafka no longer has them" in told


def test_hours_before_the_old_dataset_are_of_the_new_one(platform):
    assert say("--as", NEW, "--from", "2025-12-31T23")[0] == 0
    new = load_application(written(platform))
    assert new.start == new.dataset.start == datetime(2025, 12, 31, 23, tzinfo=UTC)


def test_a_moved_destination_is_a_new_dataset_there(platform):
    places = ("--staging", "s3://other-lake/staging", "--final", "s3://other-lake/final")
    assert say("--as", NEW, *places)[0] == 0
    assert load_application(written(platform)).final.uri() == "s3://other-lake/final"


def test_a_dry_run_writes_nothing(platform):
    code, told = say("--as", NEW, "--dry-run")
    assert (code, "60 offsets" in told, written(platform).exists()) == (0, True, False)


def test_a_loss_is_refused_or_kept_with_who_and_why(platform):
    platform.lost = LOST
    code, told = say("--as", NEW, "--from", "2026-11-22T21")
    assert (code, written(platform).exists(), platform.noted) == (1, False, [])
    assert "Kafka no longer has crt.payout:0[0,40): leave --from out" in told
    assert say("--as", NEW, "--from", "2026-11-22T21", "--accept-loss", "--why", "all there is")[0] == 0
    ((_, new, found, request),) = platform.noted
    assert (new.name, found.lost, request.author.why) == (NEW, LOST, "all there is")
    assert new == load_application(written(platform))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--as", OLD), "exists already"),
        (("--as", NEW, "--from", "2026-11-22T21", "--to", "2026-11-22T22"), "--to says nothing with --as"),
        (("--as", NEW, "--wait"), "--wait says nothing with --as"),
        (("--as", NEW, "--final", "s3://other-lake/final"), "in two buckets"),
        (("--from", "2026-11-22T21", "--final", "s3://x-y/z"), "name it with --as"),
        ((), "give --from HOUR (and --to HOUR), or --offsets"),
        (("--from", "2026-11-22T21", "--offsets", "crt.payout:0:1-2"), "give --from HOUR"),
        (("--to", "2026-11-22T21", "--offsets", "crt.payout:0:1-2"), "--to goes with --from"),
        (("--offsets", "crt.payout:3:1-2"), "no partition 3"),
        (("--offsets", "crt.payout:0:90-101"), "101 is beyond 100"),
        (("--from", "2026-11-23T22"), "has not begun"),
        (("--from", "2026-11-22T21:30"), "--from 2026-11-22T21:30:00 lies within an hour"),
        (("--from", "2026-11-22T21", "--to", "2026-11-22T22:59:59"), "begin on the hour, as 2026-11-22T22"),
        (("--from", "2026-11-22-21:30", "--as", NEW), "lies within an hour"),
        (("--from", "2026-11-23T22", "--as", NEW), "has not begun: it is 2026-11-23T21:00 UTC"),
        (("--from", "2025-11-23T22"), "before the dataset's start"),
        (("--from", "22 o'clock"), "does not match the formats"),
    ],
)
@pytest.mark.usefixtures("platform")
def test_what_cannot_be_is_refused_with_a_sentence(platform, words, told):
    before = sorted(platform.settings.applications_dir.iterdir())
    code, said = say(*words)
    assert code != 0
    assert told in said.replace("│ ", ""), said
    assert sorted(platform.settings.applications_dir.iterdir()) == before


def test_offsets_name_their_hours_and_each_stretch_is_one_run(platform, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "launch", lambda _, *hours: asked.append(hours[:2]) or f"run-{len(asked)}")
    code, told = say("--offsets", "crt.payout:0:10-20")
    assert code == 0, told
    assert "counted records for 2026-11-22T21 to 2026-11-22T22, 2026-11-23T02 to 2026-11-23T02" in told
    assert [tuple(f"{h:%dT%H}" for h in hours) for hours in asked] == [("22T21", "22T22"), ("23T02", "23T02")]
    assert "Dagster run run-1, run-2" in told


def test_offsets_in_too_many_places_are_refused(platform):
    platform.ledger.fed_hours = lambda *_: tuple(HOUR - timedelta(hours=2 * n) for n in range(21))
    code, told = say("--offsets", "crt.payout:0:10-20")
    assert (code, "in 21 places, more than 20" in told) == (1, True)


@pytest.mark.parametrize(
    ("hour", "why"),
    [(HOUR + timedelta(days=2), "has not begun"), (HOUR - timedelta(days=999), "before the dataset's start")],
)
def test_offsets_of_an_hour_that_no_run_would_do_are_refused_before_one_is_launched(platform, hour, why):
    platform.ledger.fed_hours = lambda *_: (min(HOUR, hour), max(HOUR, hour))
    code, told = say("--offsets", "crt.payout:0:10-20")
    assert (code, why in told) == (1, True), told
