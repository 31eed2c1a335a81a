"""What the supervisor does about what it sees: a table, and what must never be."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, epoch

from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.spike import Objectives
from spike_pipelines.domain.supervision import (
    Action,
    ActionKind,
    Driver,
    SpikeFacts,
    Verdict,
    next_action_at,
    supervise,
)

OBJECTIVES = Objectives(timedelta(seconds=30), timedelta(seconds=20), timedelta(seconds=60))


def ago(seconds):
    return HOUR - timedelta(seconds=seconds)


def driver(name="a", age=600):
    return Driver(name, ago(age))


def owned(silent=1, phase="reading", **changes):
    return epoch(1, "a", at=ago(600), heartbeat_at=ago(silent), phase=phase, **changes)


def facts(*drivers, epoch=None, recoveries=(), appender_since=HOUR - timedelta(days=1), **changes):
    return SpikeFacts("payouts", OBJECTIVES, drivers, epoch, recoveries, appender_since, **changes)


RESTART_A = Action(ActionKind.RESTART, "payouts", ("a",))
RETIRED = owned(state=EpochState.RETIRED)


def bumped(seconds):
    """The epoch that an operation gave to nobody, so long ago."""
    return epoch(2, "rewind by ann", at=ago(seconds), state=EpochState.RETIRED)


TABLE = {
    "a driver that beats is running": (facts(driver(), epoch=owned()), Verdict.RUNNING, None),
    "no driver is started": (facts(), Verdict.MISSING, Action(ActionKind.START, "payouts")),
    "the open epoch of a dead driver is retired": (
        facts(epoch=owned()), Verdict.MISSING, Action(ActionKind.START, "payouts", ("a",)),
    ),
    "a retired epoch is not retired again": (
        facts(epoch=RETIRED), Verdict.MISSING, Action(ActionKind.START, "payouts"),
    ),
    "a driver that a person's rewind has just fenced ends by itself": (
        facts(driver(), epoch=bumped(5)), Verdict.WAITING, None,
    ),
    "a driver that a rewind fenced and that does not end is replaced": (
        facts(driver(), epoch=bumped(121)), Verdict.HUNG, RESTART_A,
    ),
    "a driver that began after the rewind starts": (
        facts(driver(age=3), epoch=bumped(5)), Verdict.STARTING, None,
    ),
    "a topic made again needs a person": (
        facts(refusal=(ago(1), "topic_changed", "made again")), Verdict.BLOCKED, None,
    ),
    "lost records need a person": (facts(refusal=(ago(1), "lost", "gone")), Verdict.BLOCKED, None),
    "a young driver without an epoch starts": (facts(driver(age=100)), Verdict.STARTING, None),
    "an old driver without an epoch is restarted": (facts(driver(age=121)), Verdict.HUNG, RESTART_A),
    "a driver that is told to wait by trouble outside is left alone": (
        facts(driver(), refusal=(ago(5), "topic_missing", "create it")), Verdict.RETRYING, None,
    ),
    "a driver that stopped asking is hung, whatever it was told": (
        facts(driver(), refusal=(ago(130), "topic_missing", "create it")), Verdict.HUNG, RESTART_A,
    ),
    "a refusal of before this driver started says nothing of it": (
        facts(driver(age=121), refusal=(ago(122), "topic_missing", "create it")), Verdict.HUNG, RESTART_A,
    ),
    "silence up to the objective is no reason": (facts(driver(), epoch=owned(60)), Verdict.RUNNING, None),
    "silence beyond the objective is": (facts(driver(), epoch=owned(61)), Verdict.HUNG, RESTART_A),
    "waiting for the appender is not": (
        facts(driver(), epoch=owned(phase="waiting", batch_started_at=ago(9999))),
        Verdict.WAITING, None,
    ),
    "a driver that sees trouble outside is left alone": (
        facts(driver(), epoch=owned(problem="broker down", batch_started_at=ago(9999))),
        Verdict.RETRYING, None,
    ),
    "a batch may take three times the objective": (
        facts(driver(), epoch=owned(batch_started_at=ago(180))), Verdict.RUNNING, None,
    ),
    "a batch that takes longer is hung": (
        facts(driver(), epoch=owned(batch_started_at=ago(181))), Verdict.HUNG, RESTART_A,
    ),
    "nobody is judged while the appender does not answer": (
        facts(driver(), epoch=owned(9999), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "nor a driver that it never heard of": (
        facts(driver(age=9999), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "a dead driver is started all the same": (
        facts(appender_since=None), Verdict.MISSING, Action(ActionKind.START, "payouts"),
    ),
    "silence counts from when the appender answers again": (
        facts(driver(), epoch=owned(9999), appender_since=ago(60)), Verdict.RUNNING, None,
    ),
    "and is silence after that": (
        facts(driver(), epoch=owned(9999), appender_since=ago(61)), Verdict.HUNG, RESTART_A,
    ),
    "a start may take ten minutes": (facts(driver(), epoch=owned(phase="starting")), Verdict.STARTING, None),
    "and no longer": (
        facts(driver(), epoch=replace(owned(phase="starting"), opened_at=ago(601))), Verdict.HUNG, RESTART_A,
    ),
    "of two drivers the owner is kept": (
        facts(driver("b", 900), driver("a", 100), epoch=owned()),
        Verdict.TWO_DRIVERS, Action(ActionKind.STOP, "payouts", ("b",)),
    ),
    "of two drivers without an owner the oldest is kept": (
        facts(driver("b", 900), driver("a", 100), driver("c", 800)),
        Verdict.TWO_DRIVERS, Action(ActionKind.STOP, "payouts", ("a", "c")),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("seen", "verdict", "action"), TABLE.values(), ids=TABLE.keys())
def test_verdict_and_action(seen, verdict, action):
    decided = supervise(seen, HOUR)
    assert (decided.verdict, decided.action) == (verdict, action)
    assert decided.cause


def test_how_the_last_driver_ended_is_told():
    assert "exited with 7" in supervise(facts(last_exit="the last one exited with 7"), HOUR).cause


def test_the_first_recovery_is_at_once_and_later_ones_back_off_to_five_minutes():
    assert next_action_at([]) is None
    delays = [(next_action_at([HOUR] * n) - HOUR).total_seconds() for n in range(1, 10)]
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert next_action_at([HOUR] * 5000) == HOUR + timedelta(minutes=5)


def test_an_action_is_held_back_while_the_last_one_has_its_time_to_help():
    early = supervise(facts(recoveries=[ago(30), ago(9)]), HOUR)
    assert (early.verdict, early.action) == (Verdict.MISSING, None)
    assert "next attempt in 1 s (2 in the last hour)" in early.cause
    assert supervise(facts(recoveries=[ago(30), ago(10)]), HOUR).action is not None
