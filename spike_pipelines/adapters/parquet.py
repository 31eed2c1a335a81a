"""What the last bytes of a Parquet file say, without the file."""

import json
import struct
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from spike_pipelines.domain.contents import RowGroup, Span
from spike_pipelines.domain.errors import NotParquet
from spike_pipelines.ports import ParquetFooter

TRAILER_BYTES = 8  # four for the footer's length, four for the magic
MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 64 * 1024 * 1024
PARTITION, OFFSET, TIMESTAMP, ROUTED = (
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "routed_timestamp",
)


def footer_bytes(name: str, tail: bytes, *, size: int) -> int:
    """Bytes from the footer's first to the file's last, read from the end of the file (`tail`).

    Raises `NotParquet` where the trailer is not one, or points before the file's first byte.
    """
    if len(tail) < TRAILER_BYTES or tail[-4:] != MAGIC:
        raise NotParquet(f"{name} does not end as a Parquet file does: it is cut off, or another format")
    length: int = struct.unpack("<I", tail[-8:-4])[0] + TRAILER_BYTES
    if length > min(size - len(MAGIC), MAX_FOOTER_BYTES):
        raise NotParquet(f"{name}: a footer of {length} bytes does not fit into {size} bytes")
    return length


def footer(name: str, tail: bytes) -> ParquetFooter:
    """What the footer that `tail` ends with says. Raises `NotParquet`."""
    try:
        found = pq.read_metadata(pa.BufferReader(tail))
        return ParquetFooter(int(found.num_rows), _row_groups(found), tail)
    except (pa.ArrowException, OSError) as error:
        raise NotParquet(f"{name}: the Parquet footer cannot be read: {error}") from error


def _row_groups(found: pq.FileMetaData) -> tuple[RowGroup, ...] | None:
    columns = {found.schema.column(i).path: i for i in range(found.num_columns)}
    time = ROUTED if ROUTED in columns else TIMESTAMP
    groups = [_row_group(found, i, columns, time) for i in range(found.num_row_groups)]
    known = tuple(group for group in groups if group is not None)
    return known if len(known) == len(groups) else None


def _row_group(found: pq.FileMetaData, group: int, columns: Mapping[str, int], time: str) -> RowGroup | None:
    """None where the statistics do not say."""
    spans = [_span(found, group, columns.get(name)) for name in (PARTITION, OFFSET, time)]
    if any(span is None for span in spans):
        return None
    partitions, offsets, times = (span for span in spans if span is not None)
    per_hour = _per_hour(found, columns[time])
    hours = None if per_hour is None else Span(times.lowest // per_hour, times.highest // per_hour)
    return None if hours is None else RowGroup(partitions, offsets, hours)


def _span(found: pq.FileMetaData, group: int, column: int | None) -> Span | None:
    """As stored: a number that no calendar knows is still a number."""
    chunk = None if column is None else found.row_group(group).column(column)
    if chunk is None or not chunk.is_stats_set or not chunk.statistics.has_min_max:
        return None
    if chunk.statistics.has_null_count and chunk.statistics.null_count:
        return None
    lowest, highest = chunk.statistics.min_raw, chunk.statistics.max_raw
    return Span(lowest, highest) if isinstance(lowest, int) and isinstance(highest, int) else None


def _per_hour(found: pq.FileMetaData, column: int) -> int | None:
    unit = json.loads(found.schema.column(column).logical_type.to_json()).get("timeUnit")
    return {"milliseconds": 3_600_000, "microseconds": 3_600_000_000}.get(unit)
