"""S3 behind the `ObjectStore` port.

Conditional requests carry the protocol: a copy names the source's etag (`CopySourceIfMatch`) and
creates its target or nothing (`IfNoneMatch: *`). AWS and SeaweedFS honour both, in parts as well.
A 412 does not say which of the two failed: it is answered by looking.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from spike_pipelines.adapters import parquet
from spike_pipelines.adapters.s3_copy import Copy, copy_in_parts, copy_whole
from spike_pipelines.adapters.s3_errors import (
    bucket_missing,
    precondition_failed,
    status,
    translated,
)
from spike_pipelines.domain.contents import RowGroup
from spike_pipelines.domain.errors import (
    AlreadyExists,
    NotParquet,
    ObjectMissing,
    Refused,
    SourceChanged,
    SpikeError,
    Transient,
)
from spike_pipelines.ports import ObjectInfo, ParquetFooter, Upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

MAX_COPY_BYTES = 5 * 1024**3  # S3's limit for one CopyObject
PART_BYTES = 1024**3
TAIL_BYTES = 64 * 1024  # holds nearly every footer: one request instead of two
KEYS_PER_DELETE = 1_000  # S3's limit
MAX_PAGES = 100_000  # of a thousand keys


def connect(endpoint: str | None = None, *, region: str | None = None, pool: int = 32) -> "S3Client":
    """A client with hard timeouts, bounded retries and a connection for each of `pool` threads.

    Credentials are the SDK's own. Worst case of one call: three attempts of 5 s + 60 s (a server-side
    copy of 5 GB answers with keep-alive bytes while it works).
    """
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=pool,
        s3={"addressing_style": "path"} if endpoint else None,
    )
    # A session of its own: the default one is not safe to make clients from in several threads.
    session = boto3.session.Session()
    region = region or session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)


class S3ObjectStore:
    """Implements `ports.ObjectStore`; safe to share between threads, as its client is.

    `client` comes from `connect`, or from dagster-aws (`S3Resource(...).get_client()`).
    Objects over `max_copy` bytes are copied in parts of `part` bytes.
    """

    def __init__(self, client: "S3Client", *, max_copy: int = MAX_COPY_BYTES, part: int = PART_BYTES) -> None:
        self._s3 = client
        self._max_copy = max_copy
        self._part = part

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        with translated("head", bucket, key):
            try:
                found = self._s3.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if status(error) != 404:
                    raise
                self._check_bucket(bucket)
                return None
        etag = found["ETag"].strip('"')
        return ObjectInfo(
            key, found["ContentLength"], etag, found["Metadata"], etag_is_md5=_is_md5(etag, found)
        )

    def read(self, bucket: str, key: str) -> bytes | None:
        with translated("get", bucket, key):
            try:
                answer = self._s3.get_object(Bucket=bucket, Key=key)
            except self._s3.exceptions.NoSuchKey:
                return None
            body: bytes = answer["Body"].read()
            return body

    def footer(self, bucket: str, key: str, *, size: int, etag: str) -> ParquetFooter:
        name = f"s3://{bucket}/{key}"
        tail = self._tail(bucket, key, size=size, etag=etag, length=TAIL_BYTES)
        length = parquet.footer_bytes(name, tail, size=size)
        if length > len(tail):
            tail = self._tail(bucket, key, size=size, etag=etag, length=length)
        return parquet.footer(name, tail)

    def origins(
        self, bucket: str, key: str, *, size: int, etag: str, footer: ParquetFooter
    ) -> tuple[RowGroup, ...]:
        """One request for each shared row group, where the driver wrote the file; none for a small one,
        which came with its footer."""
        read = partial(self._range, bucket, key, size=size, etag=etag)
        return parquet.origins(f"s3://{bucket}/{key}", footer, size, read)

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
        """One request where all is well: the source is looked at only once the copy was refused. A target
        is looked for before minutes of copying in parts, which only the last step would refuse."""
        plan = Copy(bucket, source, target, source_etag, size, metadata)
        in_parts = size > self._max_copy
        if in_parts and self.head(bucket, target) is not None:
            raise self._explained(plan)
        copy = partial(copy_in_parts, part=self._part) if in_parts else copy_whole
        with translated("copy to", bucket, target):
            try:
                return ObjectInfo(target, size, copy(self._s3, plan), dict(metadata))
            except ClientError as error:
                if not (precondition_failed(error) or status(error) == 404):
                    raise
                refusal = error
        raise self._explained(plan) from refusal

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        keys = list(keys)
        for start in range(0, len(keys), KEYS_PER_DELETE):
            chunk = keys[start : start + KEYS_PER_DELETE]
            with translated("delete", bucket, chunk[0]):
                answer = self._s3.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": key} for key in chunk], "Quiet": True}
                )
            for error in answer.get("Errors", [])[:1]:
                where = f"s3://{bucket}/{error.get('Key', '')}"
                raise Transient(f"delete {where} failed: {error.get('Code')} {error.get('Message')}")

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        with translated("list", bucket, prefix):
            for number, page in enumerate(pages):
                if number == MAX_PAGES:
                    raise Refused(
                        f"s3://{bucket}/{prefix} goes on after {MAX_PAGES} pages: list a longer prefix"
                    )
                for found in page.get("Contents", []):
                    yield ObjectInfo(
                        found["Key"],
                        found["Size"],
                        found["ETag"].strip('"'),
                        modified_at=found["LastModified"],
                    )

    def put(self, bucket: str, key: str, body: bytes) -> ObjectInfo:
        with translated("put", bucket, key):
            answer = self._s3.put_object(Bucket=bucket, Key=key, Body=body)
        return ObjectInfo(key, len(body), answer["ETag"].strip('"'))

    def uploads(self, bucket: str, prefix: str) -> Iterator[Upload]:
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        with translated("list uploads", bucket, prefix):
            for page in islice(pages, MAX_PAGES):
                for found in page.get("Uploads", []):
                    yield Upload(found["Key"], found["UploadId"], found.get("Initiated"))

    def uploaded(self, bucket: str, upload: Upload) -> int:
        with translated("list parts", bucket, upload.key):
            try:
                pages = self._s3.get_paginator("list_parts").paginate(
                    Bucket=bucket, Key=upload.key, UploadId=upload.id
                )
                return sum(part["Size"] for page in pages for part in page.get("Parts", []))
            except self._s3.exceptions.NoSuchUpload:
                return 0

    def abort(self, bucket: str, upload: Upload) -> None:
        with translated("abort upload", bucket, upload.key), suppress(self._s3.exceptions.NoSuchUpload):
            self._s3.abort_multipart_upload(Bucket=bucket, Key=upload.key, UploadId=upload.id)

    def _check_bucket(self, bucket: str) -> None:
        """A HEAD's 404 has no body: it may mean that the bucket is missing, which is another matter."""
        try:
            self._s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if status(error) == 404:
                raise bucket_missing(bucket) from error
            raise

    def _checked_source(self, bucket: str, key: str, etag: str) -> ObjectInfo:
        found = self.head(bucket, key)
        if found is None:
            raise ObjectMissing(f"s3://{bucket}/{key} is not there")
        if found.etag != etag:
            raise SourceChanged(f"s3://{bucket}/{key} has etag {found.etag}, {etag} was registered")
        return found

    def _explained(self, copy: Copy) -> SpikeError:
        """A 412 or 404 does not say which condition was not met."""
        self._checked_source(copy.bucket, copy.source, copy.etag)
        where = f"s3://{copy.bucket}/{copy.target}"
        if self.head(copy.bucket, copy.target) is None:
            return Transient(f"copy to {where} met a condition that is gone by now: try again")
        return AlreadyExists(f"{where} is there already: its metadata says whose it is")

    def _tail(self, bucket: str, key: str, *, size: int, etag: str, length: int) -> bytes:
        if size < parquet.TRAILER_BYTES:
            raise NotParquet(f"s3://{bucket}/{key} has {size} bytes: too few for a Parquet file")
        first = max(0, size - length)
        return self._range(bucket, key, first, size - first, size=size, etag=etag)

    def _range(self, bucket: str, key: str, first: int, length: int, *, size: int, etag: str) -> bytes:
        """`length` bytes of the object that has `size` and `etag`: what a copy of that etag has."""
        asked = f"bytes={first}-{first + length - 1}"
        with translated("read", bucket, key):
            try:
                answer = self._s3.get_object(Bucket=bucket, Key=key, Range=asked)
            except ClientError as error:
                if status(error) != 416:
                    raise
                raise SourceChanged(
                    f"s3://{bucket}/{key} is shorter than the {size} bytes registered"
                ) from error
            body = answer["Body"].read()
        if "ContentRange" not in answer:
            raise Transient(
                f"read s3://{bucket}/{key}: a range was asked for, and something else was answered"
            )
        total = answer["ContentRange"].rpartition("/")[2]
        if total != str(size):
            raise SourceChanged(f"s3://{bucket}/{key} has {total} bytes, {size} were registered")
        if (found := answer["ETag"].strip('"')) != etag:
            raise SourceChanged(f"s3://{bucket}/{key} has etag {found}, {etag} was registered")
        return body


def _is_md5(etag: str, found: "HeadObjectOutputTypeDef") -> bool:
    """Not of an object that was uploaded in parts, nor of one encrypted with a key of KMS or the client's."""
    plain = found.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in found
    return plain and re.fullmatch("[0-9a-f]{32}", etag) is not None
