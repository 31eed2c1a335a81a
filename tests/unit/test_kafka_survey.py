"""One broker of three is down: its topics have a problem each, and the others' answers stand."""

import asyncio
import struct
import uuid
from types import SimpleNamespace as Answer

import pytest
from kafka.errors import KafkaConnectionError
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.metadata import MetadataRequest
from kafka.record.memory_records import MemoryRecordsBuilder

from spike_pipelines.adapters.kafka import OFFSET_OUT_OF_RANGE, topic_id
from spike_pipelines.adapters.kafka_client import KafkaClient
from spike_pipelines.adapters.kafka_records import GoOn, first_committed_record, instant
from spike_pipelines.adapters.kafka_survey import _Place, _Round, _Search
from spike_pipelines.domain.offsets import Partition, RecordTime

LEADERS = {"here": [1, 3], "silent": [1, 2], "leaderless": [1, -1]}  # node 2 does not answer
IDS = {name: uuid.uuid5(uuid.NAMESPACE_DNS, name) for name in LEADERS}


async def send(request, node_id=None):
    if isinstance(request, MetadataRequest):
        return Answer(topics=[_described(t.name) for t in request.topics])
    if isinstance(request, DescribeConfigsRequest):
        return Answer(results=[_configs(r.resource_name) for r in request.resources])
    if node_id == 2:
        raise KafkaConnectionError("broker 2 is down")
    topics = [
        Answer(name=t.name, partitions=[_offset(p.partition_index) for p in t.partitions])
        for t in request.topics
    ]
    return Answer(topics=topics)


def _described(name):
    partitions = [Answer(partition_index=n, leader_id=node) for n, node in enumerate(LEADERS[name])]
    return Answer(name=name, error_code=0, topic_id=IDS[name], partitions=partitions)


def _configs(name):
    values = {"retention.ms": "3600000", "cleanup.policy": "compact" if name == "silent" else "delete"}
    configs = [Answer(name=key, value=value) for key, value in values.items()]
    return Answer(resource_name=name, error_code=0, configs=configs)


def _offset(index):
    return Answer(partition_index=index, error_code=0, offset=7)


def test_a_topic_is_seen_whole_or_has_a_problem_that_names_the_broker():
    survey = asyncio.run(_Round(send, sorted(LEADERS)).run())
    assert set(survey.topics) == {"here"}
    assert survey.topics["here"].retention.total_seconds() == 3600
    assert survey.problems == {
        "silent": "topic silent: broker 2 did not answer: KafkaConnectionError",
        "leaderless": "topic leaderless: partition 1 has no leader: a broker is down",
    }


PLACE = _Place(Partition("silent", topic_id(IDS["silent"]), 1), IDS["silent"], 2)


def searched(send):
    """What is found behind offset 5 of that partition: records, and problems."""
    found = asyncio.run(_Search(send, {PLACE.partition: PLACE}, {PLACE.partition: 5}).run())
    return found.records, found.problems


def test_records_at_a_broker_that_is_down_are_left_out_and_not_called_none():
    async def down(request, node_id=None):
        raise KafkaConnectionError("broker 2 is down")

    assert searched(down) == ({}, {PLACE.partition: "broker 2 did not answer: KafkaConnectionError"})


def refusing(fetch_error, start_error=0, start=0):
    """A broker that answers each Fetch with an error, and where the log starts."""

    async def answer(request, node_id=None):
        if isinstance(request, FetchRequest):
            entry = Answer(partition_index=1, error_code=fetch_error)
            topic = Answer(topic_id=IDS["silent"], topic="silent", partitions=[entry])
            return Answer(error_code=0, responses=[topic])
        entry = Answer(partition_index=1, error_code=start_error, offset=start)
        return Answer(topics=[Answer(name="silent", partitions=[entry])])

    return answer


@pytest.mark.parametrize(
    ("broker", "problem"),
    [
        (refusing(6), "NotLeaderForPartitionError"),
        (refusing(OFFSET_OUT_OF_RANGE, 6, -1), "topic silent: NotLeaderForPartitionError"),
        (refusing(OFFSET_OUT_OF_RANGE, 0, 0), "its log ends below 5"),
        (refusing(OFFSET_OUT_OF_RANGE, 0, 6), "its log ends below 6"),
    ],
)
def test_an_error_of_the_broker_is_a_problem_and_never_that_no_record_follows(broker, problem):
    """None would make the spike IDLE."""
    assert searched(broker) == ({}, {PLACE.partition: problem})


# bytes that nobody expected


def fetched(records):
    """A broker that answers with these bytes for every partition, and its log ends at 99."""

    async def answer(request, node_id=None):
        entries = [
            Answer(
                partition_index=p.partition, error_code=0, records=records[p.partition],
                last_stable_offset=99, aborted_transactions=None,
            )
            for p in request.topics[0].partitions
        ]  # fmt: skip
        return Answer(
            error_code=0, responses=[Answer(topic_id=IDS["here"], topic="here", partitions=entries)]
        )

    return answer


def batch(magic, *timestamps, offset=0, compression=0):
    builder = MemoryRecordsBuilder(magic, compression, 10_000, offset=offset)
    for timestamp in timestamps:
        builder.append(timestamp, None, b"x" * 500)
    builder.close()
    return bytes(builder.buffer())


def broken_gzip():
    whole = bytearray(batch(2, 1_000, 2_000, compression=1))
    whole[70:80] = b"\xff" * 10
    return bytes(whole)


@pytest.mark.parametrize(
    ("undecodable", "why"),
    [
        (broken_gzip(), "its records cannot be decoded: "),
        (batch(2, 1_000)[:-4] + b"\xff" * 4, "its records cannot be decoded: CorruptRecordError"),
        (struct.pack(">qi", 0, 3) + b"abc", "its records cannot be decoded: CorruptRecordError"),
        (batch(0, None), "its record at offset 0 has no timestamp (format v0)"),
    ],
    ids=["gzip", "records", "too short", "without time"],
)
def test_a_batch_that_cannot_be_decoded_is_a_problem_of_its_partition_alone(undecodable, why):
    places = {
        p: _Place(p, IDS["here"], 1) for p in (Partition("here", topic_id(IDS["here"]), n) for n in (0, 1))
    }
    sick, well = places
    send_ = fetched({0: undecodable, 1: batch(2, 1_000)})
    found = asyncio.run(_Search(send_, places, dict.fromkeys(places, 0)).run())
    assert set(found.records) == {well}
    assert found.problems[sick].startswith(why)


@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_records_of_the_format_before_transactions_are_read(compression):
    """A compressed batch has the offset of its last record, and the time of its youngest."""
    data = batch(1, 1_000, 9_000, 2_000, compression=compression)
    data = struct.pack(">q", 2) + data[8:] if compression else data  # as the broker appends it
    youngest = instant(9_000 if compression else 2_000)
    found = first_committed_record(data, 2, ())
    assert (found, found.stamped_at) == (RecordTime(2, instant(2_000)), youngest)
    assert first_committed_record(data, 3, ()) == GoOn(3)


# another broker


@pytest.mark.parametrize(("elsewhere", "first"), [(False, 1), (True, 2)])
def test_a_second_look_asks_another_broker_than_the_one_that_answered(elsewhere, first):
    asked = []
    client = KafkaClient("b:9092", timeout_seconds=1)
    client._answered = 1

    class Manager:
        cluster = Answer(brokers=lambda: [Answer(node_id=1), Answer(node_id=2)])

        def run(self, limited, *arguments):
            return asyncio.run(limited(*arguments))

        def call_soon(self, talk, send_):
            return talk(send_)

        async def wait_for(self, conversation, _):
            return await conversation

        async def send(self, request, node_id):
            asked.append(node_id)

    async def talk(send_):
        await send_("metadata")
        await send_("configs")

    client._manager = Manager()
    client.run(talk, elsewhere=elsewhere)
    assert asked == [first, first]
