"""Server-side copies that name their source's etag and never overwrite: in one request, or in parts.

Errors are the SDK's, for the caller to translate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MAX_PARTS = 10_000  # S3's limit


@dataclass(frozen=True, slots=True)
class Copy:
    """`etag` (without quotes) and `size` in bytes are the source's, `metadata` the target's."""

    bucket: str
    source: str
    target: str
    etag: str
    size: int
    metadata: Mapping[str, str]


def copy_whole(s3: "S3Client", copy: Copy) -> str:
    """One CopyObject; the target's etag. The SDK takes a 200 with an error in its body for a 500."""
    answer = s3.copy_object(
        Bucket=copy.bucket,
        Key=copy.target,
        CopySource={"Bucket": copy.bucket, "Key": copy.source},
        CopySourceIfMatch=f'"{copy.etag}"',
        IfNoneMatch="*",
        Metadata=copy.metadata,
        MetadataDirective="REPLACE",
    )
    return answer["CopyObjectResult"]["ETag"].strip('"')


def copy_in_parts(s3: "S3Client", copy: Copy, *, part: int) -> str:
    """A multipart copy; the target's etag. Every part asks for the source's etag, the last step for a
    free key; on any failure the upload is aborted, so that no part stays behind and is paid for.
    """
    bucket, target = copy.bucket, copy.target
    upload = s3.create_multipart_upload(Bucket=bucket, Key=target, Metadata=copy.metadata)["UploadId"]
    try:
        parts = [
            _copy_part(s3, copy, upload, number, f"bytes={first}-{last}")
            for number, (first, last) in enumerate(part_ranges(copy.size, part), start=1)
        ]
        done = s3.complete_multipart_upload(
            Bucket=bucket, Key=target, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
        )
    except BaseException as error:
        try:
            s3.abort_multipart_upload(Bucket=bucket, Key=target, UploadId=upload)
        except (BotoCoreError, ClientError) as left:
            error.add_note(f"upload {upload} of {copy.target} was not aborted either: {left}")
        raise
    return done["ETag"].strip('"')


def part_ranges(size: int, part: int) -> tuple[tuple[int, int], ...]:
    """First and last byte of each part: parts of `part` bytes, longer where they would be too many."""
    length = max(part, -(-size // MAX_PARTS))
    return tuple((first, min(first + length, size) - 1) for first in range(0, size, length))


def _copy_part(
    s3: "S3Client", copy: Copy, upload: str, number: int, byte_range: str
) -> "CompletedPartTypeDef":
    answer = s3.upload_part_copy(
        Bucket=copy.bucket,
        Key=copy.target,
        UploadId=upload,
        PartNumber=number,
        CopySource={"Bucket": copy.bucket, "Key": copy.source},
        CopySourceIfMatch=f'"{copy.etag}"',
        CopySourceRange=byte_range,
    )
    return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}
