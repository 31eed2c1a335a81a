"""A new dataset from an old topic: where its spike begins, and what Kafka no longer has for it. Pure.

It is a spike of its own that reads the topic from there on, up to the live end and along with it; nothing of
the old one changes. A bounded copy would stop at an offset that nothing goes on from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.backfill import gone
from spike_pipelines.domain.batch import hour_text
from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.offsets import OffsetRange, Partition, TopicOffsets, merged
from spike_pipelines.domain.words import some

_MOST_TOLD = 20


class ForkLoses(Refused):
    """The old spike has read records of the time that Kafka no longer has."""

    code = "fork_loses"


@dataclass(frozen=True, slots=True)
class Fork:
    """`pieces` are there to be read now; of `lost` the old spike has records, the new one cannot.
    `since` is None for all that Kafka has."""

    since: datetime | None
    pieces: tuple[OffsetRange, ...]
    lost: tuple[OffsetRange, ...]

    @property
    def starts(self) -> Mapping[Partition, int]:
        """Where the new spike begins, whatever Kafka deletes until its driver starts. Empty where it takes
        all that Kafka has then."""
        return {} if self.since is None else {r.partition: r.start for r in self.pieces}

    def told_loss(self) -> str:
        return some(self.lost, _MOST_TOLD)


def fork(
    since: datetime | None,
    topic: TopicOffsets,
    at_time: Mapping[Partition, int],
    had: Iterable[OffsetRange],
) -> Fork:
    """`at_time`: offsets of `since`, where it is given. `had`: ranges with records of that time or later
    that the old spike has read."""
    pieces = []
    for partition in topic.partitions():
        first, end = topic.log_start[partition.index], topic.log_end[partition.index]
        pieces.append(OffsetRange(partition, min(max(first, at_time.get(partition, first)), end), end))
    return Fork(since, tuple(pieces), merged(gone(had, topic)))


def check_loss(found: Fork, *, accept_loss: bool) -> None:
    """Raise `ForkLoses`, naming the ranges. Who asks for all that Kafka has, has asked for no more."""
    if found.lost and found.since is not None and not accept_loss:
        raise ForkLoses(
            f"since {hour_text(found.since)} Kafka no longer has {found.told_loss()}: leave --from out to "
            "begin with what there is, or say --accept-loss --why …"
        )
