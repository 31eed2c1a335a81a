"""Reads some columns of a Parquet file in S3, by ranges."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import S3FileSystem

from spike_pipelines.domain.errors import NotParquet, ObjectMissing, Transient

Filter = tuple[str, str, object]


class ParquetColumns:
    """Credentials are the AWS SDK's own."""

    def __init__(self, endpoint: str | None) -> None:
        self._files = S3FileSystem(endpoint_override=endpoint, connect_timeout=5, request_timeout=60)

    def read(
        self, bucket: str, key: str, columns: Sequence[str], where: Sequence[Filter] | None = None
    ) -> pa.Table:
        """Of row groups that by their statistics cannot have a row `where` asks for, nothing is read.
        Raises `ObjectMissing`, `NotParquet`, `Transient`."""
        path = f"{bucket}/{key}"
        try:
            # A key is no partition, whatever it looks like: all that a row says is in the file.
            return pq.read_table(
                path, columns=[*columns], filters=where, filesystem=self._files, partitioning=None
            )
        except pa.ArrowInvalid as error:
            raise NotParquet(f"s3://{path}: {error}") from error
        except FileNotFoundError as error:
            raise ObjectMissing(f"s3://{path} is not there") from error
        except OSError as error:
            raise Transient(f"s3://{path} could not be read: {error}") from error
