"""Where a driver goes on from, for every current partition of its topic (design, way of one batch, 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.errors import Lost, TopicChanged, Truncated
from spike_pipelines.domain.offsets import Partition, Position, TopicOffsets
from spike_pipelines.domain.spike import Start
from spike_pipelines.domain.words import count_of


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """`offsets` to go on from, and the `baselines` to write down for partitions seen the first time."""

    offsets: Mapping[Partition, int]
    baselines: Mapping[Partition, int]


def check_identity(positions: Mapping[Partition, Position], topic: TopicOffsets) -> None:
    """Raise `TopicChanged` if the ledger's positions are in another incarnation of the topic (I10)."""
    for known in positions:
        if known.topic == topic.topic and known.topic_id != topic.topic_id:
            raise TopicChanged(
                f"topic {topic.topic} has id {topic.topic_id}, the ledger's offsets belong to "
                f"{known.topic_id}: "
                "it was deleted and made again. Nothing is reset silently: "
                "`spike resume NAME --accept-loss --why …` begins with the new one"
            )


def check_ends(positions: Mapping[Partition, Position], topic: TopicOffsets) -> None:
    """Raise `Truncated` if the log ends below what is staged of it (I10): after an unclean election of a
    leader, or on a broker that lost its disk, those offsets are given to other records. A replica that is
    behind looks the same for a moment: who asks, asks twice. A log that has grown beyond the staged end
    again looks whole: offsets alone cannot tell it."""
    for partition, position in positions.items():
        log_end = topic.log_end.get(partition.index, position.staged_end)
        if partition.topic_id == topic.topic_id and log_end < position.staged_end:
            cut = count_of(position.staged_end - log_end, "offset was", "offsets were")
            raise Truncated(
                f"{partition}: records up to {position.staged_end} are staged, and Kafka's log ends at "
                f"{log_end}: {cut} cut off, and will be given to other records. "
                "Nothing more is read. If that replica comes back, it goes on; else `spike rewind NAME "
                f"--to {partition}:{log_end} --why …` gives up what is staged beyond, and reads on from there"
            )


def starting_point(
    positions: Mapping[Partition, Position],
    topic: TopicOffsets,
    start: Start | datetime,
    at_time: Mapping[Partition, int],
) -> StartingPoint:
    """The staged end where there is one; for a spike without any position its configured start; 0 for
    a partition that appeared later. `at_time` has the offsets of a start by time, else is empty.

    Errors: `TopicChanged`; `Lost` if Kafka's log starts beyond the point to go on from, `Truncated` if it
    ends before it.
    """
    check_identity(positions, topic)
    check_ends(positions, topic)
    baselines = {
        partition: 0 if positions else _configured_start(partition, topic, start, at_time)
        for partition in topic.partitions()
        if partition not in positions
    }
    offsets = {p: positions[p].staged_end if p in positions else baselines[p] for p in topic.partitions()}
    for partition, offset in offsets.items():
        log_start = topic.log_start[partition.index]
        if log_start > offset:
            raise Lost(
                f"{partition}: the next record to read is {offset}, and Kafka's log starts at {log_start}: "
                f"{count_of(log_start - offset, 'offset is', 'offsets are')} gone. "
                "`spike resume NAME --accept-loss --why …` declares them lost"
            )
    return StartingPoint(offsets, baselines)


def _configured_start(
    partition: Partition, topic: TopicOffsets, start: Start | datetime, at_time: Mapping[Partition, int]
) -> int:
    if start is Start.EARLIEST:
        return topic.log_start[partition.index]
    if start is Start.LATEST:
        return topic.log_end[partition.index]
    return at_time[partition]
