"""The commands of docs/operations.md as typed, over a real ledger."""

import re
from pathlib import Path

import pytest
import typer
from builders import BUCKET, HOUR, NEXT_HOUR
from test_operate import committed, hold, operator, positions, states
from typer.testing import CliRunner

from spike_pipelines.cli import ledger as ledger_cli
from spike_pipelines.cli import operations as operations_cli
from spike_pipelines.cli import where as where_cli
from spike_pipelines.cli.main import app
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.swap import NewSwap, Scope, SwapKind
from spike_pipelines.services.project import Projector
from spike_pipelines.services.where import Finder

pytestmark = pytest.mark.real

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()


class Reader:
    """Files of these tests have no offsets: the first one has every record."""

    def holds(self, bucket, key, partition, offset):
        assert bucket == BUCKET
        return "0000.parquet" in key


class Platform:
    def __init__(self, world):
        self.ledger, self.spikes = world.ledger, world.spikes
        self.operator = operator(world)
        self.finder = Finder(world.ledger, world.broker, Reader(), world.spikes)
        self.projector = Projector(world.ledger, world.catalog, world.publisher)


@pytest.fixture
def run(world, monkeypatch):
    for module in (operations_cli, where_cli, ledger_cli):
        monkeypatch.setattr(module, "Platform", lambda: Platform(world))
    plain = typer.Typer()
    plain.registered_commands, plain.registered_groups = app.registered_commands, app.registered_groups

    def run(*arguments):
        result = CliRunner().invoke(plain, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_a_held_batch_is_shown_with_its_ways_out_and_released(world, run):
    driver = world.driver(world.spike())
    number = hold(world, driver)
    assert f"batch {number} is held: read 6 records, the ranges have 7" in run("batch", "list", "payouts")
    shown = run("batch", "show", "payouts", str(number))
    assert f"spike batch release payouts {number} --why '…'" in shown
    assert "4 final and 1 dead-letter row, 1 record unaccounted for" in shown
    done = run("batch", "release", "payouts", str(number), "--why", "INC-42", "--who", "ann")
    assert f"batch {number} released with 1 record unaccounted for" in done
    listed = run("operations", "payouts")
    assert all(word in listed for word in ("release", "ann", "INC-42"))


def test_a_batch_that_cannot_be_released_says_why_and_is_discarded(world, run):
    driver = world.driver(world.spike())
    number = driver.stage().batch.number
    world.store.delete(BUCKET, [world.keys("staging/")[0]])
    world.settle(driver.spike)
    assert "release is refused" in run("batch", "show", "payouts", str(number))
    done = run("batch", "discard", "payouts", str(number), "--why", "gone")
    assert "payouts-topic:0: committed 0, staged 6 -> 0" in done
    assert states(world, driver.spike) == ["aborted"]


def test_replays_and_backfills_are_listed_among_what_people_did(world, run):
    driver = world.driver(world.spike())
    run("batch", "release", "payouts", str(hold(world, driver)), "--why", "INC-42", "--who", "ann")
    plan_swap(world, driver.spike)
    for listed in (run("operations", "payouts"), run("operations")):
        newest, release = [line.split() for line in listed.splitlines() if "ann" in line or "ada" in line]
        assert {"swap", "replay", "ada", "mended", "planned,", "2026-11-22T21"} <= {*newest}
        assert {"release", "ann", "INC-42"} <= {*release}
    assert "swap" not in run("operations", "other")
    newest = run("operations", "--limit", "1")
    assert "mended" in newest
    assert "INC-42" not in newest


def plan_swap(world, spike) -> None:
    asked = NewSwap(spike.name, spike.dataset.name, SwapKind.REPLAY, "ada", "mended", "1.0", Scope(HOUR), ())
    with world.ledger.begin() as tx:
        tx.add_swap(asked)


def test_who_is_the_user_and_the_host_unless_said(world, run, monkeypatch):
    monkeypatch.setenv("LOGNAME", "bob")
    number = hold(world, world.driver(world.spike()))
    run("batch", "release", "payouts", str(number), "--why", "x")
    assert world.ledger.operations(None, 1)[0].author.who.startswith("bob@")


def test_a_rewind_is_looked_at_and_then_done_once(world, run):
    driver = committed(world)
    to = ("rewind", "payouts", "--to", "payouts-topic:0:6")
    seen = run(*to, "--dry-run")
    assert "2 committed batches would be superseded" in seen
    assert positions(world, driver.spike) == [(0, 18, 18)]
    assert "2 committed batches superseded (8 final rows)" in run(*to, "--why", "x")
    assert positions(world, driver.spike) == [(0, 6, 6)]
    assert "payouts is there already" in run(*to, "--why", "x")
    assert "a rewind would change nothing" in run(*to, "--dry-run")


def test_a_rewind_names_the_swaps_that_are_under_way(world, run):
    driver = committed(world)
    with world.ledger.begin() as tx:
        new = NewSwap(
            "payouts", "payouts", SwapKind.BACKFILL, "ann", "why", "2", Scope(HOUR, NEXT_HOUR), (), (), 0
        )
        swap = tx.add_swap(new)
    told = f"swap {swap.number} (backfill of payouts) of 2026-11-22T21 by ann is under way: it gives up if"
    to = ("rewind", driver.spike.name, "--to", "payouts-topic:0:6")
    assert told in run(*to, "--dry-run")
    assert told in run(*to, "--why", "x")


@pytest.mark.parametrize("extra", [(), ("--dry-run", "--why", "x")])
def test_a_rewind_is_either_looked_at_or_done(world, run, extra):
    committed(world)
    with pytest.raises(InvalidSpec, match="--dry-run to look, or --why to do it"):
        run("rewind", "payouts", "--to", "earliest", *extra)


def test_a_loss_is_accepted_only_in_so_many_words(world, run):
    committed(world)
    world.broker.delete_records("payouts-topic", 0, before=50)
    with pytest.raises(InvalidSpec, match="say --accept-loss"):
        run("resume", "payouts", "--why", "x")
    assert "32 offsets declared lost" in run("resume", "payouts", "--accept-loss", "--why", "x")


def test_an_unknown_spike_is_told_with_those_there_are(world, run):
    committed(world)
    for command in (["batch", "list", "nope"], ["rewind", "nope", "--to", "earliest", "--dry-run"]):
        with pytest.raises(InvalidSpec, match="no application file describes nope: there are payouts"):
            run(*command)
    with pytest.raises(Refused, match="payouts has no batch 1"):
        run("batch", "show", "payouts", "1")


def test_a_record_leads_to_its_file_and_the_file_back(world, run):
    committed(world)
    found = run("where", "--offset", "payouts-topic:0:7")
    uri = re.search(r"in (s3://\S+)", found).group(1)
    assert "version 1.0" in found
    assert "payouts-topic:0[6,12)" in run("where", "--file", uri)
    with pytest.raises(InvalidSpec, match="give --offset"):
        run("where")


def test_tables_are_redone(world, run):
    committed(world)
    assert "payouts at #3: as the ledger has it" in run("ledger", "project")
    del world.catalog._tables["payouts"]
    assert "payouts at #3: 6 files added, 0 removed" in run("ledger", "project", "payouts")


def test_every_command_of_the_page_exists():
    typed = re.findall(
        r"^(?:\|.*`)?spike ([a-z]+(?: (?:list|show|release|discard|project))?)", PAGE, re.MULTILINE
    )
    assert len(typed) > 8
    for command in {*typed, "batch release", "batch discard"}:
        result = CliRunner().invoke(app, [*command.split(), "--help"])
        assert result.exit_code == 0, command
