"""What `spike dlq` and `spike retain` say to a tired person."""

from dataclasses import replace
from typing import ClassVar

import pytest
from builders import HOUR, spike
from typer.testing import CliRunner

from spike_pipelines.cli import dlq, retain
from spike_pipelines.cli.main import app
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.retention import Kind, Removal
from spike_pipelines.domain.swap import Scope, Swap, SwapKind, SwapState
from spike_pipelines.orchestration.retention import retention_metadata
from spike_pipelines.ports import ReasonCount
from spike_pipelines.services.replay import DeadLetterGroup, Replayed

SWAP = Swap(
    7, "payouts", "payouts", SwapKind.REPLAY, SwapState.SWAPPED, "ada", "why", "2.0", Scope(), HOUR, batch=40
)
DONE = Replayed(1234, 1200, 30, {"wrong_type": 4}, SWAP)


class Platform:
    """Remembers what it was asked."""

    asked: ClassVar[list] = []
    trouble: ClassVar[Exception | None] = None

    def __init__(self):
        self.spikes = {"payouts": spike()}
        self.replayer = self.retainer = self.ledger = self.publisher = self

    def groups(self, spike, scope):
        self.asked.append(scope)
        sample = ReasonCount("wrong_type", 1, b'{"n": \xff}', "n")
        return (DeadLetterGroup(HOUR, "wrong_type", 1234, sample),)

    def rehearse(self, spike, scope):
        return replace(DONE, swap=None)

    def replay(self, spike, scope, *, who, why):
        self.asked.append((scope, who, why))
        return DONE

    def show(self, spike):
        self.asked.append(("show", spike.name))
        return self.trouble

    def run(self, *, dry_run=False):
        self.asked.append(dry_run)
        yield Removal("payouts", Kind.STAGING, 12, 3 * 1024**2, 4)


@pytest.fixture
def say(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(dlq, "Platform", Platform)
    monkeypatch.setattr(retain, "Platform", Platform)
    Platform.asked = []
    return lambda *words: CliRunner().invoke(app, words)


def test_dead_letters_are_shown_with_one_of_each(say):
    done = say("dlq", "list", "payouts", "--hour", "2026-11-22T21", "--reason", "wrong_type")
    assert done.exit_code == 0, done.output
    for word in ("2026-11-22T21", "wrong_type", "1,234", '{"n": \\xff}'):
        assert word in done.output
    (scope,) = Platform.asked
    assert (scope.since, scope.reason) == (HOUR, "wrong_type")


def test_a_dry_run_says_what_would_become_of_them_and_asks_for_no_reason(say):
    done = say("dlq", "replay", "payouts", "--dry-run")
    assert (
        "1,234 dead letters would become 1,200 rows, 30 filtered, 4 dead letters (wrong_type 4)"
        in done.output
    )
    assert Platform.asked == []


def test_a_replay_needs_a_why_and_shows_the_outcome_to_readers(say):
    refused = say("dlq", "replay", "payouts")
    assert refused.exit_code == 1
    assert "--why" in refused.output
    done = say("dlq", "replay", "payouts", "--why", "mended", "--who", "ada")
    assert Platform.asked == [(Scope(), "ada", "mended"), ("show", "payouts")]
    assert "swap 7, batch 40, swapped" in done.output
    assert "committed;" not in done.output


def test_a_replay_that_readers_cannot_see_yet_is_committed_all_the_same(say, monkeypatch):
    monkeypatch.setattr(Platform, "trouble", Transient("the catalog is down"))
    done = say("dlq", "replay", "payouts", "--why", "mended")
    assert done.exit_code == 0
    assert "committed; the next appender run shows it to readers: the catalog is down" in done.output


def test_a_spike_that_is_none_is_answered_with_those_there_are(say):
    done = say("dlq", "list", "payoust")
    assert done.exit_code == 1
    assert "there are payouts" in done.output


def test_retention_says_objects_and_bytes_by_kind(say):
    done = say("retain", "--dry-run")
    assert Platform.asked == [True]
    for word in ("orphaned staging", "12", "3 MiB", "would be removed"):
        assert word in done.output


def test_the_run_of_the_schedule_carries_the_same_table():
    found = retention_metadata([Removal("a", Kind.STAGING, 2, 5, 1), Removal("a", Kind.SUPERSEDED, 1, 7)])
    assert (found["objects"], found["bytes"]) == (3, 12)
    assert "| a | orphaned staging | 2 | 5 | 1 |" in found["by kind"].value
