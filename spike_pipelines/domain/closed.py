"""When an hour of a dataset is complete: `closed` (ADR 0011).

An hour may close once its end and the allowed lateness have passed. Kafka's log ends are then written
down, once: whatever had arrived by that moment lies before them. The hour is closed when every partition
has committed up to its end. A partition without new records is there already, so it does not block; one
that is added later only has what came later. No clock of a producer takes part.

What a live batch commits into a closed hour afterwards is *late*. What could not be observed closes nothing
(I12): without log ends there is nothing to reach.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from spike_pipelines.domain.backfill import MOST_HOURS
from spike_pipelines.domain.batch import ONE_HOUR, hour_of
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.operations import Move


@dataclass(frozen=True, slots=True)
class Closing:
    """One hour of a dataset on its way to being closed, and the evidence.

    `ends`: Kafka's log ends (as `read_uncommitted` sees them: open transactions count as arrived), asked
    for after `observed_at`, which is not before `due_at`. `sequence` is the dataset's number when the hour
    was closed, `told` the one up to which an event has told of it.
    """

    id: int
    dataset: str
    hour: datetime
    due_at: datetime
    observed_at: datetime
    ends: Mapping[Partition, int]
    closed_at: datetime | None = None
    sequence: int | None = None
    told: int | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """A partition that has not committed all that had arrived; `committed` is None before its first read."""

    partition: Partition
    committed: int | None
    end: int

    def __str__(self) -> str:
        return f"{self.partition} has committed up to {self.committed or 0} of {self.end}"


def due_at(hour: datetime, lateness: timedelta) -> datetime:
    return hour + ONE_HOUR + lateness


def last_due(lateness: timedelta, now: datetime) -> datetime:
    """The newest hour that may be closed by now."""
    return hour_of(now - lateness) - ONE_HOUR


def due_hours(
    first: datetime, last: datetime, filed: Iterable[datetime], known: Collection[datetime]
) -> tuple[datetime, ...]:
    """Hours to look at up to `last`, oldest first: all from `first` on, also those without a record, and
    older ones that have files; not those that are `known`."""
    found = {hour for hour in filed if hour <= last}
    hour = hour_of(first)
    while hour <= last:
        found.add(hour)
        hour += ONE_HOUR
    return tuple(sorted(found - set(known)))


def behind(ends: Mapping[Partition, int], positions: Mapping[Partition, Position]) -> tuple[Behind, ...]:
    """The partitions that keep an hour open. `positions` has those of deleted topics too: of these, what is
    staged is still committed, and nothing more can come. A topic that was made again proves nothing before
    somebody has decided about the old one (I10)."""
    read = {p.topic_id for p in positions}
    found = [
        Behind(p, x.committed_end, x.staged_end)
        for p, x in positions.items()
        if x.closed and x.committed_end < x.staged_end
    ]
    for partition, end in ends.items():
        position = positions.get(partition)
        if position is None:
            found += [Behind(partition, None, end)] if end > 0 or partition.topic_id not in read else []
        elif not position.closed and position.committed_end < end:
            found.append(Behind(partition, position.committed_end, end))
    return tuple(sorted(found, key=lambda b: b.partition))


def reopened(closings: Iterable[Closing], moves: Iterable[Move]) -> tuple[Closing, ...]:
    """Closed hours of which a move takes back something that had to be committed for them."""
    to = {move.partition: move.to for move in moves}
    return tuple(
        c
        for c in closings
        if c.closed_at is not None and any(to.get(p, end) < end for p, end in c.ends.items())
    )


def hour_ranges(hours: Iterable[datetime]) -> tuple[tuple[datetime, datetime], ...]:
    """Hours as few ranges, the first and the last hour of each: as `spike backfill` takes them, so none is
    longer than it takes at once."""
    found: list[tuple[datetime, datetime]] = []
    for hour in sorted(set(hours)):
        if found and found[-1][1] + ONE_HOUR == hour < found[-1][0] + MOST_HOURS * ONE_HOUR:
            found[-1] = (found[-1][0], hour)
        else:
            found.append((hour, hour))
    return tuple(found)
