"""What the replay job is told and answers: two JSON files."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.ports import Reparsed, ReplayOrder


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OrderFile(_Model):
    """See `ports.ReplayOrder`."""

    spike: str
    keys: tuple[str, ...]
    reason: str | None
    planned_at: datetime
    prefix: str | None

    @classmethod
    def of(cls, order: ReplayOrder) -> "OrderFile":
        return cls(
            spike=order.spike,
            keys=order.keys,
            reason=order.reason,
            planned_at=order.planned_at,
            prefix=order.prefix,
        )

    def order(self) -> ReplayOrder:
        return ReplayOrder(self.spike, self.keys, self.reason, self.planned_at, self.prefix)


class _File(_Model):
    key: str
    kind: FileKind
    hour: datetime
    rows: int
    size: int
    etag: str


class _Hour(_Model):
    hour: datetime
    final: int
    dead_letter: int
    filtered: int


class AnswerFile(_Model):
    """See `ports.Reparsed`."""

    files: tuple[_File, ...]
    read: int
    hours: tuple[_Hour, ...]
    version: str
    still: dict[str, int]

    @classmethod
    def of(cls, done: Reparsed) -> "AnswerFile":
        batch = done.batch
        return cls(
            files=tuple(
                _File(key=f.key, kind=f.kind, hour=f.hour, rows=f.rows, size=f.size, etag=f.etag)
                for f in batch.files
            ),
            read=batch.read,
            hours=tuple(
                _Hour(hour=h.hour, final=h.final, dead_letter=h.dead_letter, filtered=h.filtered)
                for h in batch.hours
            ),
            version=batch.application_version,
            still=dict(done.still),
        )

    def reparsed(self) -> Reparsed:
        files = tuple(StagedFile(f.key, f.kind, f.hour, f.rows, f.size, f.etag) for f in self.files)
        hours = tuple(HourCounts(h.hour, h.final, h.dead_letter, h.filtered) for h in self.hours)
        return Reparsed(NewBatch((), files, self.read, hours, self.version), self.still)
