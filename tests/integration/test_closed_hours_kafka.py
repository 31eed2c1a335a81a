"""Closing hours with a real Kafka: what had arrived, open transactions among it."""

import secrets
from collections.abc import Iterator
from datetime import timedelta

import pytest
from kafka import KafkaProducer
from waiting import once_free_of

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.domain.errors import Transient
from spike_pipelines.services.close import Closer
from spike_pipelines.services.register import Registrar

pytestmark = pytest.mark.real


@pytest.fixture
def broker(kafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(kafka.bootstrap)
    yield broker
    broker.close()


@pytest.fixture
def surveyor(kafka) -> Iterator[KafkaSurveyor]:
    surveyor = KafkaSurveyor(kafka.bootstrap)
    yield surveyor
    surveyor.close()


@pytest.fixture
def closer(world, kafka, broker, surveyor):
    """Of a spike that has been there for three hours and reads two empty partitions of its own topic."""
    spike = world.spike(topic=f"closed-{secrets.token_hex(4)}")
    kafka.create_topics({spike.topic: 2})
    once_free_of(Transient, lambda: broker.topics({spike.topic}))  # a new one has no leaders at first
    Registrar(world.ledger, broker, timedelta(seconds=20)).open_epoch(spike, "a", None, "1.0")
    world.execute("UPDATE spikes SET created_at = clock_timestamp() - interval '3 hours'")
    return Closer(world.ledger, broker, surveyor, world.spikes)


@pytest.fixture
def producer(kafka) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=secrets.token_hex(4))
    producer.init_transactions()
    producer.begin_transaction()
    yield producer
    producer.abort_transaction()
    producer.close()


def commit(world, index, end):
    world.execute(f"UPDATE positions SET staged_end = {end}, committed_end = {end} WHERE partition = {index}")


def test_empty_partitions_prove_that_nothing_had_arrived(closer):
    assert closer.close()["payouts"].closed is not None


def test_records_of_an_open_transaction_had_arrived_and_are_waited_for(world, closer, producer):
    topic = world.spikes["payouts"].topic
    for _ in range(3):
        producer.send(topic, b"x", partition=1).get(timeout=20)
    (waits,) = closer.close()["payouts"].behind
    assert (waits.partition.index, waits.committed, waits.end) == (1, 0, 3)
    commit(world, 1, 2)
    assert closer.close()["payouts"].closed is None
    commit(world, 1, 3)
    assert closer.close()["payouts"].closed is not None
