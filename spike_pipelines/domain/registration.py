"""What a driver may register: the rules for file lists, ranges and counts (design, section 6)."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile, hour_of
from spike_pipelines.domain.errors import BadKey, Duplicate, Refused, TopicChanged
from spike_pipelines.domain.offsets import OffsetRange, TopicOffsets
from spike_pipelines.domain.words import count_of

MAX_RECORDS = 2**62  # of one batch: far beyond any, and sums of it still fit the ledger's 64 bits
MAX_FUTURE = timedelta(hours=1)
"""A record whose Kafka timestamp is further ahead than this is a dead letter (design, 3.2)."""

# Letters, digits and the punctuation that no client, proxy or server ever rewrites.
_SAFE_KEY = re.compile(r"[A-Za-z0-9._=\-]+(/[A-Za-z0-9._=\-]+)*\Z")


def check_key(key: str, *, field: str) -> None:
    """Raise `Refused` unless `key` is relative, plain and stays below its prefix."""
    if not _SAFE_KEY.match(key) or any(part in {".", ".."} for part in key.split("/")):
        raise BadKey(
            f"{key!r} is not a plain relative key (letters, digits, '.', '_', '=', '-' between slashes)",
            field=field,
        )


def check_batch(batch: NewBatch) -> None:
    """Raise `Refused` with the field that contradicts another one or itself.

    Counts are held against the rows that the file list says. Whether those are *in* the files is not asked
    here: the appender counts that itself and holds the batch (I8).
    """
    _check_ranges(batch.ranges)
    _check_files(batch.files)
    _check_hours(batch.hours)
    _check_files_have_counts(batch)


def _check_ranges(ranges: Collection[OffsetRange]) -> None:
    seen: set[tuple[str, int]] = set()
    for i, r in enumerate(ranges):
        place = (r.partition.topic, r.partition.index)
        if place in seen:
            raise Duplicate(f"{r.partition} is listed twice", field=f"ranges[{i}]")
        seen.add(place)
    if not any(len(r) for r in ranges):
        raise Refused("no range has a record: an empty batch is not registered", field="ranges")


def _check_files(files: Iterable[StagedFile]) -> None:
    seen: set[str] = set()
    for i, f in enumerate(files):
        check_key(f.key, field=f"files[{i}].key")
        if f.key in seen:
            raise Duplicate(f"{f.key!r} is listed twice", field=f"files[{i}].key")
        seen.add(f.key)
        if not _is_full_hour(f.hour):
            raise Refused(f"{f.hour.isoformat()} is not a full UTC hour", field=f"files[{i}].hour")


def _check_hours(counts: Collection[HourCounts]) -> None:
    hours = [h.hour for h in counts]
    if not all(map(_is_full_hour, hours)):
        raise Refused("hours must be full UTC hours", field="hours")
    if len(set(hours)) != len(hours):
        raise Duplicate("an hour is listed twice", field="hours")
    if sum(h.read for h in counts) > MAX_RECORDS:
        raise Refused(f"more than {MAX_RECORDS} records in one batch", field="hours")


def _is_full_hour(hour: datetime) -> bool:
    """Of UTC. Times whose UTC date is outside the calendar are none."""
    try:
        return hour == hour_of(hour)
    except OverflowError:
        return False


def _check_files_have_counts(batch: NewBatch) -> None:
    rows: Counter[tuple[datetime, FileKind]] = Counter()
    counts = {(h.hour, kind): getattr(h, kind) for h in batch.hours for kind in FileKind}
    for i, f in enumerate(batch.files):
        if (f.hour, f.kind) not in counts:
            raise Refused(f"no counts are given for the hour {f.hour.isoformat()}", field=f"files[{i}].hour")
        rows[f.hour, f.kind] += f.rows
    for i, h in enumerate(batch.hours):
        for kind in FileKind:
            if (counted := counts[h.hour, kind]) != (listed := rows[h.hour, kind]):
                raise Refused(
                    f"{count_of(counted, f'{kind} record is', f'{kind} records are')} counted in the hour "
                    f"{h.hour.isoformat()}, its files have {count_of(listed, 'row')}",
                    field=f"hours[{i}].{kind}",
                )


def check_against_broker(batch: NewBatch, topic: TopicOffsets) -> None:
    """Raise unless every range lies in the spike's own topic, as the broker has it now.

    Errors: `Refused` (another topic, an unknown partition, an end beyond the broker's), `TopicChanged`.
    """
    for i, r in enumerate(batch.ranges):
        if r.partition.topic != topic.topic:
            raise Refused(
                f"{r.partition} is not of this spike's topic {topic.topic}", field=f"ranges[{i}].topic"
            )
        if r.partition.topic_id != topic.topic_id:
            raise TopicChanged(
                f"topic {topic.topic} has id {topic.topic_id}, the batch was read from {r.partition.topic_id}"
            )
        end = topic.log_end.get(r.partition.index)
        if end is None:
            raise Refused(f"the broker has no partition {r.partition}", field=f"ranges[{i}].partition")
        if r.end > end:
            raise Refused(f"{r} ends beyond the broker's end offset {end}", field=f"ranges[{i}].end")
