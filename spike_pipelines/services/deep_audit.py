"""`spike audit --deep`: opens every live file and accounts for every record, one by one.

Where the plain audit believes the counts in the ledger, this one reads each record's partition and
offset and holds them against the ranges of the batch that wrote them, and against each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from spike_pipelines.domain.batch import Batch
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import DatasetState, Ledger
from spike_pipelines.services.audit import Finding

_FILES_AT_ONCE = 8
_PLACE = ["partition", "offset"]


class RecordReader(Protocol):
    def places(self, bucket: str, key: str) -> pd.DataFrame:
        """Columns `partition` and `offset`, one row for each record of a file."""


@dataclass(frozen=True, slots=True)
class DeepAuditor:
    ledger: Ledger
    reader: RecordReader
    spikes: Mapping[str, Spike]

    def run(self) -> Iterator[Finding]:
        """One finding for each dataset, as of its newest commit."""
        for state in self.ledger.datasets():
            if state.spike in self.spikes:
                yield self._dataset(self.spikes[state.spike], state)

    def places(self, spike: Spike, sequence: int) -> pd.DataFrame:
        """Every record that is live at `sequence`, final or dead-lettered: `partition`, `offset`, `batch`."""
        files = self.ledger.live_files(spike.dataset.name, sequence)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            frames = list(pool.map(lambda file: self._file(spike, file), files))
        empty = pd.DataFrame({name: pd.Series(dtype="int64") for name in [*_PLACE, "batch"]})
        return pd.concat([empty, *frames], ignore_index=True)

    def _file(self, spike: Spike, file: LedgerFile) -> pd.DataFrame:
        assert file.final_key is not None
        return self.reader.places(spike.final.bucket, file.final_key).assign(batch=file.batch)

    def _dataset(self, spike: Spike, state: DatasetState) -> Finding:
        records = self.places(spike, state.sequence)
        batches = self.ledger.committed_batches(state.name, state.sequence)
        # Offsets of a topic that was made again begin anew.
        incarnation = {b.number: r.partition.topic_id for b in batches for r in b.ranges}
        records = records.assign(topic_id=records["batch"].map(incarnation))
        filtered = sum(b.counts.filtered for b in batches)
        breaches = [*duplicates(records), *strangers(records, batches), *unaccounted(records, batches)]
        figure = f"{len(records):,} records read, {filtered:,} filtered"
        return Finding("I1+2", f"{state.name}: each record once", figure, tuple(breaches))


def duplicates(records: pd.DataFrame) -> list[str]:
    """Records that are there more than once, in whatever files."""
    place = [name for name in ("topic_id", *_PLACE) if name in records.columns]
    twice = records[records.duplicated(place, keep="first")]
    return [
        f"partition {r.partition} offset {r.offset} is there again in batch {r.batch}"
        for r in twice.itertuples()
    ]


def strangers(records: pd.DataFrame, batches: Iterable[Batch]) -> list[str]:
    """Records outside the ranges of the batch that wrote them."""
    ranges = pd.DataFrame(
        [(b.number, r.partition.index, r.start, r.end) for b in batches for r in b.ranges],
        columns=["batch", "partition", "start", "end"],
    )
    placed = records.merge(ranges, on=["batch", "partition"], how="left")
    outside = placed[~((placed["offset"] >= placed["start"]) & (placed["offset"] < placed["end"]))]
    return [
        f"partition {r.partition} offset {r.offset} is not in the ranges of batch {r.batch}"
        for r in outside.itertuples()
    ]


def unaccounted(records: pd.DataFrame, batches: Iterable[Batch]) -> list[str]:
    """Batches whose files do not hold exactly the records that were read and not filtered."""
    found = records.groupby("batch").size().to_dict()
    return [
        f"batch {b.number}: {b.counts.final + b.counts.dead_letter} records to be found, "
        f"{found.get(b.number, 0)} are"
        for b in batches
        if found.get(b.number, 0) != b.counts.final + b.counts.dead_letter
    ]
