"""How fast the start of a log moves where Kafka deletes by size (`retention.bytes`).

Kafka deletes whole segments: the start stands still for an hour, and then an hour's records are gone at
once. One such step is no speed. Several are, from the first to the last: what was deleted after the first,
in all the time that it took.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

LOOK_BACK = timedelta(days=7)
STEPS_NEEDED = 3  # two intervals: with one, whoever looks at a bad moment sees any speed
STEPS_USED = 6  # the newest: what is produced at night says little of the day


@dataclass(frozen=True, slots=True)
class Look:
    """Log starts and staged ends of the topic `topic_id` at one moment, by partition number."""

    at: datetime
    topic_id: str | None
    starts: tuple[int, ...]
    staged_ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Deletion:
    """Offsets a second, the mean time from step to step, and how long ago the last one was seen."""

    per_second: float
    interval_seconds: float
    ago_seconds: float

    def seconds_to(self, room: int) -> float:
        """Until the start has come `room` offsets further. As if it moved evenly: so it is never later than
        the step that takes them. A step that is overdue is due; nothing is produced, and nothing deleted."""
        return max(room / self.per_second - min(self.ago_seconds, self.interval_seconds), 0.0)


def deletion(looks: Iterable[Look], now: Look, partition: int) -> Deletion | None:
    """Of one partition, from all looks up to `now`; None where fewer than `STEPS_NEEDED` steps were seen."""
    known = [x for x in looks if x.topic_id == now.topic_id and x.at < now.at and partition < len(x.starts)]
    steps = _steps((*sorted(known, key=lambda x: x.at), now), partition)[-STEPS_USED:]
    if len(steps) < STEPS_NEEDED:
        return None
    (first, before), (last, start) = steps[0], steps[-1]
    seconds = (last - first).total_seconds()
    return Deletion((start - before) / seconds, seconds / (len(steps) - 1), (now.at - last).total_seconds())


def _steps(looks: Sequence[Look], partition: int) -> list[tuple[datetime, int]]:
    """When the start was first seen at each place that it moved to, since it last passed what was staged:
    that was a loss, it is over, and says nothing of how fast the start will come again."""
    found: list[tuple[datetime, int]] = []
    for before, after in pairwise(looks):
        start = after.starts[partition]
        if start > before.staged_ends[partition] or start < before.starts[partition]:
            found.clear()
        elif start > before.starts[partition]:
            found.append((after.at, start))
    return found
