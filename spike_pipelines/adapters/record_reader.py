"""Which records a Parquet file holds: `RecordReader` of the deep audit, `RecordFinder` of `spike where`."""

import pandas as pd

from spike_pipelines.adapters.parquet_columns import ParquetColumns

PLACE = {"kafka_partition": "partition", "kafka_offset": "offset"}


class S3RecordReader:
    """Errors: those of `ParquetColumns`."""

    def __init__(self, endpoint: str | None) -> None:
        self._files = ParquetColumns(endpoint)

    def holds(self, bucket: str, key: str, partition: int, offset: int) -> bool:
        """Whether the file has the record: by the footer's statistics, then by the row groups that may."""
        wanted = [("kafka_partition", "==", partition), ("kafka_offset", "==", offset)]
        return bool(self._files.read(bucket, key, [*PLACE], wanted).num_rows)

    def places(self, bucket: str, key: str) -> pd.DataFrame:
        """Columns `partition` and `offset`, one row for each record."""
        frame: pd.DataFrame = self._files.read(bucket, key, [*PLACE]).to_pandas()
        return frame.rename(columns=PLACE)
