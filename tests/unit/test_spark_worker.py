"""A process that does one order after the other, and never outlives who gives them."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
from waiting import until

from spike_pipelines.adapters.spark_worker import SparkWorker
from spike_pipelines.domain.errors import InvalidSpec, LeaseLost, Transient
from spike_pipelines.settings import Settings

SERVE = "from spike_pipelines.adapters.spark_worker import serve\n"
ECHO = SERVE + "import os\nserve(lambda told: f'{os.getpid()} {told.decode()}')"
HANG = SERVE + "import time\nserve(lambda told: time.sleep(60))"


def worker(tmp_path, code, **changes):
    options = {"longest_seconds": 30.0, "look_seconds": 0.05} | changes
    command = (sys.executable, "-c", code)
    return SparkWorker("backfill", Settings(state_dir=tmp_path), dict(os.environ), command, **options)


def nothing():
    pass


def test_orders_are_done_one_after_the_other_by_one_process(tmp_path):
    one = worker(tmp_path, ECHO)
    first, second = (one.do("payouts", text, nothing).split() for text in ("a", "b"))
    assert (first[1], second[1]) == (b"a", b"b")
    assert first[0] == second[0]
    one.close()
    assert not psutil.pid_exists(int(first[0]))


def test_another_spike_has_another_process(tmp_path):
    one = worker(tmp_path, ECHO)
    first, second = (one.do(spike, "a", nothing).split()[0] for spike in ("payouts", "sessions"))
    assert first != second
    assert not psutil.pid_exists(int(first))
    one.close()


@pytest.mark.parametrize(("status", "error"), [(1, Transient), (2, InvalidSpec)])
def test_one_that_fails_says_why_and_the_next_order_has_a_new_one(tmp_path, status, error):
    once = tmp_path / "once"
    code = f"""
        import os, sys, pathlib
        if not (once := pathlib.Path({str(once)!r})).exists():
            once.touch(); print("no such bucket"); sys.exit({status})
        from spike_pipelines.adapters.spark_worker import serve
        serve(bytes.decode)
    """
    one = worker(tmp_path, textwrap.dedent(code))
    with pytest.raises(error, match=r"no such bucket.*logs/backfill/payouts\.log"):
        one.do("payouts", "a", nothing)
    assert one.do("payouts", "b", nothing) == b"b"
    one.close()


def test_one_that_ends_well_without_an_answer_is_an_error(tmp_path):
    with pytest.raises(Transient, match="ended without an answer"):
        worker(tmp_path, "pass").do("payouts", "a", nothing)


def test_one_whose_lease_is_lost_is_ended(tmp_path):
    def lost():
        raise LeaseLost("over")

    one, before = worker(tmp_path, HANG), psutil.Process().children()
    with pytest.raises(LeaseLost):
        one.do("payouts", "a", lost)
    assert not set(psutil.Process().children()) - set(before)


def test_whoever_waits_is_told_how_far_it_is(tmp_path):
    code = """
        from spike_pipelines.adapters import spark_worker as w
        w.TELL_SECONDS = 0.01
        def answer(gate):
            open(gate).read()
            return "done"
        w.serve(answer, lambda: 1200)
    """
    gate, heard = tmp_path / "gate", []
    os.mkfifo(gate)

    def hear(so_far=None):
        if so_far is not None and not heard:
            heard.append(so_far)
            gate.write_text("go on")

    one = worker(tmp_path, textwrap.dedent(code))
    assert one.do("payouts", str(gate), hear) == b"done"
    assert heard == [1200]
    one.close()


def test_an_order_has_a_bound(tmp_path):
    with pytest.raises(Transient, match="choose fewer hours"):
        worker(tmp_path, HANG, longest_seconds=0.1).do("payouts", "a", nothing)


def test_it_ends_with_the_process_that_gave_the_order_also_when_that_is_killed(tmp_path):
    told = tmp_path / "pid"
    hang = (
        "from spike_pipelines.adapters import spark_worker as w\nimport os, pathlib, time\n"
        "w.END_SECONDS = 0.1\n"
        f"def answer(_): pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(60)\n"
        "w.serve(answer)"
    )
    code = (
        "import os, sys, pathlib\n"
        "from spike_pipelines.adapters.spark_worker import SparkWorker\n"
        "from spike_pipelines.settings import Settings\n"
        f"settings = Settings(state_dir=pathlib.Path({str(tmp_path)!r}))\n"
        f"command = (sys.executable, '-c', {hang!r})\n"
        "worker = SparkWorker('backfill', settings, dict(os.environ), command, 60, 60)\n"
        "worker.do('payouts', 'a', lambda: None)\n"
    )
    parent = subprocess.Popen((sys.executable, "-c", code))
    until(lambda: told.exists() and told.read_text())
    child = psutil.Process(int(told.read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
