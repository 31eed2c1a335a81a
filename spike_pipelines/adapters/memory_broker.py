"""A broker in memory, for tests that need speed. It passes the contract suite of the real one."""

import base64
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from spike_pipelines.domain.errors import TopicChanged, TopicMissing, Transient
from spike_pipelines.domain.offsets import Partition, RecordTime, TopicOffsets
from spike_pipelines.ports import FirstRecords, Survey, SurveyedTopic


@dataclass(slots=True)
class _Log:
    """One partition: records by offset, in order; control records take an offset and are not there. `open`
    offsets follow the end and belong to a transaction that has not ended."""

    start: int = 0
    end: int = 0
    open: int = 0
    records: dict[int, datetime] = field(default_factory=dict)


@dataclass(slots=True)
class _Topic:
    id: str
    logs: dict[int, _Log]


class MemoryBroker:
    """`Broker`, `Surveyor`, `OffsetMirror`, and what a producer and an administrator do. `up = False` makes
    it `Transient`; `dark` topics have lost their broker."""

    def __init__(self) -> None:
        self.up = True
        self.dark: set[str] = set()  # topics whose broker is down
        self.retention: dict[str, timedelta] = {}
        self.by_size: set[str] = set()  # topics with a `retention.bytes`
        self.groups: dict[str, dict[Partition, int]] = {}
        self._topics: dict[str, _Topic] = {}

    def create(self, topic: str, partitions: int = 1) -> None:
        topic_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._topics[topic] = _Topic(topic_id, {index: _Log() for index in range(partitions)})

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Grow to `partitions` in all."""
        logs = self._topics[topic].logs
        logs.update({index: _Log() for index in range(len(logs), partitions)})

    def delete(self, topic: str) -> None:
        del self._topics[topic]

    def append(self, topic: str, partition: int, *timestamps: datetime) -> None:
        log = self._topics[topic].logs[partition]
        for timestamp in timestamps:
            log.records[log.end] = timestamp
            log.end += 1

    def append_control(self, topic: str, partition: int) -> None:
        """The end of a transaction: an offset that no consumer sees."""
        self._topics[topic].logs[partition].end += 1

    def open_transaction(self, topic: str, partition: int, records: int) -> None:
        """Readers of what is committed do not see them."""
        self._topics[topic].logs[partition].open += records

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        log = self._topics[topic].logs[partition]
        log.start = max(log.start, before)
        log.records = {offset: at for offset, at in log.records.items() if offset >= before}

    def truncate(self, topic: str, partition: int, end: int) -> None:
        """An unclean election: the new leader never had what lies beyond `end`."""
        log = self._topics[topic].logs[partition]
        log.end = min(log.end, end)
        log.records = {offset: at for offset, at in log.records.items() if offset < end}

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicOffsets]:
        self._check_up()
        return {name: self._offsets(name) for name in sorted(set(names)) if name in self._topics}

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        self._check_up()
        return {p: self._offset_at(self._log(p), at) for p in partitions}

    def survey(self, names: Iterable[str], *, elsewhere: bool = False) -> Survey:  # noqa: ARG002  # it is one
        self._check_up()
        there = [name for name in sorted(set(names)) if name in self._topics]
        problems = {
            n: f"topic {n}: partition 0 has no leader: a broker is down" for n in there if n in self.dark
        }
        found = {
            n: SurveyedTopic(
                self._offsets(n), self.retention.get(n), n in self.by_size, self._high_watermarks(n)
            )
            for n in there
            if n not in self.dark
        }
        return Survey(found, problems)

    def first_records_after(self, offsets: Mapping[Partition, int]) -> FirstRecords:
        self._check_up()
        known = {
            p: o
            for p, o in offsets.items()
            if p.topic not in self.dark and p.topic in self._topics and self._topics[p.topic].id == p.topic_id
        }
        left_out = {p: "no leader, or another topic of that name" for p in offsets if p not in known}
        beyond = {p: f"its log ends below {o}" for p, o in known.items() if o > self._log(p).end}
        found = {p: self._first(self._log(p), o) for p, o in known.items() if p not in beyond}
        return FirstRecords(found, left_out | beyond)

    def mirror(self, groups: Mapping[str, Mapping[Partition, int]]) -> Mapping[str, str]:
        self._check_up()
        self.groups.update({group: dict(offsets) for group, offsets in groups.items()})
        return {}

    def close(self) -> None:
        """As the real one has it."""

    def _check_up(self) -> None:
        if not self.up:
            raise Transient("the broker in memory is down")

    def _log(self, partition: Partition) -> _Log:
        topic = self._topics.get(partition.topic)
        if topic is None:
            raise TopicMissing(f"topic {partition.topic} does not exist")
        if topic.id != partition.topic_id or partition.index not in topic.logs:
            raise TopicChanged(
                f"{partition} of topic id {partition.topic_id} is not there; it is {topic.id} now"
            )
        return topic.logs[partition.index]

    def _offsets(self, name: str) -> TopicOffsets:
        topic = self._topics[name]
        return TopicOffsets(
            topic=name,
            topic_id=topic.id,
            log_start={index: log.start for index, log in topic.logs.items()},
            log_end={index: log.end for index, log in topic.logs.items()},
        )

    def _high_watermarks(self, name: str) -> Mapping[int, int]:
        return {index: log.end + log.open for index, log in self._topics[name].logs.items()}

    @staticmethod
    def _offset_at(log: _Log, at: datetime) -> int:
        return next((offset for offset, timestamp in log.records.items() if timestamp >= at), log.end)

    @staticmethod
    def _first(log: _Log, wanted: int) -> RecordTime | None:
        found = ((offset, at) for offset, at in log.records.items() if offset >= wanted)
        return next((RecordTime(offset, at) for offset, at in found), None)
