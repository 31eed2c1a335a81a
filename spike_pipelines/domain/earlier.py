"""Hours that are older than the ledger: what Kafka has of them below where the spike began (ADR 0013). Pure.

Where such an hour's records lie, only Kafka's log can tell. A lookup by timestamp says where they begin at
the earliest: every record of an hour lies at or behind the first one with a timestamp of its begin or later.
It says nothing of where they end, so all up to the spike's baseline is looked through, once for all hours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.offsets import OffsetRange, Partition, TopicOffsets
from spike_pipelines.domain.registration import MAX_FUTURE


@dataclass(frozen=True, slots=True)
class EarlierFacts:
    """What the ledger knows of the time before it. The spike's first batch was committed when it `began`
    (None: it has none), `baselines` are the first offsets it was to read, `read` are hours of which what lies
    below has been read."""

    began: datetime | None
    baselines: Mapping[Partition, int]
    read: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """In one partition all records of an hour, `records` of them, lie within `range`, whose first and last
    offset are such ones. Those of other hours may lie between."""

    hour: datetime
    range: OffsetRange
    records: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What was looked for below where the spike began, and what was found."""

    hours: frozenset[datetime] = frozenset()
    places: tuple[Place, ...] = ()

    def of(self, hour: datetime) -> tuple[Place, ...]:
        return tuple(place for place in self.places if place.hour == hour)


def older_hours(hours: Iterable[datetime], facts: EarlierFacts) -> tuple[datetime, ...]:
    """Those that may have records below where the spike began and not been read there. What had arrived by
    then cannot be of an hour much later: it would be out of range."""
    began = facts.began
    if began is None:
        return ()
    return tuple(sorted(h for h in set(hours) - facts.read if h < began + MAX_FUTURE))


def below(since: Mapping[Partition, int], baselines: Mapping[Partition, int]) -> tuple[OffsetRange, ...]:
    """From the offsets of a lookup to where the spike began."""
    found = (OffsetRange(p, min(at, baselines[p]), baselines[p]) for p, at in since.items() if p in baselines)
    return tuple(sorted(r for r in found if len(r)))


def check_still_below(places: Iterable[Place], facts: EarlierFacts) -> None:
    """Raise `Refused` where the live stream reads a place by now: it would be there twice (I2)."""
    for r in (place.range for place in places):
        if r.end > facts.baselines.get(r.partition, 0):
            raise Refused(f"{r} was taken into the live stream meanwhile, by a rewind: look again")


def deleted_from(facts: EarlierFacts, topic: TopicOffsets | None) -> tuple[Partition, ...]:
    """Partitions of which Kafka deleted something that lay below where the spike began."""
    if topic is None:
        return ()
    return tuple(p for p in topic.partitions() if facts.baselines.get(p, 0) and topic.log_start[p.index])


def cut_off(since: Mapping[Partition, int], first: Mapping[Partition, int]) -> tuple[Partition, ...]:
    """Of partitions that were deleted from, those in which the hour begins (`since`, a lookup) no later than
    the log's `first` record, which a lookup finds too: the log's start may be an offset without a record.
    Nobody can tell whether what was before it was of the hour."""
    return tuple(sorted(p for p, at in since.items() if at <= first[p]))
