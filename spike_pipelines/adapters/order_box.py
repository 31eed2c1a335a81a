"""Orders for a Spark job in another pod, and its answers: small objects below a prefix of staging.

Both sides count: order 1 has answer 1. Nobody lists, and each object is written once, but for the one that
says how far an order is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from pydantic import BaseModel, ConfigDict, ValidationError

from spike_pipelines.adapters.spark_worker import telling
from spike_pipelines.domain.errors import InvalidSpec, SpikeError, Transient
from spike_pipelines.ports import ObjectStore

LOOK_SECONDS = 1.0


class _Failure(BaseModel):
    """`invalid`: nobody but who wrote the application file can help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    invalid: bool


@dataclass(frozen=True, slots=True)
class OrderBox:
    """`prefix` ends in a slash and belongs to one job."""

    store: ObjectStore
    bucket: str
    prefix: str

    @classmethod
    def at(cls, uri: str, store: ObjectStore) -> "OrderBox":
        """From `s3://bucket/prefix/`. Raises `InvalidSpec`."""
        bucket, slash, prefix = uri.removeprefix("s3://").partition("/")
        if not (uri.startswith("s3://") and bucket and slash and prefix.endswith("/")):
            raise InvalidSpec(f"{uri!r} is no place for orders: s3://bucket/prefix/")
        return cls(store, bucket, prefix)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def give(self, number: int, order: str) -> None:
        self._put(f"order-{number}.json", order)

    def order(self, number: int) -> bytes | None:
        return self._read(f"order-{number}.json")

    def answer(self, number: int, answer: str) -> None:
        self._put(f"answer-{number}.json", answer)

    def answered(self, number: int) -> bytes | None:
        """Raises `InvalidSpec` or `Transient` for a job that failed."""
        found = self._read(f"answer-{number}.json")
        if found is None and (failed := self._read("failed.json")) is not None:
            raise _told(failed)
        return found

    def tell(self, number: int, so_far: str) -> None:
        self._put(f"so-far-{number}", so_far)

    def so_far(self, number: int) -> int | None:
        """How many records of order `number` were read, where that is known."""
        found = self._read(f"so-far-{number}")
        return None if found is None else int(found)

    def fail(self, message: str, *, invalid: bool) -> None:
        self._put("failed.json", _Failure(message=message, invalid=invalid).model_dump_json())

    def end(self) -> None:
        """There will be no more orders."""
        self._put("end", "")

    @property
    def ended(self) -> bool:
        return self._read("end") is not None

    def _put(self, name: str, text: str) -> None:
        self.store.put(self.bucket, self.prefix + name, text.encode())

    def _read(self, name: str) -> bytes | None:
        return self.store.read(self.bucket, self.prefix + name)


def _told(failed: bytes) -> SpikeError:
    try:
        failure = _Failure.model_validate_json(failed)
    except ValidationError as error:
        return Transient(f"the job failed, and what it says is not understood: {error}")
    return InvalidSpec(failure.message) if failure.invalid else Transient(failure.message)


def serve_box(
    box: OrderBox,
    answer: Callable[[bytes], str],
    so_far: Callable[[], int] | None = None,
    *,
    idle_seconds: float,
    pause: Callable[[float], object],
) -> None:
    """The job's side: answer orders until there are no more, or none has come for so long: then whoever gave
    them is gone. What `answer` raises ends it."""
    number, since = 1, monotonic()
    while monotonic() < since + idle_seconds:
        order = box.order(number)
        if order is not None:
            with telling(so_far, partial(box.tell, number)):
                answered = answer(order)
            box.answer(number, answered)
            number, since = number + 1, monotonic()
        elif box.ended:
            return
        else:
            pause(LOOK_SECONDS)
