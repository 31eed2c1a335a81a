"""What the backfill of one hour reads again and replaces (ADR 0010). Pure.

The unit is a driver's batch: one that had a record of the hour, filtered ones included, is read again with
all of its ranges, and of what is read only the hour's records are kept. How many these must be, the ledger
knows: what drivers' batches counted for the hour, and what swaps moved into it or out of it since.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.batch import ONE_HOUR, hour_of, hour_text
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import OffsetRange, Partition, TopicOffsets, merged, total
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.words import count_of, some

MOST_HOURS = 24 * 31  # of one request
MOST_PIECES = 200  # of one partition: places in its log that do not touch


@dataclass(frozen=True, slots=True)
class Feed:
    """A committed batch that read its records first (a driver's, or one below where the spike began), and how
    many `records` it counted for the hour: final, dead-lettered and filtered ones. `unaccounted` is the
    batch's own, of all its hours."""

    batch: int
    ranges: tuple[OffsetRange, ...]
    records: int
    unaccounted: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """A finished swap that had to do with the hour: how many records more the hour has since, and the
    drivers' batches that its records come from."""

    batch: int
    sources: frozenset[int]
    change: int


@dataclass(frozen=True, slots=True)
class Dead:
    """A live dead-letter file, and the drivers' batches that its records come from. It tells where records
    belong that have no usable timestamp."""

    key: str
    sources: frozenset[int]


@dataclass(frozen=True, slots=True)
class HourFacts:
    """What the ledger knows of one hour at one moment. `files` are its live ones, of both kinds; `dead` are
    the feeds' live dead-letter files of any hour."""

    hour: datetime
    files: tuple[LedgerFile, ...]
    feeds: tuple[Feed, ...]
    moved: tuple[Moved, ...] = ()
    dead: tuple[Dead, ...] = ()


@dataclass(frozen=True, slots=True)
class HourPlan:
    """`sources` are read again, the files `replaces` give way, and `expected` records must come out. Of
    `lost` nothing can be read; the files `kept` hold what came of it, and stay. `dead` are keys of files."""

    hour: datetime
    sources: tuple[int, ...]
    pieces: tuple[OffsetRange, ...]
    replaces: tuple[LedgerFile, ...]
    expected: int
    dead: tuple[str, ...]
    kept: tuple[LedgerFile, ...] = ()
    lost: tuple[OffsetRange, ...] = ()


class Expired(Refused):
    """Kafka no longer has all that the hour was made of."""

    code = "expired"


def plan_hour(facts: HourFacts, topic: TopicOffsets | None, *, accept_loss: bool) -> HourPlan | None:
    """The plan, or None for an hour that nothing was ever read for. Errors: `Expired`, `Refused`."""
    if not facts.feeds:
        return None
    lost = {f.batch: missing for f in facts.feeds if (missing := gone(f.ranges, topic))}
    if lost and (not accept_loss or len(lost) == len(facts.feeds)):
        raise Expired(
            _told(facts.hour, [r for missing in lost.values() for r in missing], all_of=accept_loss)
        )
    feeds = [f for f in facts.feeds if f.batch not in lost]
    _check_accounted(facts.hour, feeds)
    readable, known = frozenset(f.batch for f in feeds), frozenset(f.batch for f in facts.feeds)
    origin = {m.batch: m.sources & known for m in facts.moved}
    replaces = [f for f in facts.files if _readable(f, origin.get(f.batch, {f.batch}), readable)]
    moved = sum(m.change for m in facts.moved if _counts(facts.hour, m, known, readable))
    return HourPlan(
        hour=facts.hour,
        sources=tuple(sorted(readable)),
        pieces=merged(r for f in feeds for r in f.ranges),
        replaces=tuple(replaces),
        expected=sum(f.records for f in feeds) + moved,
        dead=tuple(d.key for d in facts.dead if d.sources & readable),
        kept=tuple(f for f in facts.files if f not in replaces),
        lost=tuple(sorted(r for missing in lost.values() for r in missing)),
    )


def gone(ranges: Iterable[OffsetRange], topic: TopicOffsets | None) -> tuple[OffsetRange, ...]:
    """What of the ranges Kafka no longer has."""
    found = []
    for r in ranges:
        start = _start(r.partition, topic)
        end = r.end if start is None else min(r.end, start)
        if r.start < end:
            found.append(OffsetRange(r.partition, r.start, end))
    return tuple(found)


def _start(partition: Partition, topic: TopicOffsets | None) -> int | None:
    """Of the partition's log; None where the topic or this incarnation of it is gone."""
    if topic is None or topic.topic_id != partition.topic_id:
        return None
    return topic.log_start.get(partition.index)


def _told(hour: datetime, lost: Iterable[OffsetRange], *, all_of: bool) -> str:
    named = some(merged(lost), 20)
    way_out = (
        "no batch of the hour can be read again: its files stay as they are"
        if all_of
        else "to backfill what is left of the hour, and leave the files of the rest as they are, say "
        "--accept-loss --why …"
    )
    return f"{hour_text(hour)}: Kafka no longer has {named}; {way_out}"


def _check_accounted(hour: datetime, feeds: Iterable[Feed]) -> None:
    """A batch that was released has an unknown number of records in the hour: no count could be checked."""
    released = [f.batch for f in feeds if f.unaccounted]
    if released:
        raise Refused(
            f"{hour_text(hour)}: batch {released[0]} was released with records unaccounted for, so nobody "
            "can tell how many the hour must have; a rewind reads it again (`spike rewind`)"
        )


def _readable(file: LedgerFile, origin: Iterable[int], readable: frozenset[int]) -> bool:
    """Whether all of the file's records can be read again, or none. Raises `Refused` for a file of both."""
    origin = frozenset(origin)
    if origin and origin <= readable:
        return True
    if not origin & readable:
        return False
    raise Refused(
        f"{file.final_key} holds records of batches {_few(origin - readable)}, which Kafka no longer has, "
        f"beside those of {_few(origin & readable)}: it can be neither replaced nor kept, so the hour stays "
        "as it is"
    )


def _counts(hour: datetime, moved: Moved, known: frozenset[int], readable: frozenset[int]) -> bool:
    """Whether what the swap changed counts for what is read again."""
    origin = moved.sources & known
    if moved.change and origin & readable and not origin <= readable:
        raise Refused(
            f"{hour_text(hour)}: batch {moved.batch} of a swap moved records into or out of the hour, and "
            f"of those it came from Kafka has only a part ({_few(origin & readable)})"
        )
    return bool(origin) and origin <= readable


def _few(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:5])) + (", …" if len(ordered) > 5 else "")


def rounds(pieces: Iterable[OffsetRange]) -> tuple[tuple[OffsetRange, ...], ...]:
    """The pieces in as few groups as there can be, of each partition one piece at most: what one bounded
    read of Kafka can ask for. Raises `Refused` for more than `MOST_PIECES`."""
    groups: list[list[OffsetRange]] = []
    at: dict[Partition, int] = {}
    for piece in pieces:
        place = at[piece.partition] = at.get(piece.partition, -1) + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(piece)
    if len(groups) > MOST_PIECES:
        raise Refused(
            f"the hour's records lie in {len(groups)} places of one partition, more than {MOST_PIECES}: "
            "a rewind reads all of it again (`spike rewind`)"
        )
    return tuple(map(tuple, groups))


def whole_hour(time: datetime, said: str) -> datetime:
    """Raise `InvalidSpec` for a time within an hour: which of two hours is meant, nobody can tell. `said` is
    the option that it was said with."""
    if time != hour_of(time):
        raise InvalidSpec(
            f"{said} {time:%Y-%m-%dT%H:%M:%S} lies within an hour: hours begin on the hour, as "
            f"{hour_text(hour_of(time))}"
        )
    return time


def check_hours(first: datetime, last: datetime, start: datetime, now: datetime) -> tuple[datetime, ...]:
    """The UTC hours from `first` to `last`, both included. Raises `InvalidSpec` for hours before the
    dataset's `start`, or in the future, or none, or too many."""
    first, last = hour_of(first), hour_of(last)
    if last < first:
        raise InvalidSpec(f"--to {hour_text(last)} is before --from {hour_text(first)}")
    if last > now:
        raise InvalidSpec(f"{hour_text(last)} has not begun: it is {now:%Y-%m-%dT%H:%M} UTC")
    if first < hour_of(start):
        raise InvalidSpec(
            f"{hour_text(first)} is before the dataset's start, {start:%Y-%m-%dT%H:%M}: records of that "
            "time are dead letters; `dataset.start` in the application file says so"
        )
    count = (last - first) // ONE_HOUR + 1
    if count > MOST_HOURS:
        raise InvalidSpec(f"{count} hours are too many at once: {MOST_HOURS} at most")
    return tuple(first + n * ONE_HOUR for n in range(count))


def scan_problem(pieces: Iterable[OffsetRange], scanned: int, *, exact_topic: bool) -> str | None:
    """Why what was read cannot be all of the ranges (I8), or None. `scanned`: all records, those of other
    hours too."""
    offsets = total(pieces)
    if scanned > offsets or (exact_topic and scanned != offsets):
        return f"read {count_of(scanned, 'record')} from {count_of(offsets, 'offset')}"
    return None
