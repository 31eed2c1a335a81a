"""Which offsets a micro-batch covers, from the offset log of Structured Streaming's checkpoint.

The rows cannot tell: transactions and compaction leave gaps. Format (Spark's `OffsetSeqLog`, v1): a line
with the version, one of JSON with `batchTimestampMs` (when the batch was planned), and for each source
the offsets *after* the batch: `{"topic": {"0": 42}}`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.offsets import OffsetRange, Partition

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """`ends` maps a partition's index to the next offset after the batch."""

    planned_at: datetime
    ends: Mapping[int, int]


def read_planned(checkpoint: Path, batch_id: int, topic: str) -> PlannedBatch:
    path = checkpoint / "offsets" / str(batch_id)
    try:
        return parse_planned(path.read_text(encoding="utf-8"), topic)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvariantBroken(f"offset log of batch {batch_id} at {path} cannot be read: {error}") from error


def parse_planned(text: str, topic: str) -> PlannedBatch:
    """Raises `ValueError`, `KeyError` or `TypeError` for any other text than the one source's log entry."""
    version, metadata, *sources = text.strip().split("\n")
    if version != "v1" or len(sources) != 1:
        raise ValueError(f"expected version v1 and one source, found {version!r} and {len(sources)}")
    offsets = json.loads(sources[0])
    if set(offsets) != {topic}:
        raise ValueError(f"expected offsets of topic {topic}, found {sorted(offsets)}")
    planned_at = _EPOCH + timedelta(milliseconds=json.loads(metadata)["batchTimestampMs"])
    return PlannedBatch(planned_at, {int(index): int(end) for index, end in offsets[topic].items()})


def planned_ranges(
    topic: str, topic_id: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> tuple[OffsetRange, ...]:
    """The ranges a batch covers, in order; partitions in which it does not move are left out.

    `starts` are the ends of the batch before, or the grant's offsets. A partition that is not in it
    appeared since; Spark reads it from its log start, and refuses (`failOnDataLoss`) if that is not 0.
    A partition that is gone breaks an invariant: Kafka cannot remove one.
    """
    gone = starts.keys() - ends.keys()
    if gone:
        raise InvariantBroken(f"topic {topic}: partitions {sorted(gone)} are not in the offset log any more")
    ranges = (
        OffsetRange(Partition(topic, topic_id, index), starts.get(index, 0), end)
        for index, end in sorted(ends.items())
    )
    return tuple(r for r in ranges if len(r))
