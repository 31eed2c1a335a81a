"""S3: objects and the Parquet in them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.contents import RowGroup


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`etag` without quotes, `size` in bytes, `metadata` with lower-case names; `modified_at` is only in
    listings, `etag_is_md5` (the etag is made of the content alone, and the same for a copy) only in answers
    of `head`."""

    key: str
    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = field(default=None, compare=False)
    etag_is_md5: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted: its parts are stored, and paid
    for, though no listing of objects shows them."""

    key: str
    id: str
    begun_at: datetime | None


@dataclass(frozen=True, slots=True)
class ParquetFooter:
    """What the footer of a Parquet file says.

    `groups` is None where its statistics do not tell where all rows come from; `tail` are the file's last
    bytes, the whole footer among them.
    """

    rows: int
    groups: tuple[RowGroup, ...] | None = None
    tail: bytes = field(default=b"", repr=False)


class ObjectStore(Protocol):
    """One S3 endpoint. `bucket` and keys are explicit in every call; keys never start with a slash."""

    def head(self, bucket: str, key: str) -> ObjectInfo | None: ...

    def read(self, bucket: str, key: str) -> bytes | None:
        """A small object's content; None if it is not there."""

    def footer(self, bucket: str, key: str, *, size: int, etag: str) -> ParquetFooter:
        """Read a Parquet footer (the last bytes only) of the object with that size and etag. Raises
        `ObjectMissing`, `NotParquet`, `SourceChanged` (another object is there)."""

    def origins(
        self, bucket: str, key: str, *, size: int, etag: str, footer: ParquetFooter
    ) -> tuple[RowGroup, ...]:
        """The row groups of a footer that tells them, each shared one replaced by one for each of its
        partitions: two columns of it are read, of the object with that size and etag. Raises as `footer`."""

    def copy(
        self,
        bucket: str,
        source: str,
        target: str,
        *,
        source_etag: str,
        size: int,
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        """Server-side copy that creates `target` and never overwrites it.

        The source must have `source_etag`, and so `size` bytes; `metadata` replaces the object's. A file
        over 5 GB is copied in parts. Raises `ObjectMissing` (no source), `SourceChanged` (another etag),
        `AlreadyExists` (a target is there: whose it is, `head` tells).
        """

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete the objects; those that are not there count as deleted."""

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, without metadata, in the store's order (S3: by key)."""

    def put(self, bucket: str, key: str, body: bytes) -> ObjectInfo: ...

    def uploads(self, bucket: str, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads to keys that start with `prefix`."""

    def uploaded(self, bucket: str, upload: Upload) -> int:
        """How many bytes its parts have; 0 where it is over."""

    def abort(self, bucket: str, upload: Upload) -> None:
        """Give its parts up: who is still at it cannot complete it. One that is over counts as aborted."""
