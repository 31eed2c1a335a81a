"""What the supervisor does about what it sees: a table, and what must never be."""

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import HOUR, epoch

from spike_pipelines.domain.epochs import EpochState, Phase
from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.observed import DriverState, ObservedDriver, Recovery, Refusal
from spike_pipelines.domain.spike import Objectives
from spike_pipelines.domain.supervision import (
    MENDED,
    Action,
    ActionKind,
    SpikeFacts,
    Verdict,
    last_exit,
    next_action_at,
    supervise,
)

OBJECTIVES = Objectives(timedelta(seconds=30), timedelta(seconds=20), timedelta(seconds=60))


def ago(seconds):
    return HOUR - timedelta(seconds=seconds)


def driver(name="a", age=600, state=DriverState.RUNNING, **changes):
    return ObservedDriver("payouts", name, state, ago(age), **changes)


def ended(name="a", code=7):
    return driver(name, state=DriverState.EXITED, exit_code=code)


def owned(silent=1, phase=Phase.READING, **changes):
    return epoch(1, "a", at=ago(600), heartbeat_at=ago(silent), phase=phase, **changes)


def facts(*drivers, epoch=None, recoveries=(), appender_since=HOUR - timedelta(days=1), **changes):
    return SpikeFacts("payouts", OBJECTIVES, drivers, epoch, recoveries, appender_since, **changes)


def refused(seconds, code, sentence="create it"):
    return Refusal(ago(seconds), code, sentence, "a")


def recovered(*seconds, verdict=Verdict.MISSING, cause="one batch has taken 4 min so far"):
    return [Recovery("payouts", ago(s), "start", cause, verdict) for s in seconds]


RESTART_A = Action(ActionKind.RESTART, "payouts", ("a",))
RETIRED = owned(state=EpochState.RETIRED)


def bumped(seconds):
    """The epoch that an operation gave to nobody, so long ago."""
    return epoch(2, "rewind by ann", at=ago(seconds), state=EpochState.RETIRED)


TABLE = {
    "a driver that beats is running": (facts(driver(), epoch=owned()), Verdict.RUNNING, None),
    "what cannot be started until a person acts is not tried": (
        facts(obstacle="no token for payouts"), Verdict.BLOCKED, None,
    ),
    "a driver that runs needs nothing to be started": (
        facts(driver(), epoch=owned(), obstacle="no token for payouts"), Verdict.RUNNING, None,
    ),
    "no driver is started": (facts(), Verdict.MISSING, Action(ActionKind.START, "payouts")),
    "the open epoch of a driver that was seen to end is retired": (
        facts(ended(), epoch=owned()), Verdict.MISSING, Action(ActionKind.START, "payouts", ("a",)),
    ),
    "a driver out of sight that was heard just now may live": (
        facts(epoch=owned(2)), Verdict.UNKNOWN, None,
    ),
    "also when another one was seen to end": (facts(ended("b"), epoch=owned(2)), Verdict.UNKNOWN, None),
    "a driver out of sight and not heard for as long as the objective is gone": (
        facts(epoch=owned(61)), Verdict.MISSING, Action(ActionKind.START, "payouts", ("a",)),
    ),
    "a driver out of sight may live while nobody listens": (
        facts(epoch=owned(9999), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "and until it had the time to be heard again": (
        facts(epoch=owned(9999), appender_since=ago(60)), Verdict.UNKNOWN, None,
    ),
    "a driver that was seen to end is replaced while nobody listens": (
        facts(ended(), epoch=owned(2), appender_since=None),
        Verdict.MISSING, Action(ActionKind.START, "payouts", ("a",)),
    ),
    "a driver whose record cannot be read is not judged": (
        facts(driver(state=DriverState.UNKNOWN), epoch=owned(9999)), Verdict.UNKNOWN, None,
    ),
    "nor its spike's other driver": (
        facts(driver("b", state=DriverState.UNKNOWN), driver(), epoch=owned(9999)), Verdict.UNKNOWN, None,
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
        facts(refusal=refused(1, "topic_changed")), Verdict.BLOCKED, None,
    ),
    "an application file that was moved under its rows needs a person": (
        facts(refusal=refused(1, "spec_changed")), Verdict.BLOCKED, None,
    ),
    "lost records need a person": (facts(refusal=refused(299, "lost")), Verdict.BLOCKED, None),
    "a blocked spike is asked for again after five minutes, as a person may have decided": (
        facts(refusal=refused(300, "lost")), Verdict.BLOCKED, Action(ActionKind.START, "payouts"),
    ),
    "and not more often if the driver ended before it asked": (
        facts(refusal=refused(900, "lost"), recoveries=recovered(299)), Verdict.BLOCKED, None,
    ),
    "a young driver without an epoch starts": (facts(driver(age=100)), Verdict.STARTING, None),
    "an old driver without an epoch is restarted": (facts(driver(age=121)), Verdict.HUNG, RESTART_A),
    "a driver that is told to wait by trouble outside is left alone": (
        facts(driver(), refusal=refused(5, "topic_missing")), Verdict.RETRYING, None,
    ),
    "a driver whose token is refused is not restarted: another would be refused too": (
        facts(driver(), refusal=refused(30, "unauthorized")), Verdict.BLOCKED, None,
    ),
    "nor when that came while it had an epoch": (
        facts(driver(), epoch=owned(9999), refusal=refused(5, "unauthorized")), Verdict.BLOCKED, None,
    ),
    "a driver that is heard speaks with a token, whatever was refused": (
        facts(driver(), epoch=owned(), refusal=refused(5, "unauthorized")), Verdict.RUNNING, None,
    ),
    "the refused token of another driver is not this one's": (
        facts(driver("b"), refusal=refused(5, "unauthorized")), Verdict.HUNG,
        Action(ActionKind.RESTART, "payouts", ("b",)),
    ),
    "a driver whose token was refused and that asks no more is hung": (
        facts(driver(), epoch=owned(9999), refusal=refused(121, "unauthorized")), Verdict.HUNG, RESTART_A,
    ),
    "one that gave up over its token is not started again at once": (
        facts(ended(), refusal=refused(299, "unauthorized")), Verdict.BLOCKED, None,
    ),
    "a token that was refused once says nothing of a driver that was heard since and was killed": (
        facts(ended(), epoch=owned(20), refusal=refused(30, "unauthorized")), Verdict.MISSING,
        Action(ActionKind.START, "payouts", ("a",)),
    ),
    "a driver that ended well is started again: no run of a spike is bounded": (
        facts(ended(code=0)), Verdict.MISSING, Action(ActionKind.START, "payouts"),
    ),
    "but after five minutes, as somebody may have seen to it": (
        facts(ended(), refusal=refused(300, "unauthorized")), Verdict.BLOCKED,
        Action(ActionKind.START, "payouts"),
    ),
    "another driver's end is no matter of that token": (
        facts(ended(), driver("b", age=9, state=DriverState.EXITED, exit_code=1),
              refusal=refused(99, "unauthorized")), Verdict.MISSING, Action(ActionKind.START, "payouts"),
    ),
    "a driver that stopped asking is hung, whatever it was told": (
        facts(driver(), refusal=refused(130, "topic_missing")), Verdict.HUNG, RESTART_A,
    ),
    "a refusal of before this driver started says nothing of it": (
        facts(driver(age=121), refusal=refused(122, "topic_missing")), Verdict.HUNG, RESTART_A,
    ),
    "silence up to the objective is no reason": (facts(driver(), epoch=owned(60)), Verdict.RUNNING, None),
    "silence beyond the objective is": (facts(driver(), epoch=owned(61)), Verdict.HUNG, RESTART_A),
    "waiting for the appender is not": (
        facts(driver(), epoch=owned(phase=Phase.WAITING, batch_started_at=ago(9999))),
        Verdict.WAITING, None,
    ),
    "nor is it once its engine stands still for that long": (
        facts(driver(), epoch=owned(phase=Phase.WAITING, progress_at=ago(9999)), unread=5),
        Verdict.WAITING, None,
    ),
    "a driver that sees trouble outside and tries again is left alone": (
        facts(driver(), epoch=owned(phase=Phase.RETRYING, problem="broker down", batch_started_at=ago(9999))),
        Verdict.RETRYING, None,
    ),
    "a problem is told until the first success after it": (
        facts(driver(), epoch=owned(problem="S3 hiccup", progress_at=ago(2))), Verdict.RETRYING, None,
    ),
    "its file is another one since it began, which may mend what it sees: another driver reads it": (
        facts(driver(), epoch=owned(phase=Phase.RETRYING, problem="no such column"), version="mended"),
        Verdict.DRIFTED, RESTART_A,
    ),
    "also where it goes on between two failures": (
        facts(driver(), epoch=owned(problem="no such column", progress_at=ago(2)), version="mended"),
        Verdict.DRIFTED, RESTART_A,
    ),
    "one that works is left alone, whatever its file says by now": (
        facts(driver(), epoch=owned(progress_at=ago(2)), version="newer"), Verdict.RUNNING, None,
    ),
    "one that waits for the appender too": (
        facts(driver(), epoch=owned(phase=Phase.WAITING), version="newer"), Verdict.WAITING, None,
    ),
    "an old problem does not excuse a batch that takes hours": (
        facts(driver(), epoch=owned(phase=Phase.STAGING, problem="S3 hiccup", batch_started_at=ago(9999))),
        Verdict.HUNG, RESTART_A,
    ),
    "nor a start that takes hours": (
        facts(driver(), epoch=replace(owned(phase=Phase.STARTING, problem="x"), opened_at=ago(9999))),
        Verdict.HUNG, RESTART_A,
    ),
    "nor an engine that stands still": (
        facts(driver(), epoch=owned(problem="S3 hiccup", progress_at=ago(9999)), unread=1),
        Verdict.HUNG, RESTART_A,
    ),
    "an engine that stands still while records wait is hung, though the driver beats": (
        facts(driver(), epoch=owned(progress_at=ago(62)), unread=1), Verdict.HUNG, RESTART_A,
    ),
    "standing still up to the objective is no reason": (
        facts(driver(), epoch=owned(progress_at=ago(61)), unread=1), Verdict.RUNNING, None,
    ),
    "nor is it where nothing waits": (
        facts(driver(), epoch=owned(progress_at=ago(9999)), unread=0), Verdict.RUNNING, None,
    ),
    "nor while Kafka does not answer": (
        facts(driver(), epoch=owned(progress_at=ago(9999))), Verdict.RUNNING, None,
    ),
    "nor is what nobody could hear since": (
        facts(driver(), epoch=owned(9999, progress_at=ago(10_000)), unread=1, appender_since=ago(5)),
        Verdict.RUNNING, None,
    ),
    "a batch may take three times the objective": (
        facts(driver(), epoch=owned(batch_started_at=ago(181))), Verdict.RUNNING, None,
    ),
    "a batch that takes longer is hung": (
        facts(driver(), epoch=owned(batch_started_at=ago(182))), Verdict.HUNG, RESTART_A,
    ),
    "after a restart for that it may take twice as long": (
        facts(driver(), epoch=owned(batch_started_at=ago(361)), recoveries=recovered(900, verdict="HUNG")),
        Verdict.RUNNING, None,
    ),
    "and no longer than that": (
        facts(driver(), epoch=owned(batch_started_at=ago(362)), recoveries=recovered(900, verdict="HUNG")),
        Verdict.HUNG, RESTART_A,
    ),
    "other recoveries give it no more time": (
        facts(driver(), epoch=owned(batch_started_at=ago(182)), recoveries=recovered(900, cause="killed")),
        Verdict.HUNG, RESTART_A,
    ),
    "nobody is judged while the appender does not answer": (
        facts(driver(), epoch=owned(9999), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "nor a driver that it never heard of": (
        facts(driver(age=9999), appender_since=None), Verdict.UNKNOWN, None,
    ),
    "a spike without an epoch is started all the same": (
        facts(appender_since=None), Verdict.MISSING, Action(ActionKind.START, "payouts"),
    ),
    "silence counts from when the appender answers again": (
        facts(driver(), epoch=owned(9999), appender_since=ago(60)), Verdict.RUNNING, None,
    ),
    "and is silence after that": (
        facts(driver(), epoch=owned(9999), appender_since=ago(61)), Verdict.HUNG, RESTART_A,
    ),
    "a start may take ten minutes": (
        facts(driver(), epoch=owned(phase=Phase.STARTING)), Verdict.STARTING, None,
    ),
    "and no longer": (
        facts(driver(), epoch=replace(owned(phase=Phase.STARTING), opened_at=ago(602))),
        Verdict.HUNG, RESTART_A,
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
    assert action is None or verdict in MENDED
    assert decided.cause


def test_how_the_last_driver_ended_is_told():
    assert "exited with 2 (INVALID: " in supervise(facts(ended(code=2)), HOUR).cause


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_told_with_its_name(code):
    assert f"exited with {code.value} ({code.name}: " in last_exit([ended(code=code)])


def test_how_the_newest_driver_ended_is_said_in_words():
    newer, older = driver("b", 1, DriverState.EXITED, exit_code=1), ended(code=7)
    assert last_exit([driver()]) is None
    assert last_exit([newer, older]).startswith("the last one exited with 1 ")
    assert last_exit([ended(code=7)]) == "the last one exited with 7 (no code of a driver: see its log)"
    assert last_exit([ended(code=-15)]) == "the last one was killed by signal 15"
    assert last_exit([ended(code=None)]) == "the last one vanished"


def test_the_first_recovery_is_at_once_and_later_ones_back_off_to_five_minutes():
    assert next_action_at([]) is None
    delays = [(next_action_at(recovered(*[0] * n)) - HOUR).total_seconds() for n in range(1, 10)]
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert next_action_at(recovered(*[0] * 5000)) == HOUR + timedelta(minutes=5)


def test_an_action_is_held_back_while_the_last_one_has_its_time_to_help():
    early = supervise(facts(recoveries=recovered(30, 9)), HOUR)
    assert (early.verdict, early.action) == (Verdict.MISSING, None)
    assert "next attempt in 1 s (2 in the last hour)" in early.cause
    assert supervise(facts(recoveries=recovered(30, 10)), HOUR).action is not None
