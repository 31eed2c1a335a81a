"""What every Broker does: the real one on a real Kafka, and the one in memory."""

import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from topics import await_leaders, create_topic
from waiting import until

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.memory_broker import MemoryBroker
from spike_pipelines.domain.errors import TopicChanged, TopicMissing, Transient
from spike_pipelines.domain.offsets import Partition
from spike_pipelines.ports import Broker

NOW = datetime.now(UTC).replace(microsecond=0)


class Admin(Protocol):
    """The producer's and the administrator's side, which the port does not have."""

    def create(self, topic: str, partitions: int = 1) -> None: ...
    def add_partitions(self, topic: str, partitions: int) -> None: ...
    def delete(self, topic: str) -> None: ...
    def append(self, topic: str, partition: int, *timestamps: datetime) -> None: ...
    def append_transaction(self, topic: str, partition: int, *timestamps: datetime) -> None: ...
    def delete_records(self, topic: str, partition: int, before: int) -> None: ...


class MemoryAdmin:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> object:
        return getattr(self._broker, name)

    def append_transaction(self, topic: str, partition: int, *timestamps: datetime) -> None:
        self._broker.append(topic, partition, *timestamps)
        self._broker.append_control(topic, partition)


class KafkaAdmin:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", max_block_ms=10_000)

    def create(self, topic: str, partitions: int = 1) -> None:
        create_topic(self._admin, topic, partitions)

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions({topic: partitions})
        until(lambda: len(self._admin.describe_topics([topic])[0]["partitions"]) == partitions)
        await_leaders(self._admin, topic, partitions)

    def delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])
        until(lambda: topic not in self._admin.list_topics())

    def append(self, topic: str, partition: int, *timestamps: datetime) -> None:
        _send(self._producer, topic, partition, timestamps)
        self._producer.flush(timeout=10)

    def append_transaction(self, topic: str, partition: int, *timestamps: datetime) -> None:
        producer = KafkaProducer(bootstrap_servers=self._bootstrap, transactional_id=secrets.token_hex(4))
        producer.init_transactions()
        producer.begin_transaction()
        _send(producer, topic, partition, timestamps)
        producer.commit_transaction()
        producer.close()
        # The commit's marker is written just after the commit is answered.
        place, end = TopicPartition(topic, partition), self._end(topic, partition)
        until(lambda: self._end(place.topic, place.partition) >= max(end, len(timestamps) + 1))

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        self._admin.delete_records({TopicPartition(topic, partition): before})

    def close(self) -> None:
        self._producer.close()
        self._admin.close()

    def _end(self, topic: str, partition: int) -> int:
        place = TopicPartition(topic, partition)
        return self._admin.list_partition_offsets({place: -1})[place].offset


def _send(producer: KafkaProducer, topic: str, partition: int, timestamps: tuple[datetime, ...]) -> None:
    for at in timestamps:
        producer.send(topic, value=b"x", partition=partition, timestamp_ms=round(at.timestamp() * 1000))


@pytest.fixture(scope="module")
def kafka_admin(kafka) -> Iterator[KafkaAdmin]:
    admin = KafkaAdmin(kafka.bootstrap)
    yield admin
    admin.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.real)])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Broker, Admin]]:
    if request.param == "memory":
        broker = MemoryBroker()
        yield broker, MemoryAdmin(broker)
        return
    real = KafkaBroker(request.getfixturevalue("kafka").bootstrap)
    yield real, request.getfixturevalue("kafka_admin")
    real.close()


@pytest.fixture
def broker(pair) -> Broker:
    return pair[0]


@pytest.fixture
def admin(pair) -> Admin:
    return pair[1]


@pytest.fixture
def topic() -> str:
    return f"broker.{secrets.token_hex(4)}"


def partitions(broker: Broker, topic: str) -> tuple[Partition, ...]:
    return broker.topics([topic])[topic].partitions()


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_missing_topic_is_not_in_the_answer(broker, admin, topic):
    admin.create(topic)
    assert list(broker.topics([topic, f"{topic}.missing"])) == [topic]
    assert broker.topics([]) == {}


def test_log_starts_and_ends_of_all_partitions_in_one_answer(broker, admin, topic):
    admin.create(topic, partitions=3)
    admin.append(topic, 0, at(0), at(1))
    admin.append(topic, 2, at(0))
    found = broker.topics([topic])[topic]
    assert dict(found.log_start) == {0: 0, 1: 0, 2: 0}
    assert dict(found.log_end) == {0: 2, 1: 0, 2: 1}
    assert [p.index for p in found.partitions()] == [0, 1, 2]


def test_topic_id_is_written_as_kafkas_tools_write_it(broker, admin, topic):
    admin.create(topic)
    assert len(broker.topics([topic])[topic].topic_id) == 22


def test_topic_made_again_has_another_id_and_its_old_partitions_are_refused(broker, admin, topic):
    admin.create(topic)
    admin.append(topic, 0, at(0))
    (old,) = partitions(broker, topic)
    admin.delete(topic)
    assert broker.topics([topic]) == {}
    with pytest.raises(TopicMissing, match=topic):
        broker.offsets_at([old], at(0))
    admin.create(topic)
    (new,) = partitions(broker, topic)
    assert new.topic_id != old.topic_id
    with pytest.raises(TopicChanged, match=old.topic_id):
        broker.offsets_at([old], at(0))


def test_added_partition_appears(broker, admin, topic):
    admin.create(topic)
    assert len(partitions(broker, topic)) == 1
    admin.add_partitions(topic, 2)
    assert [p.index for p in partitions(broker, topic)] == [0, 1]


def test_truncated_log_starts_later(broker, admin, topic):
    admin.create(topic)
    admin.append(topic, 0, *(at(n) for n in range(5)))
    admin.delete_records(topic, 0, before=3)
    assert dict(broker.topics([topic])[topic].log_start) == {0: 3}


def test_log_truncated_to_its_end_has_its_end_at_any_time(broker, admin, topic):
    admin.create(topic)
    admin.append(topic, 0, at(0), at(1))
    admin.delete_records(topic, 0, before=2)
    (p,) = partitions(broker, topic)
    assert broker.offsets_at([p], at(0)) == {p: 2}


def test_empty_partition_has_its_end_at_any_time(broker, admin, topic):
    admin.create(topic, partitions=2)
    admin.append(topic, 0, at(0))
    full, empty = partitions(broker, topic)
    assert broker.offsets_at([full, empty], at(0)) == {full: 0, empty: 0}


def test_control_records_take_an_offset(broker, admin, topic):
    admin.create(topic)
    admin.append_transaction(topic, 0, at(0), at(1))
    assert dict(broker.topics([topic])[topic].log_end) == {0: 3}


def test_offset_at_a_time_is_the_first_that_is_not_older(broker, admin, topic):
    admin.create(topic, partitions=2)
    admin.append(topic, 0, at(0), at(10), at(20))
    admin.append(topic, 1, at(-60))
    first, second = partitions(broker, topic)
    assert broker.offsets_at([first, second], at(10)) == {first: 1, second: 1}
    assert broker.offsets_at([first], at(10.0005)) == {first: 2}
    assert broker.offsets_at([first], at(21)) == {first: 3}
    assert broker.offsets_at([first], datetime(1969, 1, 1, tzinfo=UTC)) == {first: 0}


def test_late_record_does_not_hide_an_earlier_offset(broker, admin, topic):
    admin.create(topic)
    admin.append(topic, 0, at(30), at(0), at(40))
    (p,) = partitions(broker, topic)
    assert broker.offsets_at([p], at(5)) == {p: 0}


def test_broker_that_is_down_in_memory_is_transient():
    broker = MemoryBroker()
    broker.up = False
    with pytest.raises(Transient):
        broker.topics(["any"])


def test_nobody_at_the_address_is_transient_and_names_the_setting():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(Transient, match=f"{address}.*SPIKE_KAFKA_BOOTSTRAP"):
        KafkaBroker(address, timeout_seconds=1).topics(["any"])
    assert time.monotonic() - began < 8


def test_broker_that_accepts_and_never_answers_is_transient_within_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = KafkaBroker(f"127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=1)
        began = time.monotonic()
        with pytest.raises(Transient):
            broker.topics(["any"])
        assert time.monotonic() - began < 8
