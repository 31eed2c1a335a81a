"""A spike as its application file describes it: what should be, never what is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain import kubernetes_names
from spike_pipelines.domain.batch import FileKind


class Start(StrEnum):
    """Where a new spike begins in a topic. A `datetime` is the third choice."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one driver or executor asks for; memory as Spark writes it (`512m`, `2g`)."""

    cores: int
    memory: str
    instances: int = 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """What readers see: one Iceberg table of final rows, one of dead letters.

    Records with a Kafka timestamp before `start` are dead letters. An hour is closed `lateness` after its
    end at the earliest: what arrives until then is not late.
    """

    name: str
    start: datetime
    lateness: timedelta = timedelta(hours=1)

    @property
    def dead_letters(self) -> str:
        return dead_letters_of(self.name)

    @property
    def tables(self) -> Mapping[FileKind, str]:
        return tables_of(self.name)


DEAD_LETTERS = "_dead_letters"


def dead_letters_of(dataset: str) -> str:
    """The name of a dataset's table of dead letters."""
    return dataset + DEAD_LETTERS


def tables_of(dataset: str) -> Mapping[FileKind, str]:
    """The table of each kind of a dataset's files."""
    return {FileKind.FINAL: dataset, FileKind.DEAD_LETTER: dead_letters_of(dataset)}


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the owner of a spike was promised. Checks warn at `warn`, fail at `lag`."""

    lag: timedelta
    warn: timedelta
    hang: timedelta  # a driver without heartbeat or progress for this long is restarted


@dataclass(frozen=True, slots=True)
class Location:
    """A place in S3: bucket and key prefix without a slash at its ends."""

    bucket: str
    prefix: str

    def key(self, *parts: str) -> str:
        return "/".join(part for part in (self.prefix, *parts) if part)

    def uri(self, *parts: str) -> str:
        return f"s3://{self.bucket}/{self.key(*parts)}"


@dataclass(frozen=True, slots=True)
class Spike:
    """One streaming application.

    `schema` is a Spark DDL string. `filter` is a Spark SQL predicate on its columns: rows for which
    it is not true are counted as filtered. `transform` names a Python function `module:function`
    from DataFrame to DataFrame, applied to the parsed rows before the filter; it must keep one row
    for each row. `version` is what the files of a batch are attributed to.
    """

    name: str
    description: str
    version: str
    topic: str
    start: Start | datetime
    schema: str
    filter: str | None
    transform: str | None
    trigger: timedelta
    max_offsets_per_trigger: int
    max_staged_batches: int
    driver: Resources
    executor: Resources
    staging: Location
    final: Location
    dataset: Dataset
    objectives: Objectives
    topic_has_gaps: bool = False  # transactional or compacted: offsets are more than records

    @property
    def resource_name(self) -> str:
        """The name as Kubernetes accepts it (DNS-1035): `crt-payout-v1-1-0` for `crt-payout-v1-1.0`."""
        return kubernetes_names.resource_name(self.name)

    @property
    def asset_name(self) -> str:
        return self.resource_name.replace("-", "_")
