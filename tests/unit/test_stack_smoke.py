"""When a smoke run has proved something: each way of passing without that is refused."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from waiting import until

from spike_pipelines.services.audit import Finding
from spike_pipelines.stack.smoke import Marks, Summary, balance, unrecovered

GOOD = Summary(
    produced=100,
    expected=100,
    rows=90,
    filtered=10,
    faults=["driver of payouts", "appender run"],
    findings=[Finding("I1", "no loss", "0")],
)

BAD = {
    "a record is missing": {"missing": 1},
    "a record is there twice": {"duplicated": 1},
    "fewer were produced than asked for": {"produced": 99},
    "more were produced than asked for": {"produced": 101},
    "nothing was produced": {"produced": 0, "expected": 0},
    "there was no fault": {"faults": []},
    "a fault was not recovered from": {"unrecovered": ["no new epoch"]},
    "nothing was audited": {"findings": []},
    "an audit found a breach": {"findings": [Finding("I1", "no loss", "1", ("offset 7 is missing",))]},
    "an audit could not be made": {"findings": [Finding("I1", "no loss", "?", observed=False)]},
}


def test_a_run_that_lost_nothing_and_recovered_is_ok():
    assert GOOD.ok
    assert GOOD.line().startswith("smoke ok: 100 produced")


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_run_that_proves_less_failed(change):
    assert not replace(GOOD, **change).ok


BEFORE = Marks(epoch=1, token=5, recoveries=0)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Marks(2, 6, 1), []),
        (Marks(1, 6, 1), ["no new epoch"]),
        (Marks(2, 5, 1), ["no new lease"]),
        (Marks(2, 6, 0), ["supervisor did nothing"]),
        (BEFORE, ["no new epoch", "supervisor did nothing", "no new lease"]),
    ],
)
def test_a_fault_that_nothing_recovered_from_is_named(after, words):
    found = unrecovered(BEFORE, after)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


# `spike`, as far as these commands call it: it notes its calls, and does not come up until it is killed.
FAKE = """
import pathlib, signal, sys, time
with open(sys.argv[1], "a") as calls:
    calls.write(sys.argv[2] + "\\n")
if sys.argv[2] == "up":
    time.sleep(60)
"""
COMMAND = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under `nohup`
from spike_pipelines.cli.main import app
from spike_pipelines.stack import smoke
from spike_pipelines.stack.chaos import field
smoke.SPIKE = field.SPIKE = (sys.executable, sys.argv[1], sys.argv[2])
app([sys.argv[3]])
"""


@pytest.mark.parametrize("command", ["smoke", "chaos"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_ends_its_stack(tmp_path, command, number):
    (tmp_path / "fake.py").write_text(FAKE)
    calls = tmp_path / "calls"
    calls.touch()
    env = os.environ | {"TMPDIR": str(tmp_path), "SPIKE_STATE_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-c", COMMAND, tmp_path / "fake.py", calls, command]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as run:
        until(lambda: calls.read_text() == "up\n" or run.poll() is not None)
        assert run.poll() is None
        run.send_signal(number)
        assert run.wait(60) != 0
    assert calls.read_text() == "up\ndown\n"


A, B, C = (0, 0), (0, 1), (1, 0)


@pytest.mark.parametrize(
    ("produced", "seen", "filtered", "counted"),
    [
        ({A, B, C}, [A, B, C], 0, (0, 0)),
        ({A, B, C}, [A, C], 1, (0, 0)),
        ({A, B, C}, [A, C], 0, (1, 0)),
        ({A, B, C}, [A, B, C], 1, (1, 0)),
        ({A, B}, [A, B, C], 0, (1, 0)),
        ({A, B}, [A, C], 1, (1, 0)),
        ({A, B}, [A, B, A], 0, (0, 1)),
        ({A, B}, [A, A], 1, (0, 1)),
        ({A, B}, [], 0, (2, 0)),
    ],
)
def test_every_record_is_held_against_what_was_produced(produced, seen, filtered, counted):
    assert balance(produced, seen, filtered) == counted
