"""What a Fetch response's bytes say of the first record at or after an offset."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka.errors import UnsupportedCodecError
from kafka.record import MemoryRecords

from spike_pipelines.domain.offsets import RecordTime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MAX_MS = (LATEST - EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class GoOn:
    """No record in these bytes; the next offset to ask for (the same again if they held no whole batch)."""

    offset: int


def first_committed_record(
    data: bytes | None, offset: int, aborted: Iterable[tuple[int, int]]
) -> RecordTime | GoOn:
    """The first record with `offset` or more that is neither a control record (the end of a transaction)
    nor of an aborted transaction; these are given as (producer id, first offset).

    A batch may begin before the offset that was asked for, and one at the end may be cut off. A producer has
    one transaction at a time, so its next control record ends the aborted one.
    """
    pending = sorted(aborted, key=lambda a: a[1], reverse=True)
    open_: set[int] = set()
    for batch in MemoryRecords(data or b""):
        while pending and pending[-1][1] <= batch.base_offset:
            open_.add(pending.pop()[0])
        if getattr(batch, "is_control_batch", False):
            open_.discard(batch.producer_id)
            offset = max(offset, batch.next_offset)
            continue
        if getattr(batch, "is_transactional", False) and batch.producer_id in open_:
            offset = max(offset, batch.next_offset)
            continue
        for at, timestamp in _records(batch, offset):
            if at >= offset:
                return RecordTime(at, instant(timestamp), instant(batch.max_timestamp))
        offset = max(offset, batch.next_offset)
    return GoOn(offset)


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
