"""What the backfill job is told and answers: two JSON files."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from spike_pipelines.adapters.replay_files import AnswerFile
from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.ports import BackfillOrder, Reparsed


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Piece(_Model):
    topic: str
    topic_id: str
    partition: int
    start: int
    end: int


class HourOrderFile(_Model):
    """See `ports.BackfillOrder`."""

    spike: str
    hour: datetime
    pieces: tuple[_Piece, ...]
    dead: tuple[str, ...]
    planned_at: datetime
    prefix: str | None

    @classmethod
    def of(cls, order: BackfillOrder) -> "HourOrderFile":
        return cls(
            spike=order.spike,
            hour=order.hour,
            pieces=tuple(
                _Piece(
                    topic=r.partition.topic,
                    topic_id=r.partition.topic_id,
                    partition=r.partition.index,
                    start=r.start,
                    end=r.end,
                )
                for r in order.pieces
            ),
            dead=order.dead,
            planned_at=order.planned_at,
            prefix=order.prefix,
        )

    def order(self) -> BackfillOrder:
        pieces = (
            OffsetRange(Partition(p.topic, p.topic_id, p.partition), p.start, p.end) for p in self.pieces
        )
        return BackfillOrder(self.spike, self.hour, tuple(pieces), self.dead, self.planned_at, self.prefix)


class HourAnswerFile(_Model):
    """A batch without ranges, and how many records of other hours were read."""

    batch: AnswerFile
    elsewhere: int

    @classmethod
    def of(cls, batch: NewBatch) -> "HourAnswerFile":
        return cls(batch=AnswerFile.of(Reparsed(batch, {})), elsewhere=batch.elsewhere)

    def new_batch(self) -> NewBatch:
        b = self.batch.reparsed().batch
        return NewBatch(b.ranges, b.files, b.read, b.hours, b.application_version, self.elsewhere)
