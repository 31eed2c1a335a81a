"""When a record arrived, whatever the clock says that stamped it (ADR 0003).

A look at the high watermarks of a topic is a witness: a record at or beyond a watermark had not arrived when
the look began, and one below it had when the look was over. Looks are of one clock, the ledger's, and so is
`now`; a record's timestamp, of the producer's or the broker's, is believed in between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from spike_pipelines.domain.offsets import RecordTime

EVERY = timedelta(minutes=1)  # looks that are closer than this add nothing
SHARE = 0.5  # of the younger one's age: what may lie between two looks further back
MEMORY = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """High watermarks of the topic `topic_id` by partition number: log ends, with what belongs to open
    transactions. They were asked for after `asked_at` and known at `at`."""

    asked_at: datetime
    at: datetime
    topic_id: str
    ends: tuple[int, ...]


def arrived_at(record: RecordTime, partition: int, looks: Iterable[Watermarks]) -> datetime:
    """As its timestamps say, but within what the looks at its topic saw. A look from before the partition
    was added says nothing of it."""
    mine = [look for look in looks if partition < len(look.ends)]
    not_yet = [look.asked_at for look in mine if look.ends[partition] <= record.offset]
    already = [look.at for look in mine if look.ends[partition] > record.offset]
    return min((max((record.stamped_at, *not_yet)), *already))


def kept(looks: Iterable[Watermarks], now: Watermarks) -> tuple[Watermarks, ...]:
    """The witnesses of the next look, oldest first; this one is the last of them.

    Of another topic none is. A log whose end went back (an unclean election, or a broker that was not the
    leader any more) is none either, nor is what was seen of it before: which records stand there now, and
    since when, no look can tell."""
    known = [x for x in looks if x.topic_id == now.topic_id and x.at < now.at and now.at - x.at <= MEMORY]
    if known and any(b < a for a, b in zip(known[-1].ends, now.ends, strict=False)):
        return ()
    return _thinned([*known, now])


def _thinned(looks: Sequence[Watermarks]) -> tuple[Watermarks, ...]:
    """Without those whose neighbours are near enough to one another: a minute for what arrived lately, more
    the longer ago it is. So there are few, and each age is known about as well as any other."""
    found = list(looks[:1])
    for look, newer in pairwise(looks[1:]):
        age = looks[-1].at - newer.at
        if newer.at - found[-1].at > max(EVERY, age * SHARE):
            found.append(look)
    return (*found, *looks[1:][-1:])
