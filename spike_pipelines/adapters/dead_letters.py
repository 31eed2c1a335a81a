"""Reads what dead-letter files hold, by reason (port `DeadLetterReader`)."""

import pyarrow as pa
import pyarrow.compute as pc

from spike_pipelines.adapters.parquet_columns import ParquetColumns
from spike_pipelines.ports import ReasonCount

SAMPLE_BYTES = 120


class S3DeadLetterReader:
    """Errors: those of `ParquetColumns`."""

    def __init__(self, endpoint: str | None) -> None:
        self._files = ParquetColumns(endpoint)

    def reasons(self, bucket: str, key: str) -> tuple[ReasonCount, ...]:
        return reasons(self._files.read(bucket, key, ["reason", "detail", "value"]))


def reasons(table: pa.Table) -> tuple[ReasonCount, ...]:
    """Of columns `reason`, `detail` and `value`: each reason, how often, and its first record."""
    found = []
    for reason in pc.unique(table["reason"]).to_pylist():
        rows = table.filter(pc.equal(table["reason"], reason))
        value = rows["value"][0].as_py()
        sample = None if value is None else value[:SAMPLE_BYTES]
        found.append(ReasonCount(reason, rows.num_rows, sample, rows["detail"][0].as_py()))
    return tuple(found)
