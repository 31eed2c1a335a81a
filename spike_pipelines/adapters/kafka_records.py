"""What a Fetch response's bytes say of the first record at or after an offset."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka.errors import UnsupportedCodecError
from kafka.record import MemoryRecords
from kafka.record.legacy_records import LegacyRecordBatch

from spike_pipelines.domain.offsets import RecordTime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MAX_MS = (LATEST - EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class GoOn:
    """No record in these bytes; the next offset to ask for (the same again if they held no whole batch)."""

    offset: int


class Undecodable(Exception):
    """These bytes are no records that we can read: the problem of one partition, and of no other (I11)."""


def first_committed_record(
    data: bytes | None, offset: int, aborted: Iterable[tuple[int, int]]
) -> RecordTime | GoOn:
    """As `_first` says. Raises `Undecodable`, whatever the library's parser raises on what it did not expect:
    its own errors, and those of struct, zlib and assertions."""
    try:
        return _first(data, offset, aborted)
    except Undecodable:
        raise
    except Exception as error:
        why = f": {error}" if str(error) else ""
        raise Undecodable(f"its records cannot be decoded: {type(error).__name__}{why}") from error


def _first(data: bytes | None, offset: int, aborted: Iterable[tuple[int, int]]) -> RecordTime | GoOn:
    """The first record with `offset` or more that is neither a control record (the end of a transaction)
    nor of an aborted transaction; these are given as (producer id, first offset).

    A batch may begin before the offset that was asked for, and one at the end may be cut off. A producer has
    one transaction at a time, so its next control record ends the aborted one.
    """
    pending = sorted(aborted, key=lambda a: a[1], reverse=True)
    open_: set[int] = set()
    for batch in MemoryRecords(data or b""):
        if isinstance(batch, LegacyRecordBatch):
            if found := _legacy(batch, offset):
                return found
            offset = max(offset, batch.base_offset + 1)
            continue
        while pending and pending[-1][1] <= batch.base_offset:
            open_.add(pending.pop()[0])
        if batch.is_control_batch:
            open_.discard(batch.producer_id)
            offset = max(offset, batch.next_offset)
            continue
        if batch.is_transactional and batch.producer_id in open_:
            offset = max(offset, batch.next_offset)
            continue
        for at, timestamp in _records(batch, offset):
            if at >= offset:
                return RecordTime(at, instant(timestamp), instant(batch.max_timestamp))
        offset = max(offset, batch.next_offset)
    return GoOn(offset)


def _legacy(batch: LegacyRecordBatch, wanted: int) -> RecordTime | None:
    """Formats v0 and v1, from before Kafka 0.11: no transactions, and the offset of a compressed batch is
    that of its last record."""
    if batch.base_offset < wanted:
        return None
    records = [(record.offset, record.timestamp) for record in batch]
    times = [timestamp for _, timestamp in records if timestamp is not None and timestamp >= 0]
    found = next((one for one in records if one[0] >= wanted), None)
    if found is None:
        return None
    if found[1] is None or found[1] < 0:
        raise Undecodable(f"its record at offset {found[0]} has no timestamp (format v{batch.magic})")
    return RecordTime(found[0], instant(found[1]), instant(max(times)))


def _records(batch: Any, wanted: int) -> Iterator[tuple[int, int]]:
    """Offset and timestamp of each record of a batch.

    Where the codec (snappy, lz4, zstd) is not installed, the header must do: its timestamp is that of
    the batch's first record, so what is derived from it is never too young.
    """
    try:
        for record in batch:
            yield record.offset, record.timestamp
    except UnsupportedCodecError:
        if batch.last_offset >= wanted:
            yield max(wanted, batch.base_offset), batch.first_timestamp


def instant(milliseconds: int) -> datetime:
    """Kafka's timestamp; producers may write any 64-bit number, and `datetime` ends in the year 9999."""
    return EPOCH + timedelta(milliseconds=max(0, min(milliseconds, MAX_MS)))


def milliseconds(at: datetime) -> int:
    """The first millisecond that is not before `at`. Never negative: Kafka gives those a meaning."""
    return max(0, -((EPOCH - at) // timedelta(milliseconds=1)))
