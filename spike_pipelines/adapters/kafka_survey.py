"""The Surveyor port on Kafka's own protocol: all topics in one round, and what did not answer by name."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest, OffsetSpec
from kafka.protocol.metadata import MetadataRequest

from spike_pipelines.adapters.kafka import INVALID_TOPIC, OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC, topic_id
from spike_pipelines.adapters.kafka_client import KafkaClient, Send
from spike_pipelines.adapters.kafka_records import GoOn, Undecodable, first_committed_record, milliseconds
from spike_pipelines.domain.offsets import Partition, RecordTime, TopicOffsets
from spike_pipelines.ports import FirstRecords, Survey, SurveyedTopic

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
TOPIC_RESOURCE = 2
ANSWER_SECONDS = 4.0  # of one node: a dead one must not take the others' answers with it
ROUND_SECONDS = 25.0
FETCH_BYTES = 64 * 1024
PARTITIONS_AT_ONCE = 400  # in one Fetch: its answer has at most 25 MB
MOST_ROUNDS = 200  # runs of control records, compacted or aborted batches to step over in one call


@dataclass(frozen=True, slots=True)
class _Place:
    """A partition, and the node that leads it (negative: none)."""

    partition: Partition
    uuid: Any
    leader: int


class KafkaSurveyor:
    """`Surveyor` over one cluster. Thread-safe."""

    def __init__(self, bootstrap: str) -> None:
        self._client = KafkaClient(
            bootstrap, timeout_seconds=ANSWER_SECONDS, conversation_seconds=ROUND_SECONDS
        )

    def survey(self, names: Iterable[str], *, elsewhere: bool = False) -> Survey:
        wanted = sorted(set(names))

        async def talk(send: Send) -> Survey:
            return await _Round(send, wanted).run()

        return self._client.run(talk, elsewhere=elsewhere) if wanted else Survey({}, {})

    def first_records_after(self, offsets: Mapping[Partition, int]) -> FirstRecords:
        wanted = dict(offsets)

        async def talk(send: Send) -> FirstRecords:
            round_ = _Round(send, sorted({p.topic for p in wanted}))
            places = {p.partition: p for p in await round_.places() if p.leader >= 0}
            found = await _Search(send, places, {p: o for p, o in wanted.items() if p in places}).run()
            left_out = {
                p: round_.problems.get(p.topic, "it is of another topic of that name")
                for p in wanted
                if p not in places
            }
            return FirstRecords(found.records, {**left_out, **found.problems})

        return self._client.run(talk) if wanted else FirstRecords({})

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        wanted = set(partitions)

        async def talk(send: Send) -> Mapping[Partition, int]:
            round_ = _Round(send, sorted({p.topic for p in wanted}))
            places = [place for place in await round_.places() if place.partition in wanted]
            found = await round_.offsets(places, milliseconds(at))
            beyond = [place for place in places if found.get(place.partition, 0) < 0]
            ends = await round_.offsets(beyond, OffsetSpec.LATEST)
            return {**{p: offset for p, offset in found.items() if offset >= 0}, **ends}

        return self._client.run(talk) if wanted else {}

    def close(self) -> None:
        self._client.close()


@dataclass(slots=True)
class _Round:
    """Metadata, log starts, log ends and retention of topics; what fails is a problem of its topic."""

    send: Send
    names: list[str]
    problems: dict[str, str] = field(default_factory=dict)

    async def run(self) -> Survey:
        places = await self.places()
        starts = await self.offsets(places, OffsetSpec.EARLIEST)
        ends = await self.offsets(places, OffsetSpec.LATEST)
        marks = await self.offsets(places, OffsetSpec.LATEST, READ_UNCOMMITTED)
        retention = await self._retention(sorted({p.partition.topic for p in places}))
        again = {p.partition for p in await self.places()}
        by_topic: dict[str, list[_Place]] = defaultdict(list)
        for place in places:
            by_topic[place.partition.topic].append(place)
            if place.partition not in again:
                self._trouble(place.partition.topic, "the topic was made or deleted at this moment")
        found = {
            name: SurveyedTopic(
                _topic(name, mine, starts, ends),
                *retention[name],
                high_watermarks={p.partition.index: marks[p.partition] for p in mine},
            )
            for name, mine in by_topic.items()
            if name not in self.problems
        }
        return Survey(found, dict(self.problems))

    async def places(self) -> list[_Place]:
        topics = [MetadataRequest.MetadataRequestTopic(name=name) for name in self.names]
        answer = await self.send(MetadataRequest(topics=topics, allow_auto_topic_creation=False))
        found = []
        for topic in answer.topics:
            if topic.error_code in (UNKNOWN_TOPIC, INVALID_TOPIC):
                continue
            if topic.error_code:
                self._trouble(topic.name, for_code(topic.error_code).__name__)
                continue
            for p in topic.partitions:
                partition = Partition(topic.name, topic_id(topic.topic_id), p.partition_index)
                found.append(_Place(partition, topic.topic_id, p.leader_id))
                if p.leader_id < 0:
                    self._trouble(
                        topic.name, f"partition {p.partition_index} has no leader: a broker is down"
                    )
        return found

    async def offsets(
        self, places: list[_Place], at: int, isolation: int = READ_COMMITTED
    ) -> Mapping[Partition, int]:
        """One request to each leader, all under way at once. `at` is an `OffsetSpec` or milliseconds."""
        by_node = _by_node(place for place in places if place.leader >= 0)
        asked = {
            node: self.send(_list_request(mine, at, isolation), node_id=node)
            for node, mine in by_node.items()
        }
        found: dict[Partition, int] = {}
        for node, mine in by_node.items():
            known = {(p.partition.topic, p.partition.index): p.partition for p in mine}
            try:
                answer = await asked[node]
            except KafkaError as error:
                for topic in {p.partition.topic for p in mine}:
                    self._trouble(topic, f"broker {node} did not answer: {type(error).__name__}")
                continue
            for topic in answer.topics:
                for entry in topic.partitions:
                    if entry.error_code:
                        self._trouble(topic.name, for_code(entry.error_code).__name__)
                    else:
                        found[known[topic.name, entry.partition_index]] = entry.offset
        for place in places:
            if place.partition not in found:
                self._trouble(place.partition.topic, f"no offsets of partition {place.partition.index}")
        return found

    async def _retention(self, names: list[str]) -> Mapping[str, tuple[timedelta | None, bool]]:
        """`retention.ms` of topics, None where they do not delete by age, and whether they do by size."""
        of = DescribeConfigsRequest.DescribeConfigsResource
        keys = ["retention.ms", "retention.bytes", "cleanup.policy"]
        resources = [
            of(resource_type=TOPIC_RESOURCE, resource_name=name, configuration_keys=keys) for name in names
        ]
        answer = await self.send(DescribeConfigsRequest(resources=resources))
        found = {}
        for result in answer.results:
            if result.error_code:
                self._trouble(result.resource_name, f"retention: {for_code(result.error_code).__name__}")
                continue
            found[result.resource_name] = _kept({c.name: c.value for c in result.configs})
        for name in set(names) - found.keys():
            self._trouble(name, "retention: the broker did not say")
        return found

    def _trouble(self, topic: str, problem: str) -> None:
        self.problems.setdefault(topic, f"topic {topic}: {problem}")


@dataclass(slots=True)
class _Search:
    """Fetch until every partition has shown its first committed record or its end.

    A broker fills only the partition it is asked for first without regard to the limit, so the ones that
    got nothing go to the front of the next request. What fails is a problem of its partition: never the
    answer that no record follows (I12).
    """

    send: Send
    places: Mapping[Partition, _Place]
    open: dict[Partition, int]
    found: dict[Partition, RecordTime | None] = field(default_factory=dict)
    problems: dict[Partition, str] = field(default_factory=dict)

    async def run(self) -> FirstRecords:
        for _ in range(MOST_ROUNDS + len(self.open)):
            if not self.open:
                break
            requests = [
                (node, chunk)
                for node, mine in _by_node(self.places[p] for p in self.open).items()
                for chunk in _chunks(mine)
            ]
            for node, chunk in requests:
                await self._ask(node, chunk)
        self._leave(tuple(self.open), f"no record was found in {MOST_ROUNDS} rounds")
        return FirstRecords(self.found, self.problems)

    async def _ask(self, node: int, chunk: list[_Place]) -> None:
        try:
            answer = await self.send(_fetch_request(chunk, self.open), node_id=node)
        except KafkaError as error:
            self._leave((p.partition for p in chunk), f"broker {node} did not answer: {type(error).__name__}")
            return
        if answer.error_code:
            problem = f"broker {node}: {for_code(answer.error_code).__name__}"
            self._leave((p.partition for p in chunk), problem)
            return
        known = {(key, p.partition.index): p.partition for p in chunk for key in (p.uuid, p.partition.topic)}
        starved: dict[Partition, int] = {}
        for topic in answer.responses:
            name = topic.topic_id if topic.topic_id and topic.topic_id.int else topic.topic
            for entry in topic.partitions:
                await self._one(known[name, entry.partition_index], entry, starved)
        self.open = {**starved, **{p: o for p, o in self.open.items() if p not in starved}}

    async def _one(self, partition: Partition, entry: Any, starved: dict[Partition, int]) -> None:
        wanted = self.open[partition]
        if entry.error_code == OFFSET_OUT_OF_RANGE:
            await self._from_start(partition, wanted)
            return
        if entry.error_code:
            self._leave([partition], for_code(entry.error_code).__name__)
            return
        aborted = [(a.producer_id, a.first_offset) for a in entry.aborted_transactions or ()]
        try:
            seen = first_committed_record(entry.records, wanted, aborted)
        except Undecodable as error:
            self._leave([partition], str(error))
            return
        if isinstance(seen, RecordTime):
            self._end(partition, seen)
        elif seen.offset >= entry.last_stable_offset:
            self._end(partition, None)
        else:
            self.open[partition] = seen.offset
            if seen == GoOn(wanted):
                starved[partition] = wanted

    async def _from_start(self, partition: Partition, wanted: int) -> None:
        """What was there is deleted meanwhile. An offset that is not below the log's start is beyond its end:
        what follows it, nobody knows."""
        round_ = _Round(self.send, [])
        start = (await round_.offsets([self.places[partition]], OffsetSpec.EARLIEST)).get(partition)
        if start is not None and start > wanted:
            self.open[partition] = start
            return
        unseen = round_.problems.get(partition.topic, f"its log ends below {wanted}")
        self._leave([partition], unseen)

    def _end(self, partition: Partition, record: RecordTime | None) -> None:
        self.found[partition] = record
        del self.open[partition]

    def _leave(self, partitions: Iterable[Partition], problem: str) -> None:
        for partition in partitions:
            if self.open.pop(partition, None) is not None:
                self.problems[partition] = problem


def _kept(configs: Mapping[str, str | None]) -> tuple[timedelta | None, bool]:
    if "delete" not in (configs.get("cleanup.policy") or "delete"):
        return None, False
    age, size = (int(configs.get(f"retention.{unit}") or -1) for unit in ("ms", "bytes"))
    return timedelta(milliseconds=min(age, 10**14)) if age >= 0 else None, size >= 0


def _topic(
    name: str, places: list[_Place], starts: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> TopicOffsets:
    partitions = sorted(place.partition for place in places)
    return TopicOffsets(
        topic=name,
        topic_id=partitions[0].topic_id,
        log_start={p.index: starts[p] for p in partitions},
        log_end={p.index: ends[p] for p in partitions},
    )


def _by_node(places: Iterable[_Place]) -> Mapping[int, list[_Place]]:
    grouped: dict[int, list[_Place]] = defaultdict(list)
    for place in places:
        grouped[place.leader].append(place)
    return grouped


def _chunks(places: list[_Place]) -> Iterator[list[_Place]]:
    waiting = iter(places)
    while chunk := list(islice(waiting, PARTITIONS_AT_ONCE)):
        yield chunk


def _list_request(places: Iterable[_Place], at: int, isolation: int) -> Any:
    of = ListOffsetsRequest.ListOffsetsTopic
    topics = [
        of(
            name=name,
            partitions=[
                of.ListOffsetsPartition(partition_index=p.partition.index, timestamp=int(at)) for p in mine
            ],
        )
        for name, mine in _by_topic(places).items()
    ]
    return ListOffsetsRequest(isolation_level=isolation, topics=topics)


def _fetch_request(places: list[_Place], offsets: Mapping[Partition, int]) -> Any:
    of = FetchRequest.FetchTopic
    topics = [
        of(
            topic=name,
            topic_id=mine[0].uuid,
            partitions=[
                of.FetchPartition(
                    partition=p.partition.index,
                    fetch_offset=offsets[p.partition],
                    partition_max_bytes=FETCH_BYTES,
                )
                for p in mine
            ],
        )
        for name, mine in _by_topic(places).items()
    ]
    return FetchRequest(
        max_wait_ms=0,
        min_bytes=0,
        max_bytes=len(places) * FETCH_BYTES,
        isolation_level=READ_COMMITTED,
        session_epoch=-1,
        topics=topics,
    )


def _by_topic(places: Iterable[_Place]) -> Mapping[str, list[_Place]]:
    grouped: dict[str, list[_Place]] = defaultdict(list)
    for place in places:
        grouped[place.partition.topic].append(place)
    return grouped
