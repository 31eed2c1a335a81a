"""What the backfill job is told and answers: two JSON files for each order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from pydantic import BaseModel, ConfigDict, TypeAdapter

from spike_pipelines.adapters.replay_files import AnswerFile
from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.earlier import Place
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.ports import BackfillOrder, KeepAlive, Reparsed, Surveyed, SurveyOrder


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Piece(_Model):
    topic: str
    topic_id: str
    partition: int
    start: int
    end: int

    @classmethod
    def of(cls, r: OffsetRange) -> "_Piece":
        p = r.partition
        return cls(topic=p.topic, topic_id=p.topic_id, partition=p.index, start=r.start, end=r.end)

    def range(self) -> OffsetRange:
        return OffsetRange(Partition(self.topic, self.topic_id, self.partition), self.start, self.end)


def _pieces(ranges: Iterable[OffsetRange]) -> tuple[_Piece, ...]:
    return tuple(map(_Piece.of, ranges))


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
            pieces=_pieces(order.pieces),
            dead=order.dead,
            planned_at=order.planned_at,
            prefix=order.prefix,
        )

    def order(self) -> BackfillOrder:
        pieces = tuple(piece.range() for piece in self.pieces)
        return BackfillOrder(self.spike, self.hour, pieces, self.dead, self.planned_at, self.prefix)


class HourAnswerFile(_Model):
    """A batch without ranges, and how many records of other hours were read."""

    batch: AnswerFile
    elsewhere: int

    @classmethod
    def of(cls, batch: NewBatch) -> "HourAnswerFile":
        return cls(batch=AnswerFile.of(Reparsed(batch, {})), elsewhere=batch.elsewhere)

    def new_batch(self) -> NewBatch:
        return replace(self.batch.reparsed().batch, elsewhere=self.elsewhere)


class SurveyOrderFile(_Model):
    """See `ports.SurveyOrder`."""

    spike: str
    pieces: tuple[_Piece, ...]
    since: datetime
    until: datetime

    @classmethod
    def of(cls, order: SurveyOrder) -> "SurveyOrderFile":
        return cls(spike=order.spike, pieces=_pieces(order.pieces), since=order.since, until=order.until)

    def order(self) -> SurveyOrder:
        pieces = tuple(piece.range() for piece in self.pieces)
        return SurveyOrder(self.spike, pieces, self.since, self.until)


class _Place(_Model):
    hour: datetime
    piece: _Piece
    records: int


class SurveyAnswerFile(_Model):
    """See `ports.Surveyed`."""

    places: tuple[_Place, ...]
    scanned: int

    @classmethod
    def of(cls, found: Surveyed) -> "SurveyAnswerFile":
        places = (_Place(hour=p.hour, piece=_Piece.of(p.range), records=p.records) for p in found.places)
        return cls(places=tuple(places), scanned=found.scanned)

    def surveyed(self) -> Surveyed:
        places = (Place(p.hour, p.piece.range(), p.records) for p in self.places)
        return Surveyed(tuple(places), self.scanned)


_ORDER: TypeAdapter[HourOrderFile | SurveyOrderFile] = TypeAdapter(HourOrderFile | SurveyOrderFile)


def told_order(told: bytes) -> BackfillOrder | SurveyOrder:
    """What the job is to do next."""
    return _ORDER.validate_json(told).order()


class FileRereader(ABC):
    """The port `Rereader` as files: how an order gets to the job, and its answer back, is `_do`'s."""

    __slots__ = ()

    def reread(self, order: BackfillOrder, keep_alive: KeepAlive) -> NewBatch:
        answer = self._do(order.spike, HourOrderFile.of(order).model_dump_json(), keep_alive)
        return HourAnswerFile.model_validate_json(answer).new_batch()

    def survey(self, order: SurveyOrder, keep_alive: KeepAlive) -> Surveyed:
        answer = self._do(order.spike, SurveyOrderFile.of(order).model_dump_json(), keep_alive)
        return SurveyAnswerFile.model_validate_json(answer).surveyed()

    @abstractmethod
    def _do(self, spike: str, order: str, keep_alive: KeepAlive) -> bytes:
        """Errors: `Transient`, `InvalidSpec`, and what `keep_alive` raises."""
