"""Backfills as Dagster and the command line ask for them: hours, config, answers. Nothing is read here."""

import json
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import click.testing
import dagster as dg
import pytest
import yaml
from builders import HOUR, NEXT_HOUR, partition, spike
from dagster._cli import cli as dagster
from dagster._core.instance.config import PoolGranularity
from typer.testing import CliRunner

from spike_pipelines.cli import backfill as command
from spike_pipelines.cli import dagster_runs
from spike_pipelines.cli.main import app
from spike_pipelines.domain.backfill import Expired, HourPlan, check_hours
from spike_pipelines.domain.earlier import Survey
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Refused, SpecChanged, Transient
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.swap import Scope, Swap, SwapKind, SwapState
from spike_pipelines.orchestration.assets import HOUR_FORMAT
from spike_pipelines.orchestration.backfill import POOL, dataset_assets, hours_of, job_name, op_name
from spike_pipelines.orchestration.closed import closed_hours
from spike_pipelines.services.backfill import Backfilled, Rehearsed
from spike_pipelines.services.publish import Publisher

RANGE = {
    "dagster/asset_partition_range_start": HOUR.strftime(HOUR_FORMAT),
    "dagster/asset_partition_range_end": NEXT_HOUR.strftime(HOUR_FORMAT),
}


def swap(number=1, hour=HOUR, state=SwapState.SWAPPED, kind=SwapKind.BACKFILL, so_far=0):
    return Swap(
        number,
        "payouts",
        "payouts",
        kind,
        state,
        "ann",
        "why",
        "2",
        Scope(hour, hour + timedelta(hours=1)),
        HOUR,
        so_far=so_far,
    )


class Platform:
    """Refuses the hours in `refused`."""

    def __init__(self, *, now=NEXT_HOUR, refused=(), error=Refused, unseen=None):
        self.asked, self.surveyed, self.closed = [], [], 0
        self._unseen = unseen
        self.ledger = SimpleNamespace(now=lambda: now, datasets=lambda: ())
        self.publisher = Publisher(self.ledger, catalog=None, store=None)  # no dataset: nothing to show
        self.backfiller = self
        self._refused, self._error = refused, error

    def survey(self, spike, hours):
        self.surveyed.append(tuple(hours))
        if self._unseen:
            raise Refused(self._unseen)
        return Survey()

    def maybe_older(self, spike, hours):
        return tuple(hour for hour in hours if hour < NEXT_HOUR)

    def backfill(self, spike, hour, ask, survey):
        assert survey == Survey()
        self.asked.append((hour, ask))
        if hour in self._refused:
            raise self._error("it cannot be")
        earlier = swap(9, hour, kind=SwapKind.EARLIER) if hour == NEXT_HOUR else None
        return Backfilled(hour, swap(len(self.asked), hour), 3, 2, 1, 9, earlier)

    def close(self):
        self.closed += 1


def run(platform, tags=RANGE, config=None, selection=None, instance=None):
    what = spike()
    return dg.materialize(
        [dataset_assets(what)],
        instance=instance or dg.DagsterInstance.ephemeral(),
        resources={"platform": platform},
        tags=tags,
        run_config={"ops": {op_name(what): {"config": config}}} if config else None,
        selection=selection,
        raise_on_error=False,
    )


def failure(result):
    (event,) = [e for e in result.all_node_events if e.event_type_value == "STEP_FAILURE"]
    return str(event.event_specific_data.error) + str(event.event_specific_data.user_failure_data)


def test_a_range_of_partitions_is_one_run_hour_by_hour():
    platform = Platform()
    done = run(platform)
    assert done.success
    assert [hour for hour, _ in platform.asked] == [HOUR, NEXT_HOUR]
    assert platform.surveyed == [(HOUR, NEXT_HOUR)], "what lies below is looked through once for all"
    events = done.asset_materializations_for_node(op_name(spike()))
    assert {(e.asset_key.path[-1], e.partition) for e in events} == {
        (table, key) for table in ("payouts", "payouts_dead_letters") for key in RANGE.values()
    }
    assert events[0].metadata["rows"].value == 6
    assert events[0].metadata["swaps"].value == "1, 2, 9"


def test_one_table_alone_may_be_asked_for():
    done = run(Platform(), selection=[dg.AssetKey(["dataset", "payouts"])])
    events = done.asset_materializations_for_node(op_name(spike()))
    assert {e.asset_key.path[-1] for e in events} == {"payouts"}


def test_who_asks_and_why_reaches_the_ledger():
    platform = Platform()
    run(platform, config={"who": "ann@desk", "why": "new filter", "accept_loss": True})
    ask = platform.asked[0][1]
    assert (ask.request.author.who, ask.request.author.why, ask.accept_loss) == (
        "ann@desk",
        "new filter",
        True,
    )


def test_without_a_name_the_run_itself_is_who_asked():
    platform = Platform()
    done = run(platform)
    assert platform.asked[0][1].request.author.who == f"Dagster run {done.run_id[:8]}"


def test_an_hour_that_is_refused_fails_the_run_and_stops_no_other():
    platform = Platform(refused=[HOUR])
    done = run(platform)
    assert not done.success
    assert [hour for hour, _ in platform.asked] == [HOUR, NEXT_HOUR]
    assert "1 hour stays as it was: 2026-11-22T21: it cannot be" in failure(done)


def test_where_older_hours_cannot_be_looked_for_they_stay_as_they_were_and_the_others_are_done():
    platform = Platform(unseen="read 13 records from 14 offsets")
    told = failure(run(platform))
    assert "1 hour stays as it was: 2026-11-22T21: read 13 records from 14 offsets" in told
    assert ([hour for hour, _ in platform.asked], platform.closed) == ([NEXT_HOUR], 1)


def test_what_does_not_answer_stops_the_run():
    platform = Platform(refused=[HOUR], error=Transient)
    assert not run(platform).success
    assert [hour for hour, _ in platform.asked] == [HOUR]
    assert platform.closed == 1, "its Spark session goes too"


def test_a_loss_is_accepted_in_somebodys_own_words_only():
    platform = Platform()
    assert "say `why` in the run's config" in failure(run(platform, config={"accept_loss": True}))
    assert platform.asked == []
    assert run(platform, config={"accept_loss": True, "why": "all there is"}).success


def test_the_hour_that_a_dataset_starts_within_is_a_partition_of_it():
    """Records from then on are rows of it. Dagster itself begins with the next hour."""
    within = replace(spike().dataset, start=HOUR + timedelta(minutes=30))
    what = spike(dataset=within)
    definitions = [dataset_assets(what).partitions_def, closed_hours(what)]
    assert {hours.get_first_partition_key() for hours in definitions} == {"2026-11-22-21:00"}
    assert hours_of(["2026-11-22-21:00"]) == check_hours(HOUR, HOUR, within.start, NEXT_HOUR)


UNKNOWN = {
    "no hour at all": ["--partition", "yesterday"],
    "one that never begins": ["--partition", "2326-11-22-21:00"],
    "one before the dataset": ["--partition", "2025-11-22-21:00"],
    "a range that begins before it": ["--partition-range", "2025-11-22-21:00...2026-11-22-21:00"],
}


@pytest.mark.parametrize("words", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_partition_is_refused_by_dagster_before_anything_runs(words, tmp_path, monkeypatch):
    definitions = tmp_path / "hours.py"
    definitions.write_text(
        "import dagster as dg\n"
        "from builders import spike\n"
        "from spike_pipelines.orchestration.backfill import dataset_assets\n"
        "defs = dg.Definitions(assets=[dataset_assets(spike())], resources={'platform': None})\n"
    )
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    chosen = ["--select", 'key:"dataset/payouts"', *words]
    done = click.testing.CliRunner().invoke(
        dagster, ["asset", "materialize", "-f", str(definitions), *chosen]
    )
    key = words[-1].partition("...")[0]
    assert done.exit_code == 1
    assert f"PartitionsDefinition containing the passed partition key `{key}`" in str(done.exception)


@pytest.mark.parametrize("tags", [["dagster/partition"], RANGE], ids=["one", "range"])
def test_a_partition_within_an_hour_is_refused(tags):
    """Dagster itself takes the next hour for it."""
    platform = Platform()
    done = run(platform, dict.fromkeys(tags, "2026-11-22-21:30"))
    assert "2026-11-22-21:30 is no partition: hours begin on the hour, as 2026-11-22-21:00" in failure(done)
    assert platform.asked == []


def test_a_range_that_ends_before_it_begins_is_refused():
    """Dagster itself runs it, for no hour at all."""
    platform = Platform()
    done = run(platform, dict(zip(RANGE, reversed(RANGE.values()), strict=True)))
    said = "the range from 2026-11-22-22:00 to 2026-11-22-21:00 ends before it begins"
    assert said in failure(done)
    assert platform.asked == []


def test_an_hour_that_has_not_begun_is_refused_clearly():
    platform = Platform(now=HOUR)
    done = run(platform)
    assert "2026-11-22T22 has not begun: it is 2026-11-22T21:00 UTC" in failure(done)
    assert platform.asked == []


def test_backfills_wait_for_one_another_and_not_the_live_streams_for_them(tmp_path):
    assert dataset_assets(spike()).op.pool == POOL
    told = instance_limits(tmp_path)
    assert told.pool_config.default_pool_limit == 1
    assert told.pool_config.pool_granularity is PoolGranularity.RUN
    assert told.run_queue_config.max_concurrent_runs == 6


def instance_limits(home):
    """As Dagster reads our `dagster.yaml`, without its servers."""
    written = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    plain = {name: part for name, part in written.items() if name not in {"storage", "compute_logs"}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(plain))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return instance.get_concurrency_config()


# the command


@pytest.mark.parametrize(
    ("error", "said"),
    [(Refused, "1 hour stays as it was: 2026-11-22T21: it cannot be"), (Transient, "it cannot be")],
)
def test_why_a_run_failed_is_said_in_its_own_words(error, said):
    instance = dg.DagsterInstance.ephemeral()
    done = run(Platform(refused=[HOUR], error=error), instance=instance)
    assert said in dagster_runs.reason(instance, done.run_id)
    assert "says no more" in dagster_runs.reason(instance, run(Platform(), instance=instance).run_id)


def plan(hour=HOUR, offsets=10, **changes):
    pieces = (OffsetRange(partition(), 0, offsets),)
    return HourPlan(hour, (1,), pieces, (), 10, (), **changes)


def told(plans, *swaps, older=()):
    """Five seconds after the first swap was planned."""
    asked = command.Asked({p.hour: p for p in plans}, older)
    return command.progress(asked, swaps, after=5).line(HOUR + timedelta(seconds=5))


def test_progress_counts_the_hours_that_were_swapped_in_since_the_command_began():
    plans = (plan(), plan(NEXT_HOUR, 30))
    others = (swap(3, NEXT_HOUR), swap(9, NEXT_HOUR, kind=SwapKind.REPLAY))
    assert told(plans) == "0 of 2 hours, 0 of 40 records read"
    assert told(plans, swap(7), *others) == "1 of 2 hours, 10 of 40 records read, 15 s to go"
    doing = "; counting and copying 2026-11-22T22"
    staged = swap(8, NEXT_HOUR, SwapState.STAGED)
    assert told(plans, swap(7), staged, *others) == f"1 of 2 hours, 40 of 40 records read{doing}"


def test_progress_says_how_many_records_of_an_hour_are_read_while_it_is_read():
    plans = (plan(), plan(NEXT_HOUR, 30))
    begun, on, ahead = (swap(8, NEXT_HOUR, SwapState.PLANNED, so_far=n) for n in (0, 10, 99))
    reading = "reading 2026-11-22T22"
    assert told(plans, swap(7), begun) == f"1 of 2 hours, 10 of 40 records read, 15 s to go; {reading}"
    assert told(plans, swap(7), on) == (
        f"1 of 2 hours, 20 of 40 records read, 5 s to go; {reading}: 10 of 30 records"
    )
    assert told(plans, swap(7), ahead) == f"1 of 2 hours, 40 of 40 records read; {reading}: 30 of 30 records"


def test_progress_tells_of_hours_that_are_older_than_the_ledger():
    done = swap(7, kind=SwapKind.EARLIER)
    at_work = swap(8, NEXT_HOUR, SwapState.PLANNED, SwapKind.EARLIER, so_far=1200)
    assert told((), done, at_work, older=(HOUR, NEXT_HOUR)) == (
        "0 of 0 hours, 0 of 0 records read; 1 hour below where the spike began; "
        "reading 2026-11-22T22 below where the spike began: 1,200 records"
    )


@pytest.fixture
def older():
    """Hours older than the ledger, and where their records may lie."""
    return (), ()


@pytest.fixture
def platform(monkeypatch, older):
    fake = SimpleNamespace(
        spikes={"payouts": spike()},
        ledger=SimpleNamespace(now=lambda: NEXT_HOUR, swaps=lambda *_: (), epochs=dict),
        backfiller=SimpleNamespace(
            rehearse=lambda _, hour, **__: Rehearsed(hour, plan(hour) if hour == HOUR else None),
            older=lambda *_: older,
        ),
    )
    monkeypatch.setattr(command, "Platform", lambda: fake)
    return fake


def say(*words):
    return CliRunner().invoke(app, ["backfill", "payouts", *words])


@pytest.mark.usefixtures("platform")
def test_a_dry_run_says_what_would_be_read_and_which_hours_are_empty():
    done = say("--from", "2026-11-22T21", "--to", "2026-11-22T22", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "1 hour with 10 records in 0 files; 10 offsets to read again" in done.output
    assert "the driver runs with version" not in done.output
    assert "empty, nothing was ever read for them: 2026-11-22T22\n" in done.output
    assert "older than the ledger" not in done.output


@pytest.mark.parametrize("version", ["v0", spike().version])
def test_a_driver_that_still_has_the_file_as_it_was_is_told_of(platform, version):
    epoch = SimpleNamespace(application_version=version, state=EpochState.OPEN)
    platform.ledger.epochs = lambda: {"payouts": epoch}
    done = say("--from", "2026-11-22T21", "--dry-run")
    assert ("the driver runs with version v0, the file is at" in done.output) is (version == "v0")
    assert ("`spike affected payouts --version v0`" in done.output) is (version == "v0")
    epoch.state = EpochState.SUPERSEDED
    assert "the driver runs with" not in say("--from", "2026-11-22T21", "--dry-run").output


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("older", [((NEXT_HOUR,), (OffsetRange(partition(), 3, 8),))], ids=["one hour"])
def test_a_dry_run_says_what_is_looked_through_for_hours_older_than_the_ledger():
    done = say("--from", "2026-11-22T21", "--to", "2026-11-22T22", "--dry-run")
    assert done.exit_code == 0, done.output
    assert (
        "1 hour from 2026-11-22T22 on, older than the ledger: 5 offsets below where payouts began are "
        "looked through for records (events:0[3,8))\n"
    ) in done.output
    assert "empty" not in done.output


def test_every_hour_that_cannot_be_done_is_named_before_anything_is_begun(platform, monkeypatch):
    def rehearse(_, hour, **__):
        raise Expired(f"{hour:%Y-%m-%dT%H}: Kafka's log begins with nothing that is older")

    monkeypatch.setattr(platform.backfiller, "rehearse", rehearse)
    for words in (("--dry-run",), ("--wait",)):
        done = say("--from", "2026-11-22T21", "--to", "2026-11-22T22", *words)
        assert (done.exit_code, done.output) == (1, done.stderr)
        assert re.findall(r"(\S+): Kafka's log", done.stderr) == ["2026-11-22T21", "2026-11-22T22"]


def test_what_is_wrong_with_the_file_is_said_once(platform, monkeypatch):
    def rehearse(*_, **__):
        raise SpecChanged("topic: it has another one")

    monkeypatch.setattr(platform.backfiller, "rehearse", rehearse)
    done = say("--from", "2026-11-22T21", "--to", "2026-11-22T22", "--dry-run")
    assert (done.exit_code, done.stderr) == (1, "spike: topic: it has another one\n")


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_a_loss_of_which_nothing_is_left_is_told_and_the_run_that_accepts_it_is_asked_for(
    platform, monkeypatch, words
):
    launched = []
    monkeypatch.setattr(platform.backfiller, "rehearse", lambda _, hour, **__: Rehearsed(hour, None, "gone"))
    monkeypatch.setattr(command, "launch", lambda *asked: launched.append(asked) or "a-run")
    done = say("--from", "2026-11-22T21", "--accept-loss", "--why", "all there is", *words)
    assert done.exit_code == 0, done.output
    assert "2026-11-22T21: gone; what is left is read\n" in done.output
    assert "empty" not in done.output
    assert [config["accept_loss"] for *_, config in launched] == ([] if words else [True])


@pytest.mark.usefixtures("platform")
def test_an_accepted_loss_needs_a_reason():
    done = say("--from", "2026-11-22T21", "--accept-loss")
    assert (done.exit_code, "say why with --why" in done.output + str(done.stderr)) == (1, True)


@pytest.mark.usefixtures("platform")
def test_the_command_asks_dagster_for_one_run_of_all_hours(monkeypatch, tmp_path):
    (tmp_path / "workspace.yaml").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    asked = []

    def record(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(dagster_runs.subprocess, "run", record)
    done = say("--from", "2026-11-22T21", "--to", "2026-11-22T22", "--why", "mended", "--who", "ann")
    assert done.exit_code == 0, done.output
    words = dict(zip(asked[0][5::2], asked[0][6::2], strict=True))
    assert words["-j"] == job_name(spike())
    assert RANGE.items() <= json.loads(words["--tags"]).items()
    config = {"who": "ann", "why": "mended", "accept_loss": False}
    assert json.loads(words["--config-json"]) == {"ops": {op_name(spike()): {"config": config}}}
    assert words["--run-id"] in done.output


@pytest.mark.usefixtures("platform")
def test_a_run_that_dagster_does_not_take_is_an_error_with_its_words(monkeypatch, tmp_path):
    (tmp_path / "workspace.yaml").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    refused = subprocess.CompletedProcess([], 2, "", "no such job")
    monkeypatch.setattr(dagster_runs.subprocess, "run", lambda *_, **__: refused)
    done = say("--from", "2026-11-22T21")
    assert (done.exit_code, "no such job" in done.output + str(done.stderr)) == (1, True)


# waiting


QUEUED, WORKING, DONE, FAILED = (
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
)  # fmt: skip


class Runs:
    """A Dagster in which each look finds the runs one step further."""

    def __init__(self, **steps):
        self.steps, self.looks = steps, dict.fromkeys(steps, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_run_by_id(self, run_id):
        steps, at = self.steps[run_id], self.looks[run_id]
        self.looks[run_id] = min(at + 1, len(steps) - 1)
        return SimpleNamespace(run_id=run_id, status=steps[at], is_finished=steps[at] in {DONE, FAILED})

    def all_logs(self, run_id, of_type):
        return []


def waited(monkeypatch, **steps):
    """Of `--wait`: exit code, and what it said in lines."""
    runs = iter(steps)
    monkeypatch.setattr(command, "launch", lambda *_: next(runs))
    monkeypatch.setattr(command, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(command, "hour_ranges", lambda _: [(HOUR, HOUR)] * len(steps))
    monkeypatch.setattr(dg.DagsterInstance, "get", lambda: Runs(**steps))
    done = say("--from", "2026-11-22T21", "--wait")
    lines = done.output.splitlines()
    return done.exit_code, lines[next(i for i, line in enumerate(lines) if line.startswith("Dagster run")) :]


@pytest.mark.usefixtures("platform")
def test_who_waits_for_a_run_that_waits_is_told_so(monkeypatch):
    nothing = "0 of 1 hour, 0 of 10 records read"
    queued = "; run run-1 is QUEUED: Dagster's daemon starts it, when no other backfill is at work"
    code, said = waited(monkeypatch, **{"run-1": [QUEUED, QUEUED, WORKING, WORKING, DONE]})
    assert (code, said) == (
        0,
        ["Dagster run run-1", nothing + queued, nothing, "the run ended: SUCCESS"],
    )


@pytest.mark.usefixtures("platform")
def test_of_several_runs_those_behind_one_at_work_are_not_spoken_of(monkeypatch):
    code, said = waited(monkeypatch, **{"run-1": [WORKING, DONE], "run-2": [QUEUED, QUEUED, FAILED]})
    assert [("run run-2 is QUEUED" in line) for line in said[1:3]] == [False, True]
    assert (code, said[-2:]) == (
        1,
        ["the run ended: FAILURE", "run run-2 says no more; see its page in Dagster"],
    )


@pytest.mark.usefixtures("platform")
def test_a_run_that_dagster_took_is_named_though_it_did_not_take_the_next(monkeypatch):
    def launch(*_):
        if taken:
            raise Transient("Dagster did not take the run")
        taken.append(1)
        return "run-1"

    taken = []
    monkeypatch.setattr(command, "launch", launch)
    monkeypatch.setattr(command, "hour_ranges", lambda _: [(HOUR, HOUR)] * 2)
    done = say("--from", "2026-11-22T21")
    assert done.exit_code != 0
    assert "Dagster run run-1\n" in done.output
