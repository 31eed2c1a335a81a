"""Reads what dead-letter files hold, by reason (port `DeadLetterReader`)."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import S3FileSystem

from spike_pipelines.domain.errors import NotParquet, ObjectMissing, Transient
from spike_pipelines.ports import ReasonCount

SAMPLE_BYTES = 120


class S3DeadLetterReader:
    """Ranged reads of three columns. Credentials are the AWS SDK's own."""

    def __init__(self, endpoint: str | None) -> None:
        self._files = S3FileSystem(endpoint_override=endpoint, connect_timeout=5, request_timeout=60)

    def reasons(self, bucket: str, key: str) -> tuple[ReasonCount, ...]:
        name = f"s3://{bucket}/{key}"
        try:
            table = pq.read_table(
                f"{bucket}/{key}",
                columns=["reason", "detail", "value"],
                filesystem=self._files,
                partitioning=None,
            )
        except pa.ArrowInvalid as error:
            raise NotParquet(f"{name}: {error}") from error
        except FileNotFoundError as error:
            raise ObjectMissing(f"{name} is not there") from error
        except OSError as error:
            raise Transient(f"{name} could not be read: {error}") from error
        return reasons(table)


def reasons(table: pa.Table) -> tuple[ReasonCount, ...]:
    """Of columns `reason`, `detail` and `value`: each reason, how often, and its first record."""
    found = []
    for reason in pc.unique(table["reason"]).to_pylist():
        rows = table.filter(pc.equal(table["reason"], reason))
        value = rows["value"][0].as_py()
        sample = None if value is None else value[:SAMPLE_BYTES]
        found.append(ReasonCount(reason, rows.num_rows, sample, rows["detail"][0].as_py()))
    return tuple(found)
