"""What one attempt at a batch left in staging: exactly the files of committed tasks.

Layout below the epoch's prefix: `<attempt>/<kind>/hour=<hours since 1970>/part-….parquet`. An attempt's
directory belongs to one job of one driver alone, so after the job's commit its listing is the answer.
"""

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from spike_pipelines.domain.batch import FileKind, StagedFile, numbered_hour
from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.ports import ObjectInfo, ObjectStore

HOUR_COLUMN = "hour"
FOOTER_THREADS = 8

_FILE = re.compile(rf"(?P<kind>final|dead_letter)/{HOUR_COLUMN}=(?P<hour>-?\d+)/part-[^/]+\.parquet\Z")


def new_attempt(batch_id: int) -> str:
    """A directory name that no other attempt ever has: a batch tried twice writes two of them."""
    return f"{batch_id:06d}-{uuid.uuid4().hex}"


def staged_files(store: ObjectStore, bucket: str, prefix: str, attempt: str) -> tuple[StagedFile, ...]:
    """The files of an attempt whose jobs are committed; keys are relative to `prefix` (which ends in `/`).

    Rows are counted from the Parquet footers. Errors: those of `ObjectStore`; `InvariantBroken` for
    an object that no committed task can have written.
    """
    listed = tuple(_parquet(store.list(bucket, f"{prefix}{attempt}/")))
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        footers = pool.map(lambda f: store.footer(bucket, f.key, size=f.size, etag=f.etag), listed)
        return tuple(_file(found, prefix, attempt, f.rows) for found, f in zip(listed, footers, strict=True))


def _parquet(listing: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Without the committers' own objects (`_SUCCESS`, directory markers)."""
    for found in listing:
        name = found.key.rsplit("/", 1)[-1]
        if name and not name.startswith("_"):
            yield found


def _file(found: ObjectInfo, prefix: str, attempt: str, rows: int) -> StagedFile:
    key = found.key.removeprefix(prefix)
    match = _FILE.fullmatch(key.removeprefix(f"{attempt}/"))
    if match is None:
        raise InvariantBroken(
            f"{found.key} lies in an attempt's directory, and no committed task writes such"
        )
    hour = numbered_hour(int(match["hour"]))
    return StagedFile(key, FileKind(match["kind"]), hour, rows, found.size, found.etag)
