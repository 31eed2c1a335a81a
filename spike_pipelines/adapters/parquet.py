"""What the last bytes of a Parquet file say, without the file."""

import struct

import pyarrow as pa
import pyarrow.parquet as pq

from spike_pipelines.domain.errors import NotParquet

TRAILER_BYTES = 8  # four for the footer's length, four for the magic
MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 64 * 1024 * 1024


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


def rows(name: str, tail: bytes) -> int:
    """Rows by the footer that `tail` ends with. Raises `NotParquet`."""
    try:
        return int(pq.read_metadata(pa.BufferReader(tail)).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise NotParquet(f"{name}: the Parquet footer cannot be read: {error}") from error
