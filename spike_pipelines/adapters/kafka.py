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
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest, OffsetSpec
from kafka.protocol.metadata import MetadataRequest

from spike_pipelines.adapters.kafka_client import KafkaClient, Send
from spike_pipelines.adapters.kafka_records import GoOn, first_record, milliseconds
from spike_pipelines.domain.errors import TopicChanged, TopicMissing, Transient
from spike_pipelines.domain.offsets import Partition, RecordTime, TopicOffsets

TIMEOUT_SECONDS = 10.0
OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC, INVALID_TOPIC = 1, 3, 17
UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID = 100, 103
FETCH_BYTES = 64 * 1024  # a batch or a few; a larger one is sent whole to whoever is asked for first
EXTRA_ROUNDS = 100  # runs of control records or compacted batches to step over in one call


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

    def first_records(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, RecordTime]:
        wanted = dict(offsets)

        async def talk(send: Send) -> Mapping[Partition, RecordTime]:
            spots = await _leaders(send, wanted)
            return await _Search(send, spots, wanted).run()

        return self._client.run(talk) if wanted else {}

    def close(self) -> None:
        self._client.close()


class _Search:
    """Fetch until every partition has shown its first record or its end.

    A broker fills only the partition it is asked for first without regard to the limit, so the ones
    that got nothing go to the front of the next round.
    """

    def __init__(self, send: Send, spots: Mapping[Partition, int], offsets: Mapping[Partition, int]) -> None:
        self._send = send
        self._spots = spots
        self._open = dict(offsets)
        self._found: dict[Partition, RecordTime] = {}

    async def run(self) -> Mapping[Partition, RecordTime]:
        rounds = len(self._open) + EXTRA_ROUNDS
        for _ in range(rounds):
            if not self._open:
                return self._found
            starved: dict[Partition, int] = {}
            for node, partitions in _by_node({p: self._spots[p] for p in self._open}).items():
                response = await self._send(
                    _fetch_request({p: self._open[p] for p in partitions}), node_id=node
                )
                _check(response.error_code, "reading")
                await self._take(response, partitions, starved)
            self._open = {**starved, **{p: o for p, o in self._open.items() if p not in starved}}
        raise Transient(f"no first record found in {rounds} reads of {', '.join(map(str, self._open))}")

    async def _take(self, response: Any, partitions: list[Partition], starved: dict[Partition, int]) -> None:
        by_place = {(p.topic_id, p.index): p for p in partitions} | {
            (p.topic, p.index): p for p in partitions
        }
        for topic in response.responses:
            name = topic_id(topic.topic_id) if topic.topic_id and topic.topic_id.int else topic.topic
            for answer in topic.partitions:
                await self._one(by_place[name, answer.partition_index], answer, starved)

    async def _one(self, partition: Partition, answer: Any, starved: dict[Partition, int]) -> None:
        wanted = self._open[partition]
        if answer.error_code == OFFSET_OUT_OF_RANGE:
            spot = {partition: self._spots[partition]}
            start = (await _list_offsets(self._send, spot, OffsetSpec.EARLIEST))[partition]
            self._go_on(partition, start if start > wanted else None)
            return
        _check(answer.error_code, str(partition))
        found = first_record(answer.records, wanted)
        if isinstance(found, RecordTime):
            self._found[partition] = found
            self._go_on(partition, None)
        elif found.offset >= answer.high_watermark:
            self._go_on(partition, None)
        else:
            self._open[partition] = found.offset
            if found == GoOn(wanted):
                starved[partition] = wanted

    def _go_on(self, partition: Partition, offset: int | None) -> None:
        if offset is None:
            del self._open[partition]
        else:
            self._open[partition] = offset


def topic_id(value: uuid.UUID) -> str:
    """As Kafka's own tools print it."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


def _uuid(value: str) -> uuid.UUID:
    return uuid.UUID(bytes=base64.urlsafe_b64decode(f"{value}=="))


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


def _fetch_request(offsets: Mapping[Partition, int]) -> Any:
    of_topic = FetchRequest.FetchTopic
    topics = [
        of_topic(
            topic=name,
            topic_id=_uuid(some[0].topic_id),
            partitions=[
                of_topic.FetchPartition(
                    partition=p.index, fetch_offset=offsets[p], partition_max_bytes=FETCH_BYTES
                )
                for p in some
            ],
        )
        for name, some in _by_topic(offsets).items()
    ]
    return FetchRequest(
        max_wait_ms=0, min_bytes=0, max_bytes=len(offsets) * FETCH_BYTES, session_epoch=-1, topics=topics
    )


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
    if code in (UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID):
        raise TopicChanged(f"{what}: the topic was deleted and made again")
    if code == UNKNOWN_TOPIC:
        raise TopicMissing(f"{what}: the topic does not exist (any more)")
    if code:
        raise Transient(f"{what}: {for_code(code).__name__}")
