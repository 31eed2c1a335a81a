"""What is read of a file to know where the records of a shared row group are from."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spike_pipelines.adapters import parquet
from spike_pipelines.domain.errors import NotParquet

WIDE = pa.array([f"{i:0100x}" for i in range(5_000)])
INDEX = pa.array([i % 2 for i in range(5_000)], pa.int32())
OFFSET = pa.array([7_000 * (i % 2) + i for i in range(5_000)], pa.int64())
TIME = pa.array([0] * 5_000, pa.timestamp("us", "UTC"))


def asked(*columns):
    """What `origins` says of a file of these columns, and what it read beside the footer."""
    body = io.BytesIO()
    names, arrays = zip(*columns, strict=True)
    pq.write_table(pa.Table.from_arrays(arrays, names), body)
    whole = body.getvalue()
    footer = parquet.footer("f", whole[-parquet.footer_bytes("f", whole, size=len(whole)) :])
    read = []

    def answer(first, count):
        read.append(count)
        return whole[first : first + count]

    found = parquet.origins("f", footer, len(whole), answer)
    return [(g.partitions.lowest, g.offsets.lowest, g.offsets.highest) for g in found], read


@pytest.mark.parametrize(
    ("order", "reads"),
    [
        (["wide", "kafka_partition", "kafka_offset", "kafka_timestamp"], 1),
        (["kafka_offset", "kafka_partition", "wide", "kafka_timestamp"], 1),
        (["kafka_partition", "wide", "kafka_offset", "kafka_timestamp"], 2),
    ],
)
def test_two_columns_are_read_and_nothing_else(order, reads):
    of = {"wide": WIDE, "kafka_partition": INDEX, "kafka_offset": OFFSET, "kafka_timestamp": TIME}
    told, read = asked(*((name, of[name]) for name in order))
    assert told == [(0, 0, 4_998), (1, 7_001, 11_999)]
    assert len(read) == reads
    assert sum(read) < 80_000 < WIDE.nbytes


def test_a_column_that_is_there_twice_is_not_parquet():
    with pytest.raises(NotParquet, match="3 times"):
        asked(
            ("kafka_offset", OFFSET),
            ("kafka_partition", INDEX),
            ("kafka_offset", OFFSET),
            ("kafka_timestamp", TIME),
        )


def test_a_footer_that_points_beyond_the_file_is_not_parquet():
    body = io.BytesIO()
    columns = {"kafka_partition": INDEX, "kafka_offset": OFFSET, "kafka_timestamp": TIME}
    pq.write_table(pa.table(columns), body)
    whole = body.getvalue()
    tail = whole[-parquet.footer_bytes("f", whole, size=len(whole)) :]
    with pytest.raises(NotParquet, match="cannot be read from"):
        parquet.origins("f", parquet.footer("f", tail), 1_000, lambda *_: b"")
