"""The shape of an application file: every key it may have, and what each value must be.

Keys are camelCase because the same file is the values file of the spike's Helm chart.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from spike_pipelines.adapters.application_kubernetes import KubernetesKeys, Pod
from spike_pipelines.adapters.application_part import Part
from spike_pipelines.domain import ddl
from spike_pipelines.domain.kubernetes_names import MAX_NAME
from spike_pipelines.domain.spike import Dataset, Location, Objectives, Resources, Spike, Start

MIN_DRIVER_BYTES = 450 * 2**20  # Spark refuses a heap below 1.5 times its reserved 300 MiB

_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MEMORY = re.compile(r"([1-9]\d{0,5})([mg])")
_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)/?")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}: put it in quotes")  # noqa: TRY004  # pydantic's
    return value


def duration(value: Any) -> timedelta:
    """`500ms`, `10s`, `5m`, `1h` or `2d`."""
    match = _DURATION.fullmatch(str(value))
    if match is None or int(match[1]) == 0:
        raise ValueError(f"'{value}' is not a duration: write a whole number and ms, s, m, h or d, as in 10s")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def memory(value: Any) -> str:
    """`512m` or `2g`, as Spark writes it."""
    if _MEMORY.fullmatch(str(value)) is None:
        raise ValueError(f"'{value}' is not an amount of memory: write a whole number and m or g, as in 512m")
    return str(value)


def memory_bytes(value: str) -> int:
    return int(value[:-1]) * (2**30 if value.endswith("g") else 2**20)


def location(value: Any) -> Location:
    """`s3://bucket/prefix`."""
    match = _URI.fullmatch(str(value))
    if match is None or ".." in match[2].split("/"):
        hint = (
            "the scheme is s3://, not s3a://" if str(value).startswith("s3a:") else "write s3://bucket/prefix"
        )
        raise ValueError(f"'{value}' is not a place in S3: {hint}")
    return Location(match[1], match[2])


def instant(value: Any) -> datetime:
    """ISO 8601 with a zone."""
    try:
        at = datetime.fromisoformat(_text(value))
    except ValueError as error:
        raise ValueError(f"'{value}' is not a time: write it as in 2026-01-31T00:00:00Z") from error
    if at.tzinfo is None:
        raise ValueError(f"'{value}' has no time zone: write it as in 2026-01-31T00:00:00Z")
    return at


def start(value: Any) -> Start | datetime:
    if value in tuple(Start):
        return Start(value)
    try:
        return instant(value)
    except ValueError as error:
        raise ValueError(f"{error}; or earliest, or latest") from error


def schema(value: Any) -> str:
    try:
        ddl.parse(_text(value))
    except ddl.DdlError as error:
        place = {"line": error.line, "column": error.column}
        raise PydanticCustomError("ddl", "{problem}", {"problem": error.problem, **place}) from error
    return str(value).strip()


def predicate(value: Any) -> str:
    text = _text(value).strip()
    if not text or ";" in text or text.count("(") != text.count(")"):
        raise ValueError("not a Spark SQL predicate: it is empty, has a ';' or its brackets do not match")
    return text


def matches(pattern: str, what: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"'{value}' is not {what}")
        return value

    return check


def _text_like(pattern: str, longest: int = 2048) -> WithJsonSchema:
    """What the chart's values.schema.json says of a value that is checked in full only here."""
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$", "maxLength": longest})


_NAME = r"[a-z](?:[a-z0-9.-]*[a-z0-9])?"
_TABLE = r"[a-z][a-z0-9_]*"
_FUNCTION = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
_INSTANT = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*"
Duration = Annotated[timedelta, PlainValidator(duration), _text_like(_DURATION.pattern)]
Memory = Annotated[str, PlainValidator(memory), _text_like(_MEMORY.pattern)]
S3Location = Annotated[Location, PlainValidator(location), _text_like(_URI.pattern)]
Instant = Annotated[datetime, PlainValidator(instant), _text_like(_INSTANT)]
StartAt = Annotated[Start | datetime, PlainValidator(start), _text_like("|".join((*Start, _INSTANT)))]
Ddl = Annotated[str, PlainValidator(schema), WithJsonSchema({"type": "string", "minLength": 1})]
Predicate = Annotated[str, PlainValidator(predicate), WithJsonSchema({"type": "string", "minLength": 1})]
SpikeName = Annotated[
    StrictStr,
    Field(max_length=MAX_NAME),
    AfterValidator(matches(_NAME, "a name: small letters, digits, - and ., beginning with a letter")),
    _text_like(_NAME, MAX_NAME),
]
TopicName = Annotated[
    StrictStr,
    Field(max_length=249),
    AfterValidator(matches(r"(?!\.{1,2}$)[A-Za-z0-9._-]+", "a Kafka topic: letters, digits, ., _ and -")),
    _text_like(r"[A-Za-z0-9._-]+", 249),
]
DatasetName = Annotated[
    StrictStr,
    Field(max_length=100),
    AfterValidator(matches(_TABLE, "a table name: small letters, digits and _")),
    _text_like(_TABLE, 100),
]
FunctionRef = Annotated[
    StrictStr,
    AfterValidator(matches(_FUNCTION, "a function: write package.module:function")),
    _text_like(_FUNCTION),
]
Cores = Annotated[StrictInt, Field(ge=1, le=256)]


class Limits(Part):
    max_offsets_per_trigger: Annotated[StrictInt, Field(ge=1, le=10**9)]
    max_staged_batches: Annotated[StrictInt, Field(ge=1, le=100)]


class Driver(Pod):
    cores: Cores
    memory: Memory

    @model_validator(mode="after")
    def _enough_for_spark(self) -> Self:
        if memory_bytes(self.memory) < MIN_DRIVER_BYTES:
            raise ValueError(f"memory {self.memory} is too little for a Spark driver: at least 450m")
        return self


class Executor(Pod):
    instances: Annotated[StrictInt, Field(ge=1, le=1000)]
    cores: Cores
    memory: Memory


class DatasetPart(Part):
    name: DatasetName
    start: Instant
    lateness: Duration = timedelta(hours=1)


class ObjectivesPart(Part):
    lag: Duration
    warn: Duration
    hang: Duration

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn > self.lag:
            raise ValueError("warn is longer than lag: the warning would come after the failure")
        return self


class Application(KubernetesKeys):
    name: SpikeName
    description: Annotated[StrictStr, Field(min_length=1, max_length=1000)]
    topic: TopicName
    topic_has_gaps: StrictBool = False
    start: StartAt
    schema_: Annotated[Ddl, Field(alias="schema")]
    filter: Predicate | None = None
    transform: FunctionRef | None = None
    trigger: Duration
    limits: Limits
    driver: Driver
    executor: Executor
    staging: S3Location
    final: S3Location
    dataset: DatasetPart
    objectives: ObjectivesPart

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.staging.bucket != self.final.bucket:
            raise ValueError("staging and final are in two buckets: promotion copies within one")
        ours, theirs = f"{self.staging.prefix}/", f"{self.final.prefix}/"
        if ours.startswith(theirs) or theirs.startswith(ours):
            raise ValueError("staging and final lie within one another: give them prefixes of their own")
        if self.objectives.hang <= self.trigger:
            raise ValueError("objectives.hang must be longer than trigger, or an idle driver looks hung")
        return self

    def as_spike(self, version: str) -> Spike:
        return Spike(
            name=self.name,
            description=self.description.strip(),
            version=version,
            topic=self.topic,
            start=self.start,
            schema=self.schema_,
            filter=self.filter,
            transform=self.transform,
            trigger=self.trigger,
            max_offsets_per_trigger=self.limits.max_offsets_per_trigger,
            max_staged_batches=self.limits.max_staged_batches,
            driver=Resources(self.driver.cores, self.driver.memory),
            executor=Resources(self.executor.cores, self.executor.memory, self.executor.instances),
            staging=self.staging,
            final=self.final,
            dataset=Dataset(self.dataset.name, self.dataset.start, self.dataset.lateness),
            topic_has_gaps=self.topic_has_gaps,
            objectives=Objectives(self.objectives.lag, self.objectives.warn, self.objectives.hang),
        )
