"""The Broker port on Kafka's own protocol, with kafka-python as the wire.

Error codes: https://kafka.apache.org/protocol#protocol_error_codes
"""

import base64
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kafka.errors import for_code
from kafka.protocol.consumer import ListOffsetsRequest, OffsetSpec
from kafka.protocol.metadata import MetadataRequest

from spike_pipelines.adapters.kafka_client import KafkaClient, Send
from spike_pipelines.adapters.kafka_records import milliseconds
from spike_pipelines.domain.errors import TopicChanged, TopicMissing, Transient
from spike_pipelines.domain.offsets import Partition, TopicOffsets

TIMEOUT_SECONDS = 10.0
OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC, INVALID_TOPIC = 1, 3, 17


@dataclass(frozen=True, slots=True)
class _Topic:
    """Id, and the node that leads each partition."""

    name: str
    id: uuid.UUID
    leaders: Mapping[int, int]

    def partitions(self) -> Iterable[Partition]:
        return (Partition(self.name, topic_id(self.id), index) for index in self.leaders)


class KafkaBroker:
    """`Broker` over one cluster. Thread-safe; every call ends within `timeout_seconds` or is `Transient`
    (while there is no connection, within so long for each address)."""

    def __init__(self, bootstrap: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._client = KafkaClient(bootstrap, timeout_seconds=timeout_seconds)

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicOffsets]:
        wanted = sorted(set(names))

        async def talk(send: Send) -> Mapping[str, TopicOffsets]:
            found = await _metadata(send, wanted)
            spots = _led(found.values())
            starts = await _list_offsets(send, spots, OffsetSpec.EARLIEST)
            ends = await _list_offsets(send, spots, OffsetSpec.LATEST)
            again = await _metadata(send, wanted)
            if {n: t.id for n, t in found.items()} != {n: t.id for n, t in again.items()}:
                raise Transient(f"a topic of {', '.join(wanted)} was made or deleted at this moment")
            return {name: _offsets(topic, starts, ends) for name, topic in found.items()}

        return self._client.run(talk) if wanted else {}

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        wanted = sorted(set(partitions))

        async def talk(send: Send) -> Mapping[Partition, int]:
            spots = await _leaders(send, wanted)
            found = await _list_offsets(send, spots, milliseconds(at))
            beyond = {p: spots[p] for p, offset in found.items() if offset < 0}
            return {**found, **await _list_offsets(send, beyond, OffsetSpec.LATEST)}

        return self._client.run(talk) if wanted else {}

    def close(self) -> None:
        self._client.close()


def topic_id(value: uuid.UUID) -> str:
    """As Kafka's own tools print it."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


async def _metadata(send: Send, names: Iterable[str]) -> Mapping[str, _Topic]:
    topics = [MetadataRequest.MetadataRequestTopic(name=name) for name in names]
    response = await send(MetadataRequest(topics=topics, allow_auto_topic_creation=False))
    found = {}
    for topic in response.topics:
        if topic.error_code in (UNKNOWN_TOPIC, INVALID_TOPIC):
            continue
        _check(topic.error_code, f"topic {topic.name}")
        leaders = {p.partition_index: p.leader_id for p in topic.partitions}
        leaders = dict(sorted(leaders.items()))
        leaderless = sorted(index for index, node in leaders.items() if node < 0)
        if leaderless or not leaders:
            raise Transient(f"topic {topic.name}: no leader for partitions {leaderless or 'at all'} yet")
        found[topic.name] = _Topic(topic.name, topic.topic_id, leaders)
    return found


async def _leaders(send: Send, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
    """The node that leads each partition. Raises `TopicMissing`, `TopicChanged`."""
    wanted = list(partitions)
    found = await _metadata(send, sorted({p.topic for p in wanted}))
    spots = _led(found.values())
    for p in wanted:
        if p.topic not in found:
            raise TopicMissing(f"topic {p.topic} does not exist")
        if p not in spots:
            now = topic_id(found[p.topic].id)
            raise TopicChanged(f"{p} of topic id {p.topic_id} is not there; topic {p.topic} now has id {now}")
    return {p: spots[p] for p in wanted}


def _led(topics: Iterable[_Topic]) -> Mapping[Partition, int]:
    return {p: topic.leaders[p.index] for topic in topics for p in topic.partitions()}


async def _list_offsets(send: Send, spots: Mapping[Partition, int], at: int) -> dict[Partition, int]:
    """One request to each leader. `at` is an `OffsetSpec` or milliseconds; -1 where no record is as young."""
    requests = {node: _list_request(partitions, at) for node, partitions in _by_node(spots).items()}
    answers = [send(request, node_id=node) for node, request in requests.items()]
    by_name = {(p.topic, p.index): p for p in spots}
    found: dict[Partition, int] = {}
    for answer in answers:
        for topic in (await answer).topics:
            for entry in topic.partitions:
                partition = by_name[topic.name, entry.partition_index]
                _check(entry.error_code, str(partition))
                found[partition] = entry.offset
    if len(found) != len(spots):
        raise Transient(f"Kafka left out {', '.join(sorted(str(p) for p in spots if p not in found))}")
    return found


def _list_request(partitions: Iterable[Partition], at: int) -> Any:
    of_topic = ListOffsetsRequest.ListOffsetsTopic
    topics = [
        of_topic(
            name=name,
            partitions=[
                of_topic.ListOffsetsPartition(partition_index=p.index, timestamp=int(at)) for p in some
            ],
        )
        for name, some in _by_topic(partitions).items()
    ]
    return ListOffsetsRequest(isolation_level=0, topics=topics)


def _by_topic(partitions: Iterable[Partition]) -> Mapping[str, list[Partition]]:
    grouped: dict[str, list[Partition]] = defaultdict(list)
    for partition in partitions:
        grouped[partition.topic].append(partition)
    return grouped


def _by_node(spots: Mapping[Partition, int]) -> Mapping[int, list[Partition]]:
    grouped: dict[int, list[Partition]] = defaultdict(list)
    for partition, node in spots.items():
        grouped[node].append(partition)
    return grouped


def _offsets(topic: _Topic, starts: Mapping[Partition, int], ends: Mapping[Partition, int]) -> TopicOffsets:
    partitions = list(topic.partitions())
    return TopicOffsets(
        topic=topic.name,
        topic_id=topic_id(topic.id),
        log_start={p.index: starts[p] for p in partitions},
        log_end={p.index: ends[p] for p in partitions},
    )


def _check(code: int, what: str) -> None:
    if code == UNKNOWN_TOPIC:
        raise TopicMissing(f"{what}: the topic does not exist (any more)")
    if code:
        raise Transient(f"{what}: {for_code(code).__name__}")
