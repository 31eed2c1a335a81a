"""Where a record came to, and where a file comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from spike_pipelines.domain.batch import LIVE_LANE, BatchState, FileKind, FileState
from spike_pipelines.domain.errors import NotParquet, ObjectMissing, Refused
from spike_pipelines.domain.offsets import Position, TopicOffsets
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import BatchRecord, Broker, SwapLedger


class Fate(StrEnum):
    FINAL = "final"
    DEAD_LETTER = "dead letter"
    NO_ROW = "no row"  # read, and in no file
    LOST = "lost"
    UNKNOWN = "unknown"  # the files could not be looked into


@dataclass(frozen=True, slots=True)
class Found:
    """One batch that covers the offset. `file` is the one with the record's row, if it has one."""

    record: BatchRecord
    fate: Fate
    sentence: str
    file: LedgerFile | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`found` are the batches that read the offset, those that count first; `sentences` say, for each
    spike that reads the topic and has no live batch with it, why."""

    found: tuple[Found, ...]
    sentences: tuple[str, ...]


class RecordFinder(Protocol):
    def holds(self, bucket: str, key: str, partition: int, offset: int) -> bool:
        """Whether the file has the record. Errors: `ObjectMissing`, `NotParquet`, `Transient`."""


@dataclass(frozen=True, slots=True)
class Finder:
    ledger: SwapLedger
    broker: Broker
    reader: RecordFinder
    spikes: Mapping[str, Spike]

    def offset(self, topic: str, partition: int, offset: int) -> Answer:
        """Errors: `Refused` where no spike ever read the topic, `Transient`."""
        readers = self.ledger.readers(topic)
        if not readers:
            names = sorted({spike.topic for spike in self.spikes.values()})
            raise Refused(f"no spike ever read {topic}; application files name {', '.join(names) or 'none'}")
        records = [self._record(n) for n in self.ledger.covering(topic, partition, offset)]
        found = _of_its_hour([self._look(record, partition, offset) for record in records])
        seen = self.broker.topics([topic]).get(topic)
        has = {f.record.batch.spike for f in found if not _past(f.record)}
        sentences = tuple(
            f"{spike}: {why_not(positions, seen, partition, offset)}"
            for spike, positions in sorted(readers.items())
            if spike not in has
        )
        return Answer(found, sentences)

    def file(self, key: str) -> tuple[BatchRecord, LedgerFile]:
        """The batch of a file, by `s3://` URI or key, final or staged. Raises `Refused` if unknown."""
        plain = key.removeprefix("s3://").partition("/")[2] if key.startswith("s3://") else key
        number = self.ledger.batch_of(plain)
        if number is None:
            raise Refused(f"the ledger knows no file {plain}: `spike audit` tells whether it should be there")
        record = self._record(number)
        return record, next(f for f in record.files if plain in (f.final_key, f.staging_key))

    def _files(self, record: BatchRecord) -> list[LedgerFile]:
        """The batch's own files and those of swaps that hold its records now; live ones first."""
        sources = self.ledger.sources(record.batch.spike)
        swaps = [number for number, of in sources.items() if record.batch.number in of]
        files = [*record.files, *(f for number in swaps for f in self._record(number).files)]
        return sorted(files, key=lambda f: f.state is not FileState.LIVE)

    def _record(self, number: int) -> BatchRecord:
        record = self.ledger.record(number)
        assert record is not None  # batches are never deleted
        return record

    def _look(self, record: BatchRecord, partition: int, offset: int) -> Found:
        """Which file has the row: only files of this batch can, each looked into by its statistics."""
        batch = record.batch
        if batch.lost:
            return Found(record, Fate.LOST, "declared lost: Kafka deleted it before it was read")
        spike = self.spikes.get(batch.spike)
        if spike is None:
            return Found(record, Fate.UNKNOWN, "no application file says where the files are")
        unknown = []
        for file in self._files(record):
            bucket, key = _place(spike, file)
            try:
                if self.reader.holds(bucket, key, partition, offset):
                    fate = Fate.FINAL if file.kind is FileKind.FINAL else Fate.DEAD_LETTER
                    return Found(
                        record, fate, f"{_standing(record)}, as a {fate} row", file, f"s3://{bucket}/{key}"
                    )
            except (ObjectMissing, NotParquet) as problem:
                unknown.append(str(problem))
        if unknown:
            return Found(
                record, Fate.UNKNOWN, f"{_standing(record)}; {count_of(len(unknown), 'file')}: {unknown[0]}"
            )
        return Found(record, Fate.NO_ROW, f"{_standing(record)}, without a row: {_no_row(record)}")


def _of_its_hour(found: Sequence[Found]) -> tuple[Found, ...]:
    """Several hours may have been read from the same offsets below where a spike began: where one of them has
    the record, the others have nothing to say."""
    if all(f.fate is Fate.NO_ROW for f in found):
        return tuple(found)
    return tuple(f for f in found if f.fate is not Fate.NO_ROW or f.record.batch.lane == LIVE_LANE)


def _place(spike: Spike, file: LedgerFile) -> tuple[str, str]:
    if file.state in (FileState.LIVE, FileState.SUPERSEDED) and file.final_key:
        return spike.final.bucket, file.final_key
    return spike.staging.bucket, file.staging_key


def _past(record: BatchRecord) -> bool:
    return record.batch.state is BatchState.ABORTED or record.batch.removed is not None


def _standing(record: BatchRecord) -> str:
    batch = record.batch
    if batch.removed is not None:
        return f"superseded at #{batch.removed}"
    if batch.state is BatchState.COMMITTED:
        return f"committed as {record.dataset} #{record.sequence}"
    if batch.state is BatchState.HELD:
        return f"held: {batch.held_reason}"
    return "given up" if batch.state is BatchState.ABORTED else f"{batch.state}, not yet committed"


def _no_row(record: BatchRecord) -> str:
    counts = record.batch.counts
    if record.batch.lane != LIVE_LANE:
        return "filtered, or of another hour than was read there"
    filtered = count_of(counts.filtered, "record of the batch was", "records of the batch were")
    ways = [f"{filtered} filtered"] if counts.filtered else []
    if counts.unaccounted:
        ways.append(f"{count_of(counts.unaccounted, 'is', 'are')} unaccounted for")
    return " and ".join(ways) or "a control record or compacted away"


def why_not(positions: Sequence[Position], topic: TopicOffsets | None, partition: int, offset: int) -> str:
    """Why no live batch of a spike has the offset, from its positions and what the broker says now."""
    mine = [p for p in positions if p.partition.index == partition and not p.closed]
    if topic is None:
        return "the topic does not exist any more, and no live batch has the offset"
    if partition not in topic.log_end:
        return f"the topic has no partition {partition}; it has {len(topic.log_end)}"
    start, end = topic.log_start[partition], topic.log_end[partition]
    if offset >= end:
        return f"not written yet: Kafka's log ends at {end}"
    if mine and offset < mine[0].baseline:
        return f"not read: the spike began at {mine[0].baseline}; a backfill of its hour reads it"
    staged = mine[0].staged_end if mine else 0
    if offset < start:
        return f"gone from Kafka, whose log starts at {start}, before it was read: the next is {staged}"
    return f"not staged yet: the next offset to read is {staged}, Kafka's log ends at {end}"
