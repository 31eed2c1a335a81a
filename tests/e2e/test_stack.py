"""What a person is promised, on the whole stack: records arrive, and streams come back by themselves.

That killed drivers and runs are replaced, and that two drivers settle on one, `test_chaos` shows.
"""

import signal
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from dagster_ui import Dagster
from kafka import KafkaProducer
from leaks import arguments_with_secrets, files_with_secrets, secrets_in_environment

from spike_pipelines import read as reading
from spike_pipelines.domain.exits import Exit
from spike_pipelines.stack import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def audited(stack) -> list[str]:
    platform = stack.platform
    findings = [*platform.auditor.run(), *platform.deep_auditor.run()]
    assert len(findings) >= 11
    return [f"{f.invariant}: {f.figure} {f.breaches}" for f in findings if not f.ok]


def published(stack, dataset) -> bool:
    state = next(d for d in stack.platform.ledger.datasets() if d.name == dataset)
    return 0 < state.published == state.sequence


def test_records_reach_readers_and_every_invariant_holds(stack, spike, spec):
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    frame = reading.read(spec.dataset.name)
    assert len(frame) > 0
    assert not frame.duplicated(["kafka_partition", "kafka_offset"]).any()
    assert audited(stack) == []


def test_no_secret_is_in_logs_run_config_event_log_or_process_list(stack, spike, spec):
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    assert files_with_secrets(stack.folder) == []
    assert arguments_with_secrets(stack.folder) == []
    told = secrets_in_environment(stack.folder, stack.driver(spike).pid)
    assert told == {"s3-access-key", "s3-secret-key"}


def test_bad_records_are_kept_with_their_bytes_and_the_stream_goes_on(stack, spike, spec):
    producer = KafkaProducer(
        bootstrap_servers=stack.platform.settings.require("kafka_bootstrap"), max_request_size=2_000_000
    )
    values = {
        "malformed_json": b'{"payout_id": ',
        "empty_value": b"",
        "null_value": None,
        "wrong_type": b'{"amount": []}',
    }
    sent = {name: producer.send(spec.topic, value, key=b"bad").get(30) for name, value in values.items()}
    large = producer.send(spec.topic, b'{"padding": "' + b"x" * 900_000 + b'"}').get(30)
    producer.close()
    wanted = {(m.partition, m.offset): name for name, m in sent.items()}
    wanted[large.partition, large.offset] = "null_in_required_column"

    def found() -> dict:
        frame = reading.dead_letters(spec.dataset.name)
        rows = zip(frame["kafka_partition"], frame["kafka_offset"], frame["reason"], strict=True)
        return {(p, o): reason for p, o, reason in rows if (p, o) in wanted}

    stack.await_("dead letters", lambda: len(found()) == len(wanted))
    assert found() == wanted


def test_a_driver_that_hangs_is_replaced(stack, spike):
    epoch, driver = stack.epoch(spike), stack.driver(spike)
    driver.send_signal(signal.SIGSTOP)
    stack.await_("a newer epoch", lambda: stack.epoch(spike) > epoch)
    stack.await_("the hung one is gone", lambda: not driver.is_running())
    stack.await_commit(spike)
    dagster = Dagster(running.find(stack.folder).link)
    stack.await_("the recovery is green in Dagster", lambda: dagster.runs("recovery")[:1] == ["SUCCESS"])


def test_a_driver_whose_jvm_alone_hangs_is_replaced(stack, spike):
    """Its heartbeat is a Python thread, and goes on."""
    epoch, driver = stack.epoch(spike), stack.driver(spike)
    jvms = [child for child in driver.children(recursive=True) if child.name() == "java"]
    assert jvms
    for jvm in jvms:
        jvm.send_signal(signal.SIGSTOP)
    stack.await_("a newer epoch", lambda: stack.epoch(spike) > epoch)
    stack.await_("the hung one is gone", lambda: not driver.is_running())
    stack.await_commit(spike)
    noted = stack.platform.ledger.recoveries(datetime.now(UTC) - timedelta(hours=1))[spike]
    assert "wait to be read" in noted[-1].cause or "one batch has taken" in noted[-1].cause


def test_a_woken_driver_is_fenced_for_good(stack, spike):
    """Out of the supervisor's reach, as on a node that is cut off: it hangs, loses the spike, and wakes."""
    epoch, driver = stack.epoch(spike), stack.driver(spike)
    driver.send_signal(signal.SIGSTOP)
    owner = stack.platform.ledger.epochs()[spike].driver
    with stack.platform.ledger.begin() as tx:
        assert tx.retire_epoch(spike, owner)
    driver.send_signal(signal.SIGCONT)
    stack.await_("it ends", lambda: not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE)
    stack.await_("its exit is known", lambda: exits_of(stack)[owner] is not None)
    assert exits_of(stack)[owner] == Exit.FENCED
    stack.await_("a newer epoch", lambda: stack.epoch(spike) > epoch)
    stack.await_commit(spike)


def exits_of(stack) -> dict:
    return {d.driver: d.exit_code for d in stack.platform.cluster.drivers()}


@pytest.mark.parametrize("part", ["kafka", "postgres", "appender", "s3"])
def test_an_outage_is_told_and_the_stream_goes_on_after_it(stack, spike, part):
    stack.run("stack", "stop", part)
    try:
        stack.await_("a verdict that is not OK", lambda: stack.verdict(spike)[0] not in {"OK", "IDLE"})
        _, sentence = stack.verdict(spike)
        assert sentence
    finally:
        stack.run("stack", "start", part)
    stack.await_commit(spike)


def test_a_rewind_fences_the_driver_and_all_is_read_again_without_anyone(stack, spike, spec):
    epoch, committed, driver = stack.epoch(spike), stack.committed(spike), stack.driver(spike)
    said = stack.run("rewind", spike, "--to", "earliest", "--why", "a test", "--who", "ann")
    assert "committed batches superseded" in said
    stack.await_("the fenced driver ends", lambda: not driver.is_running())
    stack.await_("the next driver's epoch", lambda: stack.epoch(spike) > epoch + 1)
    stack.await_("all is committed again", lambda: stack.committed(spike) > committed)
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    frame = reading.read(spec.dataset.name)
    assert not frame.duplicated(["kafka_partition", "kafka_offset"]).any()
    assert audited(stack) == []
    row = frame.iloc[0]
    place = f"{spec.topic}:{row['kafka_partition']}:{row['kafka_offset']}"
    found = stack.run("where", "--offset", place)
    assert "as a final row" in found
    assert "by Dagster run " in found
    assert "superseded at #" in found
    assert "ann" in stack.run("operations", spike)


def test_after_a_restart_all_goes_on_from_the_same_data(stack, spike):
    committed = stack.committed(spike)
    stack.run("down")
    stack.up()
    assert stack.committed(spike) >= committed
    stack.await_commit(spike)
    assert audited(stack) == []
