"""The producer against a real Kafka: what it says was acknowledged is what the log has."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from waiting import until

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.domain.errors import Transient
from spike_pipelines.producer.acks import read_acks
from spike_pipelines.stack import process
from spike_pipelines.stack.parts.kafka import PORTS, Kafka
from spike_pipelines.stack.ports import remembered

pytestmark = pytest.mark.real


@contextmanager
def producer(bootstrap: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "spike_pipelines.producer", "--bootstrap", bootstrap, *options]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def run(bootstrap: str, *options: str) -> tuple[int, str]:
    with producer(bootstrap, *options) as started:
        told, _ = started.communicate(timeout=120)
        return started.returncode, told


def log_ends(broker: KafkaBroker, *topics: str) -> dict[tuple[str, int], tuple[tuple[int, int], ...]]:
    """Every partition's log as read_acks writes it."""
    found = broker.topics(topics)
    ends = {(t, index): end for t, offsets in found.items() for index, end in offsets.log_end.items()}
    return {place: ((0, end),) for place, end in ends.items() if end}


def records(ranges: Mapping[tuple[str, int], Iterable[tuple[int, int]]]) -> int:
    return sum(end - first for pieces in ranges.values() for first, end in pieces)


def has_records(broker: KafkaBroker, topic: str) -> bool:
    """A topic has no leader yet in its first moments; that is `Transient`, and asked again."""
    try:
        return bool(log_ends(broker, topic))
    except Transient:
        return False


@pytest.fixture
def broker(kafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(kafka.bootstrap)
    yield broker
    broker.close()


@pytest.fixture
def topic() -> str:
    return f"produce.{secrets.token_hex(4)}"


def test_missing_topics_are_created_and_exactly_the_records_asked_for_are_acknowledged(
    kafka, broker, topic, tmp_path
):
    acks = tmp_path / "acks.txt"
    topics = f"{topic}.a=crt.session,{topic}.b=crt.payout"
    code, told = run(
        kafka.bootstrap, "--topics", topics, "--records", "1500", "--rate", "0", "--partitions", "3",
        "--acks-file", str(acks),
    )  # fmt: skip
    assert code == 0, told
    assert f"acknowledged in all: {topic}.a 1500, {topic}.b 1500" in told
    assert len(broker.topics([f"{topic}.a"])[f"{topic}.a"].log_end) == 3
    assert read_acks(acks) == log_ends(broker, f"{topic}.a", f"{topic}.b")


def test_a_record_arrives_with_key_value_and_its_late_timestamp(kafka, topic):
    code, told = run(
        kafka.bootstrap, "--topics", f"{topic}=crt.payout", "--records", "50", "--rate", "0", "--late", "1",
        "--malformed", "1", "--partitions", "1",
    )  # fmt: skip
    assert code == 0, told
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    records = [r for batch in consumer.poll(timeout_ms=10_000).values() for r in batch]
    consumer.close()
    assert len(records) == 50
    assert all(r.key for r in records)
    assert {r.value for r in records} >= {None, b""}, "nulls and empty values are among the malformed"
    now = time.time() * 1000
    assert all(now - 3 * 3_600_000 - 60_000 < r.timestamp <= now for r in records)
    assert min(r.timestamp for r in records) < now - 3_600_000


def test_a_second_run_of_the_same_seed_makes_no_key_again(kafka, topic, tmp_path):
    options = ("--topics", f"{topic}=crt.payout", "--records", "50", "--rate", "0", "--malformed", "0")
    for _ in range(2):
        code, told = run(
            kafka.bootstrap, *options, "--partitions", "1", "--numbers-file", str(tmp_path / "n")
        )
        assert code == 0, told
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    seen = []
    until(lambda: seen.extend(r for b in consumer.poll(1000).values() for r in b) or len(seen) >= 100)
    consumer.close()
    assert len({json.loads(record.value)["payout_id"] for record in seen}) == len(seen) == 100


def test_replay_sends_a_users_own_lines(kafka, broker, topic, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"id": {n}}}\n' for n in range(20)))
    code, told = run(kafka.bootstrap, "--replay", str(path), "--topic", topic, "--key", "id", "--rate", "0")
    assert code == 0, told
    assert sum(end for ((_, end),) in log_ends(broker, topic).values()) == 20


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--replay", "none.jsonl", "--topic", "x"), "none.jsonl: no such file"),
        (("--replay", "none.jsonl"), "--replay needs --topic"),
        (("--topics", "mine"), "no events are known for 'mine'"),
    ],
)
def test_wrong_options_end_with_exit_code_1_and_the_reason(kafka, options, told):
    code, output = run(kafka.bootstrap, *options)
    assert code == 1
    assert told in output
    assert "Traceback" not in output


def test_sigterm_flushes_and_the_acks_are_the_log(kafka, broker, topic, tmp_path):
    acks = tmp_path / "acks.txt"
    options = ("--topics", f"{topic}=crt.session", "--rate", "500", "--acks-file", str(acks))
    with producer(kafka.bootstrap, *options) as started:
        until(lambda: has_records(broker, topic))
        started.send_signal(signal.SIGTERM)
        told, _ = started.communicate(timeout=20)
    assert started.returncode == 0, told
    assert read_acks(acks) == log_ends(broker, topic)


def test_outage_of_the_broker_loses_and_doubles_nothing_and_costs_no_cpu(stack_dir: Path, tmp_path):
    """The broker adapter of a long-running process goes on by itself too."""
    ports = remembered(tmp_path / "ports.json", PORTS)
    kafka = Kafka(data=stack_dir / "outage", port=ports["kafka"], controller_port=ports["kafka.controller"])
    part, log, acks = kafka.part(), tmp_path / "kafka.log", tmp_path / "acks.txt"
    node = process.launch(part, log)
    broker = KafkaBroker(kafka.bootstrap, timeout_seconds=2)
    options = ("--topics", "t=crt.session", "--rate", "300", "--acks-file", str(acks))
    try:
        process.await_ready(part, node, log)
        with producer(kafka.bootstrap, *options) as started:
            until(lambda: has_records(broker, "t"))
            process.end(part, node)
            acknowledged = records(read_acks(acks))
            with pytest.raises(Transient):
                broker.topics(["t"])
            before = cpu_seconds(started.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(timeout=6)
            assert cpu_seconds(started.pid) - before < 2.5
            node = process.launch(part, log)
            process.await_ready(part, node, log)
            until(lambda: records(read_acks(acks)) > acknowledged + 300)
            started.send_signal(signal.SIGTERM)
            told, _ = started.communicate(timeout=120)
        assert started.returncode == 0, told
        assert "Kafka does not acknowledge" in told
        assert f"acknowledged in all: t {records(read_acks(acks))}" in told
        assert read_acks(acks) == log_ends(broker, "t")
    finally:
        broker.close()
        process.end(part, node)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
