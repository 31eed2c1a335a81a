"""`spike audit --deep`: opens every live file and accounts for every record, one by one.

Where the plain audit believes the counts in the ledger, this one reads each record's partition and
offset and holds them against the ranges of the batch that wrote them, and against each other.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from spike_pipelines.domain.batch import Batch
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import DatasetState, SwapLedger
from spike_pipelines.services.audit import Finding

_FILES_AT_ONCE = 8
_PLACE = ["partition", "offset"]


class RecordReader(Protocol):
    def places(self, bucket: str, key: str) -> pd.DataFrame:
        """Columns `partition` and `offset`, one row for each record of a file."""


@dataclass(frozen=True, slots=True)
class DeepAuditor:
    ledger: SwapLedger
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
        swapped = self.ledger.sources(state.spike)
        incarnation |= {n: incarnation[s] for n, found in swapped.items() for s in found if s in incarnation}
        records = records.assign(topic_id=records["batch"].map(incarnation))
        # Records that were filtered before, and that a backfill read again: it counts them itself.
        again = {w.batch: w.read - w.replaced_rows for w in self.ledger.swap_books()}
        breaches = [
            *duplicates(records),
            *strangers(records, batches, swapped),
            *unaccounted(records, batches, swapped, again),
        ]
        filtered = sum(b.counts.filtered - again.get(b.number, 0) for b in batches)
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


def strangers(
    records: pd.DataFrame, batches: Iterable[Batch], swapped: Mapping[int, Collection[int]]
) -> list[str]:
    """Records outside the ranges of the batch that wrote them; of a swap's batch, outside those of every
    batch that it took its records from (`swapped`)."""
    own = {b.number: b.ranges for b in batches}
    read = {n: [r for source in swapped.get(n, (n,)) for r in own.get(source, ())] for n in own}
    ranges = pd.DataFrame(
        [(n, r.partition.index, r.start, r.end) for n, found in read.items() for r in found],
        columns=["batch", "partition", "start", "end"],
    )
    placed = records.merge(ranges, on=["batch", "partition"], how="left")
    placed["inside"] = (placed["offset"] >= placed["start"]) & (placed["offset"] < placed["end"])
    inside = placed.groupby(["batch", *_PLACE])["inside"].any().reset_index()
    outside = inside.loc[~inside["inside"]]
    return [
        f"partition {r.partition} offset {r.offset} is not in the ranges of batch {r.batch}"
        for r in outside.itertuples()
    ]


def unaccounted(
    records: pd.DataFrame,
    batches: Iterable[Batch],
    swapped: Mapping[int, Collection[int]],
    again: Mapping[int, int],
) -> list[str]:
    """Batches whose files do not hold exactly the records that were read and not filtered. Batches that
    swaps tied together are counted together: what a driver read, less what anybody filtered, of which a
    backfill took some back (`again`, by its batch)."""
    found = records.groupby("batch").size().to_dict()
    by_number = {b.number: b for b in batches}
    breaches = []
    for tied in together(by_number, swapped):
        read = sum(
            by_number[n].counts.read - by_number[n].counts.unaccounted for n in tied if n not in swapped
        )
        wanted = read - sum(by_number[n].counts.filtered - again.get(n, 0) for n in tied)
        there = sum(found.get(n, 0) for n in tied)
        if wanted != there:
            name = "batch " + " and ".join(map(str, tied))
            breaches.append(f"{name}: {wanted} records to be found, {there} are")
    return breaches


def together(numbers: Iterable[int], swapped: Mapping[int, Collection[int]]) -> list[list[int]]:
    """The numbers in groups: a swap's batch is in one with all the batches it took records from."""
    group = {n: {n} for n in numbers}
    for swap, sources in swapped.items():
        merged = set().union(*(group[n] for n in (swap, *sources) if n in group))
        group |= dict.fromkeys(merged, merged)
    return [sorted(g) for g in {min(g): g for g in group.values()}.values()]
