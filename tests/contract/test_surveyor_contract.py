"""What every Surveyor and OffsetMirror does: the real ones on a real Kafka, and the one in memory."""

import secrets
from contextlib import contextmanager
from datetime import timedelta

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from test_broker_contract import KafkaAdmin, MemoryAdmin, at
from waiting import until

from spike_pipelines.adapters.kafka_mirror import KafkaMirror
from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.adapters.memory_broker import MemoryBroker
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.offsets import Partition, RecordTime
from spike_pipelines.ports import FirstRecords


class Memory:
    """Broker in memory, with what an administrator does beside it."""

    def __init__(self):
        self.surveyor = self.mirror = MemoryBroker()
        self.admin = MemoryAdmin(self.surveyor)

    def keep(self, topic, retention):
        self.surveyor.retention[topic] = retention

    def keep_bytes(self, topic):
        self.surveyor.by_size.add(topic)

    def append_aborted(self, topic, *timestamps):
        log = self.surveyor._topics[topic].logs[0]
        log.end += len(timestamps) + 1

    @contextmanager
    def transaction(self, topic, *timestamps):
        self.surveyor.open_transaction(topic, 0, len(timestamps))
        yield

    def group(self, name):
        return {p.index: o for p, o in self.surveyor.groups.get(name, {}).items()}


class Real:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.surveyor, self.mirror = KafkaSurveyor(bootstrap), KafkaMirror(bootstrap)
        self.admin = KafkaAdmin(bootstrap)
        self._client = KafkaAdminClient(bootstrap_servers=bootstrap)

    def keep(self, topic, retention):
        self._set(topic, {"retention.ms": str(int(retention.total_seconds() * 1000))})
        until(lambda: self._seen(topic).retention == retention)

    def keep_bytes(self, topic):
        self._set(topic, {"retention.bytes": str(10**9), "retention.ms": "-1"})
        until(lambda: self._seen(topic).by_size)

    def _set(self, topic, configs):
        """The controller has it then; the broker that is asked learns it a moment later."""
        self._client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])

    def append_aborted(self, topic, *timestamps):
        end = self._end(topic)
        with self.transaction(topic, *timestamps):
            pass
        until(lambda: self._end(topic) >= end + len(timestamps) + 1)

    @contextmanager
    def transaction(self, topic, *timestamps):
        """Open until it is left, and then aborted."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=secrets.token_hex(4))
        producer.init_transactions()
        producer.begin_transaction()
        for when in timestamps:
            producer.send(topic, value=b"x", partition=0, timestamp_ms=round(when.timestamp() * 1000))
        producer.flush()
        yield
        producer.abort_transaction()
        producer.close()

    def _end(self, topic):
        return self._seen(topic).offsets.log_end[0]

    def _seen(self, topic):
        return self.surveyor.survey([topic]).topics[topic]

    def group(self, name):
        return {p.partition: o.offset for p, o in self._client.list_group_offsets(name)[name].items()}

    def close(self):
        for part in (self.surveyor, self.mirror, self.admin, self._client):
            part.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.real)])
def edge(request):
    if request.param == "memory":
        yield Memory()
        return
    real = Real(request.getfixturevalue("kafka").bootstrap)
    yield real
    real.close()


@pytest.fixture
def topic(edge):
    name = f"survey.{secrets.token_hex(4)}"
    edge.admin.create(name, partitions=2)
    return name


def partitions(edge, topic):
    found = edge.surveyor.survey([topic])
    assert found.problems == {}
    return found.topics[topic].offsets.partitions()


def first_records(edge, offsets):
    found = edge.surveyor.first_records_after(offsets)
    assert found.problems == {}
    return found.records


def test_ids_starts_ends_and_retention_of_all_topics_come_in_one_look(edge, topic):
    edge.admin.append(topic, 0, at(0), at(1), at(2))
    edge.admin.delete_records(topic, 0, before=1)
    edge.keep(topic, timedelta(hours=1))
    found = edge.surveyor.survey([topic, f"{topic}.missing"])
    assert (set(found.topics), dict(found.problems)) == ({topic}, {})
    seen = found.topics[topic]
    assert (dict(seen.offsets.log_start), dict(seen.offsets.log_end)) == ({0: 1, 1: 0}, {0: 3, 1: 0})
    assert seen.retention == timedelta(hours=1)
    assert len(seen.offsets.topic_id) == 22


def test_a_topic_that_is_deleted_by_size_says_so(edge, topic):
    edge.admin.append(topic, 0, at(0))
    assert not edge.surveyor.survey([topic]).topics[topic].by_size
    edge.keep_bytes(topic)
    seen = edge.surveyor.survey([topic], elsewhere=True).topics[topic]
    assert (seen.by_size, seen.retention) == (True, None)


def test_what_belongs_to_an_open_transaction_has_arrived_and_cannot_be_read(edge, topic):
    edge.admin.append(topic, 0, at(0), at(1), at(2))
    with edge.transaction(topic, at(3), at(4)):
        seen = edge.surveyor.survey([topic]).topics[topic]
        assert (dict(seen.offsets.log_end), dict(seen.high_watermarks)) == ({0: 3, 1: 0}, {0: 5, 1: 0})


def test_the_offsets_at_a_time_are_those_of_the_first_records_since_or_the_end(edge, topic):
    edge.admin.append(topic, 0, at(0), at(1), at(2))
    first, second = partitions(edge, topic)
    assert edge.surveyor.offsets_at([first, second], at(1)) == {first: 1, second: 0}
    assert edge.surveyor.offsets_at([first], at(9)) == {first: 3}
    assert edge.surveyor.offsets_at([], at(1)) == {}


def test_nothing_is_asked_for_no_topics(edge):
    assert edge.surveyor.survey([]).topics == {}
    assert edge.surveyor.first_records_after({}) == FirstRecords({})
    assert edge.mirror.mirror({}) == {}


def test_the_first_record_after_an_offset_or_that_there_is_none(edge, topic):
    edge.admin.append(topic, 0, *(at(n) for n in range(3)))
    full, empty = partitions(edge, topic)
    found = edge.surveyor.first_records_after({full: 1, empty: 0})
    assert found == FirstRecords({full: RecordTime(1, at(1)), empty: None})
    assert first_records(edge, {full: 3}) == {full: None}


def test_what_follows_an_offset_beyond_the_end_is_not_known_which_is_not_that_nothing_does(edge, topic):
    edge.admin.append(topic, 0, at(0))
    full, _ = partitions(edge, topic)
    found = edge.surveyor.first_records_after({full: 9})
    assert (dict(found.records), dict(found.problems)) == ({}, {full: "its log ends below 9"})


def test_a_record_that_was_deleted_is_followed_by_the_first_that_is_there(edge, topic):
    edge.admin.append(topic, 0, *(at(n) for n in range(3)))
    edge.admin.delete_records(topic, 0, before=2)
    first = partitions(edge, topic)[0]
    assert first_records(edge, {first: 0}) == {first: RecordTime(2, at(2))}
    edge.admin.delete_records(topic, 0, before=3)
    assert first_records(edge, {first: 0}) == {first: None}


def test_behind_a_committed_transaction_there_is_only_its_end_and_no_record(edge, topic):
    edge.admin.append_transaction(topic, 0, at(0), at(1))
    first = partitions(edge, topic)[0]
    assert first_records(edge, {first: 0}) == {first: RecordTime(0, at(0))}
    assert first_records(edge, {first: 2}) == {first: None}
    edge.admin.append(topic, 0, at(7))
    assert first_records(edge, {first: 2}) == {first: RecordTime(3, at(7))}


def test_records_of_an_aborted_transaction_are_none(edge, topic):
    edge.append_aborted(topic, at(0), at(1))
    first = partitions(edge, topic)[0]
    assert first_records(edge, {first: 0}) == {first: None}
    edge.admin.append(topic, 0, at(9))
    assert first_records(edge, {first: 0}) == {first: RecordTime(3, at(9))}


def test_partitions_of_another_incarnation_are_left_out(edge, topic):
    first = partitions(edge, topic)[0]
    other = Partition(topic, "AAAAAAAAAAAAAAAAAAAAAA", 0)
    edge.admin.append(topic, 0, at(0))
    found = edge.surveyor.first_records_after({first: 0, other: 0})
    assert (found.records, set(found.problems)) == ({first: RecordTime(0, at(0))}, {other})


def test_a_group_has_the_offsets_it_was_given_last_lower_ones_too(edge, topic):
    first, second = partitions(edge, topic)
    name = f"spike.{topic}"
    both = {name: {first: 7, second: 3}, f"{name}.other": {first: 1}}
    until(lambda: edge.mirror.mirror(both) == {})  # the first group of a cluster waits for its coordinator
    assert edge.group(name) == {0: 7, 1: 3}
    assert edge.mirror.mirror({name: {first: 2, second: 3}}) == {}
    assert edge.group(name) == {0: 2, 1: 3}


def test_a_topic_whose_broker_is_down_hides_no_other():
    memory = Memory()
    for name in ("a", "b"):
        memory.admin.create(name)
    memory.surveyor.dark = {"a"}
    found = memory.surveyor.survey(["a", "b"])
    assert (set(found.topics), set(found.problems)) == ({"b"}, {"a"})


def test_a_cluster_that_is_down_is_transient():
    memory = Memory()
    memory.surveyor.up = False
    for call in (
        lambda: memory.surveyor.survey(["a"]),
        lambda: memory.mirror.mirror({"g": {Partition("a", "i", 0): 1}}),
    ):
        with pytest.raises(Transient):
            call()
    with pytest.raises(Transient):
        KafkaMirror("127.0.0.1:1", timeout_seconds=1).mirror({"g": {Partition("a", "i", 0): 1}})


@pytest.mark.real
def test_a_record_larger_than_a_read_is_found_in_every_partition(kafka, request):
    edge = Real(kafka.bootstrap)
    request.addfinalizer(edge.close)
    name = f"survey.{secrets.token_hex(4)}"
    edge.admin.create(name, partitions=4)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
    for index in range(4):
        producer.send(
            name, value=b"x" * 900_000, partition=index, timestamp_ms=round(at(0).timestamp() * 1000)
        )
    producer.close()
    wanted = dict.fromkeys(partitions(edge, name), 0)
    assert first_records(edge, wanted) == {p: RecordTime(0, at(0)) for p in wanted}


@pytest.mark.real
def test_a_group_that_somebody_consumes_with_refuses_and_says_why(kafka, request):
    from kafka import KafkaConsumer  # noqa: PLC0415

    edge = Real(kafka.bootstrap)
    request.addfinalizer(edge.close)
    name = f"survey.{secrets.token_hex(4)}"
    edge.admin.create(name)
    consumer = KafkaConsumer(name, group_id=f"spike.{name}", bootstrap_servers=kafka.bootstrap)
    request.addfinalizer(consumer.close)
    until(lambda: consumer.poll(timeout_ms=100) is not None and consumer.assignment())
    (first,) = partitions(edge, name)
    refused = edge.mirror.mirror({f"spike.{name}": {first: 0}})
    assert list(refused) == [f"spike.{name}"]
    assert TopicPartition(name, 0) in consumer.assignment()
