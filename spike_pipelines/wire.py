"""The appender API's JSON, version 1: one definition for the server, the driver and the OpenAPI page.

Everything that comes in from outside is bounded and refuses unknown fields.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    StringConstraints,
    model_validator,
)

from spike_pipelines.domain import epochs
from spike_pipelines.domain.batch import Batch, FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position

MAX_FILES = 10_000
MAX_PARTITIONS = 10_000
MAX_HOURS = 10_000
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_COUNT = 2**62

# One line without control characters: names are printed, logged, and kept where NUL cannot be.
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
# Strict: true, "7" and 7.0 are no counts.
Offset = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]
Epoch = Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)]
PartitionIndex = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


def _written_out(value: Any) -> Any:
    """A bare number is no time: nobody can tell its unit."""
    if (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value)) or isinstance(value, datetime):
        return value
    raise ValueError("a time is written as in 2026-11-22T21:00:00Z")


Time = Annotated[AwareDatetime, BeforeValidator(_written_out)]

DRIVER_HEADER = "spike-driver"
"""Who asks, in every request of a driver: where its token is refused, its body is not read."""

ErrorCode = Literal[
    "held", "fenced", "gap", "overlap", "topic_changed", "lost", "spec_changed", "topic_missing",
    "too_many_staged",
    "invalid", "bad_key", "duplicate", "malformed", "unsupported_media_type", "too_large", "too_slow",
    "unauthorized", "unknown_spike", "unavailable", "conflict",
]  # fmt: skip


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Error(Message):
    """Every answer that is not a success. `field` is a JSON path where one field is to blame."""

    code: ErrorCode
    message: str
    field: str | None = None


class ErrorBody(Message):
    error: Error


class PartitionOffset(Message):
    """The next offset to read of one partition."""

    topic: Text
    topic_id: Text
    partition: PartitionIndex
    offset: Offset

    def as_partition(self) -> Partition:
        return Partition(self.topic, self.topic_id, self.partition)

    @classmethod
    def of(cls, partition: Partition, offset: int) -> "PartitionOffset":
        return cls(
            topic=partition.topic, topic_id=partition.topic_id, partition=partition.index, offset=offset
        )


class OpenEpoch(Message):
    """`driver` names one process for ever (pod UID, or host+pid+start). `after` is the epoch this driver
    already has and gives up (a resync), or null: so a repeated request is told from a new one."""

    driver: Text
    after: Epoch | None = None
    application_version: Text = "unknown"


class EpochGrant(Message):
    """`staging_prefix` is the S3 key prefix (with a slash at its end) under which alone this epoch writes;
    keys of files are relative to it. `offsets` has every current partition of the topic."""

    epoch: Epoch
    nonce: Text
    staging_prefix: Text
    offsets: list[PartitionOffset]
    heartbeat_seconds: float
    idle_seconds: float


class Token(Message):
    """What fences (I6): an epoch's number together with its random nonce."""

    epoch: Epoch
    nonce: Text


class Range(Message):
    topic: Text
    topic_id: Text
    partition: PartitionIndex
    start: Offset
    end: Offset

    @model_validator(mode="after")
    def _is_not_negative(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is below start {self.start}")
        return self

    def as_range(self) -> OffsetRange:
        return OffsetRange(Partition(self.topic, self.topic_id, self.partition), self.start, self.end)

    @classmethod
    def of(cls, r: OffsetRange) -> "Range":
        p = r.partition
        return cls(topic=p.topic, topic_id=p.topic_id, partition=p.index, start=r.start, end=r.end)


class File(Message):
    key: Annotated[str, StringConstraints(min_length=1, max_length=900)]
    kind: FileKind
    hour: Time
    rows: Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)]
    size: Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)]
    etag: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9\-]+$")]


class Hour(Message):
    """Counts of the records routed to one UTC hour."""

    hour: Time
    final: Count
    dead_letter: Count
    filtered: Count


class PostBatch(Token):
    ranges: Annotated[list[Range], Field(min_length=1, max_length=MAX_PARTITIONS)]
    files: Annotated[list[File], Field(max_length=MAX_FILES)]
    read: Count
    hours: Annotated[list[Hour], Field(max_length=MAX_HOURS)]
    application_version: Text = "unknown"

    def as_batch(self) -> NewBatch:
        return NewBatch(
            ranges=tuple(r.as_range() for r in self.ranges),
            files=tuple(StagedFile(f.key, f.kind, f.hour, f.rows, f.size, f.etag) for f in self.files),
            read=self.read,
            hours=tuple(HourCounts(h.hour, h.final, h.dead_letter, h.filtered) for h in self.hours),
            application_version=self.application_version,
        )

    @classmethod
    def of(cls, batch: NewBatch, *, epoch: int, nonce: str) -> "PostBatch":
        return cls(
            epoch=epoch,
            nonce=nonce,
            ranges=[Range.of(r) for r in batch.ranges],
            files=[
                File(key=f.key, kind=f.kind, hour=f.hour, rows=f.rows, size=f.size, etag=f.etag)
                for f in batch.files
            ],
            read=batch.read,
            hours=[
                Hour(hour=h.hour, final=h.final, dead_letter=h.dead_letter, filtered=h.filtered)
                for h in batch.hours
            ],
            application_version=batch.application_version,
        )


class BatchAccepted(Message):
    number: int
    state: str


def _without_nul(text: str) -> str:
    """An error's words are worth keeping whatever bytes they quote; PostgreSQL keeps all but NUL."""
    return text.replace("\x00", "\ufffd")


class Heartbeat(Token):
    """`waiting` is waiting for the appender (backpressure): never a reason to restart the driver.
    `problem` is what the driver would tell a person, while something outside does not work.
    `progress_at` is when the engine itself last gave a sign of life: this message may outlive it."""

    phase: Phase
    read_offsets: Annotated[list[PartitionOffset], Field(max_length=MAX_PARTITIONS)] = []
    batch_started_at: Time | None = None
    progress_at: Time | None = None
    problem: Annotated[str, StringConstraints(max_length=2000), AfterValidator(_without_nul)] | None = None


class Ok(Message):
    ok: Literal[True] = True


class Health(Ok):
    """`up_seconds`: how long this server has been answering. A driver is silent for so long at most."""

    up_seconds: float


class SpikeStatus(Message):
    """`GET /v1/spikes/{name}`."""

    name: str
    epoch: NonNegativeInt
    driver: str | None
    phase: str | None
    problem: str | None
    heartbeat_at: datetime | None
    staged: list[PartitionOffset]
    committed: list[PartitionOffset]
    unfinished_batches: NonNegativeInt

    @classmethod
    def of(
        cls, name: str, epoch: epochs.Epoch | None, positions: Iterable[Position], unfinished: int
    ) -> "SpikeStatus":
        ordered = sorted(positions, key=lambda p: p.partition)
        return cls(
            name=name,
            epoch=epoch.number if epoch else 0,
            driver=epoch and epoch.driver,
            phase=epoch and epoch.phase,
            problem=epoch and epoch.problem,
            heartbeat_at=epoch and epoch.heartbeat_at,
            staged=[PartitionOffset.of(p.partition, p.staged_end) for p in ordered],
            committed=[PartitionOffset.of(p.partition, p.committed_end) for p in ordered],
            unfinished_batches=unfinished,
        )


class BatchStatus(Message):
    number: int
    epoch: int
    state: str
    ranges: list[Range]
    read: Count
    final: Count
    dead_letter: Count
    filtered: Count
    staged_at: datetime
    committed_at: datetime | None
    held_reason: str | None

    @classmethod
    def of(cls, batch: Batch) -> "BatchStatus":
        return cls(
            number=batch.number,
            epoch=batch.epoch,
            state=batch.state,
            ranges=[Range.of(r) for r in batch.ranges],
            read=batch.counts.read,
            final=batch.counts.final,
            dead_letter=batch.counts.dead_letter,
            filtered=batch.counts.filtered,
            staged_at=batch.staged_at,
            committed_at=batch.committed_at,
            held_reason=batch.held_reason,
        )
