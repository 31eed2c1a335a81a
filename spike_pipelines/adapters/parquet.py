"""What the last bytes of a Parquet file say, without the file; and where its records are from, with few of
its bytes."""

import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from spike_pipelines.domain.contents import RowGroup, Span
from spike_pipelines.domain.errors import NotParquet
from spike_pipelines.ports import ParquetFooter

TRAILER_BYTES = 8  # four for the footer's length, four for the magic
MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 64 * 1024 * 1024
MAX_CHUNK_BYTES = 256 * 1024 * 1024  # Spark begins another row group at 128 MiB of all columns
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


def origins(
    name: str, footer: ParquetFooter, size: int, read: Callable[[int, int], bytes]
) -> tuple[RowGroup, ...]:
    """The footer's row groups, shared ones split by their records; `read` answers the file's bytes at an
    offset, so many. Raises `NotParquet`, and what `read` raises."""
    groups = tuple(enumerate(footer.groups or ()))
    if not any(group.shared for _, group in groups):
        return footer.groups or ()
    known = _Parts(size, footer.tail)
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer.tail))
        file = pq.ParquetFile(pa.PythonFile(known, mode="r"), metadata=metadata)
    except (pa.ArrowException, OSError) as error:
        raise NotParquet(f"{name}: the Parquet footer cannot be read: {error}") from error
    found: list[RowGroup] = []
    for number, group in groups:
        if group.shared:
            for first, end in _stretches(name, metadata.row_group(number), size):
                known.ensure(first, end, read)
            found += _split(name, file, number, group)
        else:
            found.append(group)
    return tuple(found)


class _Parts(io.RawIOBase):
    """A file of which some parts are at hand: its tail, and what was read for one row group."""

    def __init__(self, size: int, tail: bytes) -> None:
        super().__init__()
        self._size = size
        self._tail = (size - len(tail), tail)
        self._parts = [self._tail]
        self._at = 0

    def ensure(self, first: int, end: int, read: Callable[[int, int], bytes]) -> None:
        """Have these bytes; the tail is kept, and the stretch before this one."""
        if self._find(first, end) is None:
            self._parts = [self._tail, self._parts[-1], (first, read(first, end - first))]

    def _find(self, first: int, end: int) -> bytes | None:
        for start, part in self._parts:
            if start <= first and end <= start + len(part):
                return part[first - start : end - start]
        return None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._at + count, self._size)
        found = self._find(self._at, end)
        if found is None:
            raise OSError(f"bytes {self._at} to {end} are not of the two columns")
        self._at = end
        return found


def _stretches(name: str, group: pq.RowGroupMetaData, size: int) -> Iterator[tuple[int, int]]:
    """Where the two columns lie: one stretch in the driver's files, which have them side by side."""
    chunks = []
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema in {PARTITION, OFFSET}:
            first = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
            chunks.append((first, first + column.total_compressed_size))
    if len(chunks) != len((PARTITION, OFFSET)):
        raise NotParquet(f"{name}: {PARTITION} and {OFFSET} are there {len(chunks)} times")
    (first, middle), (other, end) = sorted(chunks)
    stretches = [(first, end)] if middle == other else [(first, middle), (other, end)]
    if any(not 0 <= a < b <= size or b - a > MAX_CHUNK_BYTES for a, b in stretches):
        raise NotParquet(f"{name}: columns at {stretches} cannot be read from {size} bytes")
    yield from stretches


def _split(name: str, file: pq.ParquetFile, number: int, group: RowGroup) -> Iterator[RowGroup]:
    """One for each partition of a row group."""
    try:
        rows = file.read_row_group(number, columns=[PARTITION, OFFSET], use_threads=False)
        spans = rows.group_by(PARTITION, use_threads=False).aggregate([(OFFSET, "min"), (OFFSET, "max")])
    except (pa.ArrowException, OSError) as error:
        raise NotParquet(f"{name}: its records cannot be read: {error}") from error
    said = file.metadata.row_group(number).num_rows
    if rows.num_rows != said or rows[PARTITION].null_count or rows[OFFSET].null_count:
        raise NotParquet(f"{name}: {said} records with partition and offset were to be there, they are not")
    for index, lowest, highest in zip(*(column.to_pylist() for column in spans.columns), strict=True):
        yield RowGroup(Span(index, index), Span(lowest, highest), group.hours)


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
