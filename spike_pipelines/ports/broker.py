"""Kafka, as the platform looks at it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from spike_pipelines.domain.offsets import Partition, RecordTime, TopicOffsets


class Broker(Protocol):
    """What the platform asks of Kafka. Never writes to a topic.

    Where partitions are named, a topic that is not there raises `TopicMissing`, and one with another id
    `TopicChanged`.
    """

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicOffsets]:
        """Ids, log starts and log ends (as `read_uncommitted` sees them) of the topics that exist.

        One round of requests for all; a topic that does not exist is not in the answer.
        Raises `Transient` if any part of the answer is missing.
        """

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        """For each partition the first offset with a timestamp of `at` or later; the log end if none."""


@dataclass(frozen=True, slots=True)
class SurveyedTopic:
    """Offsets as a `read_committed` reader sees them (the end is the last stable offset), and for how long
    Kafka keeps records; None: not deleted by age. `by_size`: what is beyond a size is deleted too.
    `high_watermarks`: by partition number where the log ends with what belongs to open transactions."""

    offsets: TopicOffsets
    retention: timedelta | None = None
    by_size: bool = False
    high_watermarks: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen of many topics. A topic with a problem (a sentence) was not seen in full and is not
    among `topics`; one that is in neither does not exist."""

    topics: Mapping[str, SurveyedTopic]
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FirstRecords:
    """The first committed record at or after an offset, None if there is none. A partition that could not be
    read is not among `records`, and `problems` says why."""

    records: Mapping[Partition, RecordTime | None]
    problems: Mapping[Partition, str] = field(default_factory=dict)


class Surveyor(Protocol):
    """Kafka as those see it who watch a fleet: one broker that is down hides its own topics only (I11)."""

    def survey(self, names: Iterable[str], *, elsewhere: bool = False) -> Survey:
        """One round of requests for all topics. `elsewhere`: by way of another broker than the one that told
        of topics and leaders last, where there is one. Raises `Transient` if nobody answers."""

    def first_records_after(self, offsets: Mapping[Partition, int]) -> FirstRecords:
        """For each partition, one offset. Raises `Transient` if nobody answers."""

    def offsets_at(self, partitions: Iterable[Partition], at: datetime) -> Mapping[Partition, int]:
        """As `Broker` has it, for the partitions that could be asked: the others are absent. Raises
        `Transient` if nobody answers."""


class OffsetMirror(Protocol):
    """Consumer groups, so that every Kafka tool shows what is committed. Written, never read back."""

    def mirror(self, groups: Mapping[str, Mapping[Partition, int]]) -> Mapping[str, str]:
        """Set each group's offsets; answers the groups that refused, with the reason. Raises `Transient` if
        nobody answers."""
