"""Whether a file holds what its batch says: records of its ranges, all of the hour it is registered for.

Judged by the statistics in the file's footer, and by its records where these cannot tell (ADR 0014), so that
a file that was registered for other records is found before anything is committed (I2), and one that no
table could take is never past the commit point.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.batch import hour_number, hour_text, numbered_hour
from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.offsets import OffsetRange


@dataclass(frozen=True, slots=True)
class Span:
    """The smallest and the largest value of a column, both included."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where the records of one row group come from, and the hours (since 1970) they are routed to."""

    partitions: Span
    offsets: Span
    hours: Span

    @property
    def shared(self) -> bool:
        """By several partitions: one span of offsets is that of all of them."""
        return self.partitions.lowest != self.partitions.highest


def hour_problem(key: str, hour: datetime, groups: Iterable[RowGroup] | None) -> str | None:
    """Why a file cannot be of the hour it is registered for, or None."""
    if groups is None:
        return f"{key} does not say where its rows come from (kafka_partition, kafka_offset and a timestamp)"
    wanted = hour_number(hour)
    for group in groups:
        for found in (group.hours.lowest, group.hours.highest):
            if found != wanted:
                return f"{key} is registered for {hour_text(hour)}, it has rows of {_hour_numbered(found)}"
    return None


def origin_problem(key: str, groups: Iterable[RowGroup] | None, ranges: Iterable[OffsetRange]) -> str | None:
    """Why a file has records from outside the ranges of its batch, or None. No group may be shared: it would
    hide which offset is whose."""
    by_index = {r.partition.index: r for r in ranges}
    for group in groups or ():
        if group.shared:
            raise InvariantBroken(f"{key}: a row group of several partitions is to be split first: {group}")
        index, offsets = group.partitions.lowest, group.offsets
        if (read := by_index.get(index)) is None:
            return f"{key} has records of partition {index}, its batch read {sorted(by_index)}"
        if offsets.lowest < read.start or offsets.highest >= read.end:
            return (
                f"{key} has offsets {offsets.lowest} to {offsets.highest} of partition {index}, "
                f"its batch read {read}"
            )
    return None


def _hour_numbered(number: int) -> str:
    try:
        return hour_text(numbered_hour(number))
    except OverflowError:
        return f"hour {number} since 1970"
