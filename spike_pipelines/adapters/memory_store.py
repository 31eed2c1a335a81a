"""An object store in memory, for tests that need speed. Passes the same suite as S3."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import RLock

from spike_pipelines.adapters import parquet
from spike_pipelines.domain.contents import RowGroup
from spike_pipelines.domain.errors import AlreadyExists, ObjectMissing, SourceChanged, Transient
from spike_pipelines.ports import ObjectInfo, ParquetFooter, Upload


@dataclass(frozen=True, slots=True)
class _Stored:
    body: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def info(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.body), self.etag, dict(self.metadata))


class MemoryObjectStore:
    """Implements `ports.ObjectStore`. Only the named buckets exist; the others are `Transient`."""

    def __init__(self, *buckets: str) -> None:
        self._buckets: dict[str, dict[str, _Stored]] = {name: {} for name in buckets}
        self._uploads: dict[tuple[str, Upload], int] = {}
        self._lock = RLock()

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        with self._lock:
            stored = self._bucket(bucket).get(key)
            return None if stored is None else replace(stored.info(key), etag_is_md5=True)

    def read(self, bucket: str, key: str) -> bytes | None:
        with self._lock:
            stored = self._bucket(bucket).get(key)
            return None if stored is None else stored.body

    def footer(self, bucket: str, key: str, *, size: int, etag: str) -> ParquetFooter:
        name = f"s3://{bucket}/{key}"
        body = self._body(bucket, key, size=size, etag=etag)
        parquet.footer_bytes(name, body, size=size)
        return parquet.footer(name, body)

    def origins(
        self, bucket: str, key: str, *, size: int, etag: str, footer: ParquetFooter
    ) -> tuple[RowGroup, ...]:
        body = self._body(bucket, key, size=size, etag=etag)
        return parquet.origins(f"s3://{bucket}/{key}", footer, size, lambda at, count: body[at : at + count])

    def copy(
        self,
        bucket: str,
        source: str,
        target: str,
        *,
        source_etag: str,
        size: int,  # noqa: ARG002 the body tells
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        with self._lock:
            stored = self._source(bucket, source)
            if stored.etag != source_etag:
                raise SourceChanged(f"s3://{bucket}/{source} has etag {stored.etag}, not {source_etag}")
            if target in self._bucket(bucket):
                raise AlreadyExists(f"s3://{bucket}/{target} is there already")
            copied = _Stored(stored.body, stored.etag, dict(metadata))
            self._bucket(bucket)[target] = copied
            return copied.info(target)

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._bucket(bucket).pop(key, None)

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            found = [(k, v) for k, v in self._bucket(bucket).items() if k.startswith(prefix)]
        return (
            ObjectInfo(key, len(v.body), v.etag, modified_at=v.modified_at)
            for key, v in sorted(found, key=lambda item: item[0])
        )

    def put(self, bucket: str, key: str, body: bytes) -> ObjectInfo:
        with self._lock:
            stored = _Stored(body, hashlib.md5(body, usedforsecurity=False).hexdigest())
            self._bucket(bucket)[key] = stored
            return stored.info(key)

    def uploads(self, bucket: str, prefix: str) -> Iterator[Upload]:
        with self._lock:
            self._bucket(bucket)
            there = [u for b, u in self._uploads if b == bucket and u.key.startswith(prefix)]
        return iter(sorted(there, key=lambda upload: upload.key))

    def uploaded(self, bucket: str, upload: Upload) -> int:
        with self._lock:
            return self._uploads.get((bucket, upload), 0)

    def abort(self, bucket: str, upload: Upload) -> None:
        with self._lock:
            self._uploads.pop((bucket, upload), None)

    def begin_upload(self, bucket: str, key: str, size: int) -> Upload:
        """What a driver leaves that is killed before it commits."""
        with self._lock:
            upload = Upload(key, f"upload-{len(self._uploads)}-{key}", datetime.now(UTC))
            self._uploads[bucket, upload] = size
            return upload

    def grow_old(self, by: timedelta) -> None:
        """Let time pass for every object and upload."""
        with self._lock:
            self._uploads = {
                (bucket, replace(u, begun_at=u.begun_at - by if u.begun_at else None)): size
                for (bucket, u), size in self._uploads.items()
            }
            for objects in self._buckets.values():
                for key, stored in objects.items():
                    objects[key] = replace(stored, modified_at=stored.modified_at - by)

    def _bucket(self, bucket: str) -> dict[str, _Stored]:
        try:
            return self._buckets[bucket]
        except KeyError:
            raise Transient(f"bucket {bucket} does not exist: create it and the work goes on") from None

    def _body(self, bucket: str, key: str, *, size: int, etag: str) -> bytes:
        name = f"s3://{bucket}/{key}"
        with self._lock:
            stored = self._source(bucket, key)
        if len(stored.body) != size:
            raise SourceChanged(f"{name} has {len(stored.body)} bytes, {size} were registered")
        if stored.etag != etag:
            raise SourceChanged(f"{name} has etag {stored.etag}, {etag} was registered")
        return stored.body

    def _source(self, bucket: str, key: str) -> _Stored:
        stored = self._bucket(bucket).get(key)
        if stored is None:
            raise ObjectMissing(f"s3://{bucket}/{key} is not there")
        return stored
