"""Reads which records a Parquet file holds, for the deep audit (port `RecordReader`)."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import S3FileSystem

from spike_pipelines.domain.errors import NotParquet, ObjectMissing, Transient

COLUMNS = {"kafka_partition": "partition", "kafka_offset": "offset"}


class S3RecordReader:
    """Ranged reads of two columns. Credentials are the AWS SDK's own."""

    def holds(self, bucket: str, key: str, partition: int, offset: int) -> bool:
        """Whether the file has the record: by the footer's statistics, then by the row groups that may.
        Raises `ObjectMissing`, `Transient`, `NotParquet`."""
        wanted = [("kafka_partition", "==", partition), ("kafka_offset", "==", offset)]
        path = f"{bucket}/{key}"
        try:
            found = pq.read_table(path, columns=[*COLUMNS], filters=wanted, filesystem=self._files)
        except FileNotFoundError as error:
            raise ObjectMissing(f"s3://{path} is not there") from error
        except pa.ArrowInvalid as error:
            raise NotParquet(f"s3://{path}: {error}") from error
        except OSError as error:
            raise Transient(f"s3://{path} could not be read: {error}") from error
        return bool(found.num_rows)

    def __init__(self, endpoint: str | None) -> None:
        self._files = S3FileSystem(endpoint_override=endpoint, connect_timeout=5, request_timeout=60)

    def places(self, bucket: str, key: str) -> pd.DataFrame:
        """Columns `partition` and `offset`, one row for each record. Raises `Transient`, `NotParquet`."""
        try:
            table = pq.read_table(f"{bucket}/{key}", columns=list(COLUMNS), filesystem=self._files)
        except pa.ArrowInvalid as error:
            raise NotParquet(f"s3://{bucket}/{key}: {error}") from error
        except OSError as error:
            raise Transient(f"s3://{bucket}/{key} could not be read: {error}") from error
        frame: pd.DataFrame = table.to_pandas()
        return frame.rename(columns=COLUMNS)
