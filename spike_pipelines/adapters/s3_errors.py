"""What an S3 error means to the platform: which class of `domain.errors` it is, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from spike_pipelines.domain.errors import ObjectMissing, Refused, SpikeError, Transient

CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role, and the bucket's policy"


def status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def precondition_failed(error: ClientError) -> bool:
    return status(error) == 412


def bucket_missing(bucket: str) -> Transient:
    return Transient(f"bucket {bucket} does not exist: create it and the work goes on by itself")


def classify(error: ClientError, action: str, bucket: str, key: str) -> SpikeError:
    """The error for an answer of S3 that is not a success.

    A bucket or a permission that is missing is `Transient`: somebody outside mends it, and then the
    same request is right again. Everything below 500 that is left cannot succeed: `Refused`.
    """
    where, message = f"s3://{bucket}/{key}", error.response.get("Error", {}).get("Message", "")
    if code(error) == "NoSuchBucket":
        return bucket_missing(bucket)
    if status(error) == 404:
        return ObjectMissing(f"{where} is not there ({action})")
    if status(error) in (401, 403):
        return Transient(f"{action} {where} was denied ({code(error)} {message}): {CREDENTIALS}")
    if status(error) in (408, 409, 412, 429) or status(error) >= 500 or status(error) == 0:
        return Transient(f"{action} {where} failed: {status(error)} {code(error)} {message}")
    return Refused(f"{action} {where} was refused: {status(error)} {code(error)} {message}")


@contextmanager
def translated(action: str, bucket: str, key: str = "") -> Iterator[None]:
    """Turns the SDK's errors into the platform's. Who asks conditionally handles a 412 inside."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Transient(f"{action} s3://{bucket}/{key}: no credentials: {CREDENTIALS}") from error
    except ClientError as error:
        raise classify(error, action, bucket, key) from error
    except BotoCoreError as error:
        raise Transient(f"{action} s3://{bucket}/{key}: the store does not answer: {error}") from error
