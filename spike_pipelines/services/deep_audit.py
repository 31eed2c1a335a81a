"""`spike audit --deep`: opens every live file and accounts for every record, one by one.

Where the plain audit believes the counts in the ledger, this one reads each record's partition and
offset and holds them against the ranges of the batch that wrote them, and against each other.

Batches are looked at one after the other, those that swaps tied together at once, and those that read hours
below where the spike began from the same offsets; ranges of others are disjoint, so that a record which is in
its own batch's ranges is in no other's. In memory at one time: a byte for each offset of one batch (or of
those tied together), the two columns of a few files, and the ledger's rows of batches and files; never the
records of a dataset.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from spike_pipelines.domain.batch import LIVE_LANE, Batch
from spike_pipelines.domain.errors import InvariantBroken, NotParquet, ObjectMissing, Transient
from spike_pipelines.domain.offsets import OffsetRange, Partition, merged
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import SwapKind
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import DatasetState, SwapLedger
from spike_pipelines.services.audit import Figure, Finding, Place, observed, places_of_spikes

_FILES_AT_ONCE = 8
_PLACE = ["partition", "offset"]
_MOST_TOLD = 1_000  # breaches of a dataset: where all is broken, the first tell enough

Offsets: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Ranges: TypeAlias = Mapping[int, Sequence[OffsetRange]]
Opened: TypeAlias = tuple[LedgerFile, pd.DataFrame, str | None]  # its records' places, what is wrong with it


class RecordReader(Protocol):
    def places(self, bucket: str, key: str) -> pd.DataFrame:
        """Columns `partition` and `offset`, one row for each record of a file. Raises `ObjectMissing`,
        `NotParquet`, `Transient`."""


@dataclass(frozen=True, slots=True)
class DeepAuditor:
    ledger: SwapLedger
    reader: RecordReader
    spikes: Mapping[str, Spike]

    def run(self) -> Iterator[Finding]:
        """One finding for each dataset, as of its newest commit; not observed (I12) where it is not known
        where its files are, or one of them could not be read."""
        places = places_of_spikes(self.ledger, self.spikes)
        for state in self.ledger.datasets():
            if state.sequence or state.spike in places:
                yield self._observed(places.get(state.spike), state)

    def _observed(self, place: Place | None, state: DatasetState) -> Finding:
        return observed("I1+2", f"{state.name}: each record once", lambda: self._dataset(place, state))

    def places(self, spike: Spike, sequence: int) -> pd.DataFrame:
        """Every record that is live at `sequence`, final or dead-lettered: `partition`, `offset`, `batch`.
        All of them at once: for scratch data."""
        files = self.ledger.live_files(spike.dataset.name, sequence)
        read = list(self._read(spike.final.bucket, files))
        if problems := [problem for _, _, problem in read if problem]:
            raise InvariantBroken(f"{spike.dataset.name} #{sequence}: {problems[0]}")
        frames = [frame.assign(batch=file.batch) for file, frame, _ in read]
        empty = _nowhere().assign(batch=pd.Series(dtype="int64"))
        return pd.concat([empty, *frames], ignore_index=True)

    def _read(self, bucket: str, files: Iterable[LedgerFile]) -> Iterator[Opened]:
        """In order, some files ahead of the one that is looked at. One that is gone or broken has no records,
        and a sentence that says so."""
        waiting = iter(files)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            ahead: deque[Future[Opened]] = deque()
            while True:
                for file in islice(waiting, _FILES_AT_ONCE - len(ahead)):
                    ahead.append(pool.submit(self._file, bucket, file))
                if not ahead:
                    return
                yield ahead.popleft().result()

    def _file(self, bucket: str, file: LedgerFile) -> Opened:
        assert file.final_key is not None
        try:
            return file, self.reader.places(bucket, file.final_key), None
        except (ObjectMissing, NotParquet) as error:
            return file, _nowhere(), str(error)

    def _dataset(self, place: Place | None, state: DatasetState) -> Figure:
        if place is None:
            raise Transient(f"nobody says where dataset {state.name} is: put its application file back")
        files = self.ledger.live_files(state.name, state.sequence)
        batches = self.ledger.committed_batches(state.name, state.sequence)
        swapped = self.ledger.sources(state.spike)
        told = _Told()
        there: Counter[int] = Counter()
        groups = together((b.number for b in batches), swapped, tied_by_ranges(batches))
        home = {number: i for i, group in enumerate(groups) for number in group}
        read = sources_of(batches, swapped)

        def at(file: LedgerFile) -> int:
            return home.get(file.batch, -file.batch)  # a batch that is not committed is alone

        ordered = self._read(place.final.bucket, sorted(files, key=lambda f: (at(f), f.id)))
        for number, found in groupby(ordered, key=lambda opened: at(opened[0])):
            seen = Seen(r for n in (groups[number] if number >= 0 else ()) for r in read.get(n, ()))
            for file, frame, problem in found:
                told.tell([problem] if problem else [])
                there[file.batch] += len(frame)
                told.tell(misplaced(seen, file.batch, frame, read.get(file.batch, ())))
        told.tell(shared(batches))
        # Records that were filtered before, and that a backfill read again: it counts them itself.
        books = self.ledger.swap_books()
        again = {w.batch: w.read - w.replaced_rows for w in books if w.kind is not SwapKind.EARLIER}
        told.tell(unaccounted(there, batches, swapped, again))
        filtered = sum(b.counts.filtered - again.get(b.number, 0) for b in batches)
        figure = f"{count_of(there.total(), 'record')} read, {filtered:,} filtered"
        return Figure(figure, told.breaches())


def _nowhere() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="int64") for name in _PLACE})


class _Told:
    """The first breaches, and how many there were."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._more = 0

    def tell(self, breaches: Iterable[str]) -> None:
        for breach in breaches:
            if len(self._first) < _MOST_TOLD:
                self._first.append(breach)
            else:
                self._more += 1

    def breaches(self) -> tuple[str, ...]:
        return (*self._first, *([f"and {self._more:,} more"] if self._more else []))


class _Places:
    """Ranges of one partition, and where in a row of all their offsets one offset is."""

    def __init__(self, ranges: Iterable[OffsetRange]) -> None:
        ordered = merged(ranges)
        self._starts = np.array([r.start for r in ordered], dtype=np.int64)
        self._ends = np.array([r.end for r in ordered], dtype=np.int64)
        self._before = np.cumsum([0, *(len(r) for r in ordered)])
        self.size = int(self._before[-1])

    def find(self, offsets: Offsets) -> Offsets:
        """-1 where an offset is in none of the ranges."""
        i = np.searchsorted(self._starts, offsets, side="right") - 1
        inside = (i >= 0) & (offsets < self._ends[i])
        return np.where(inside, self._before[i] + offsets - self._starts[i], -1)


class Seen:
    """Which of the offsets in these ranges were found in a file, a byte for each."""

    def __init__(self, ranges: Iterable[OffsetRange]) -> None:
        self._places = {p: _Places(found) for p, found in _by_partition(ranges).items()}
        self._seen = {p: np.zeros(places.size, dtype=np.bool_) for p, places in self._places.items()}

    def mark(self, partition: Partition, offsets: Offsets) -> Mask:
        """Which of the offsets, all of them within the ranges, are seen for the first time."""
        at, seen = self._places[partition].find(offsets), self._seen[partition]
        new = np.zeros(len(at), dtype=np.bool_)
        new[np.unique(at, return_index=True)[1]] = True
        new &= ~seen[at]
        seen[at] = True
        return new


def misplaced(seen: Seen, batch: int, frame: pd.DataFrame, ranges: Iterable[OffsetRange]) -> Iterator[str]:
    """Records of a file that were found before (I2), and those outside the ranges that their batch read.
    Offsets of a topic that was made again begin anew: a swap may hold the same one of both."""
    index, offsets = _column(frame, "partition"), _column(frame, "offset")
    left, inside = np.ones(len(frame), dtype=np.bool_), np.zeros(len(frame), dtype=np.bool_)
    for partition, found in sorted(_by_partition(ranges).items()):
        within = index == partition.index
        within[within] = _Places(found).find(offsets[within]) >= 0
        inside |= within
        candidates = np.flatnonzero(within & left)
        left[candidates[seen.mark(partition, offsets[candidates])]] = False
    for i in np.flatnonzero(left):
        place = f"partition {index[i]} offset {offsets[i]}"
        if inside[i]:
            yield f"{place} is there again in batch {batch}"
        else:
            yield f"{place} is not in the ranges of batch {batch}"


def _column(frame: pd.DataFrame, name: str) -> Offsets:
    return frame[name].to_numpy(dtype=np.int64)


def _by_partition(ranges: Iterable[OffsetRange]) -> dict[Partition, list[OffsetRange]]:
    found: dict[Partition, list[OffsetRange]] = {}
    for r in ranges:
        found.setdefault(r.partition, []).append(r)
    return found


def sources_of(batches: Iterable[Batch], swapped: Mapping[int, Collection[int]]) -> Ranges:
    """The ranges that each batch's records are from: its own, or those of the batches a swap took them of."""
    own = {b.number: b.ranges for b in batches}
    return {n: [r for source in swapped.get(n, (n,)) for r in own.get(source, ())] for n in own}


def shared(batches: Iterable[Batch]) -> Iterator[str]:
    """Ranges that two batches both read: a record in both would be in its place in both. But those that read
    hours below where the spike began took one hour each, and their records are looked at together."""
    read = sorted((r, b.number, b.lane == LIVE_LANE) for b in batches for r in b.ranges)
    furthest: dict[tuple[Partition, bool], tuple[int, int]] = {}
    for r, number, live in read:
        lanes = (True, False) if live else (True,)
        end, holder = max(furthest.get((r.partition, lane), (0, 0)) for lane in lanes)
        if r.start < end:
            yield f"{r} of batch {number} was read by batch {holder} too"
        furthest[r.partition, live] = max(furthest.get((r.partition, live), (0, 0)), (r.end, number))


def tied_by_ranges(batches: Iterable[Batch]) -> Mapping[int, set[int]]:
    """By batch, others that read some of the same offsets, each the records of another hour."""
    tied: dict[int, set[int]] = {}
    furthest: dict[Partition, tuple[int, int]] = {}
    for r, number in sorted((r, b.number) for b in batches if b.lane != LIVE_LANE for r in b.ranges):
        end, holder = furthest.get(r.partition, (0, number))
        if r.start < end:
            tied.setdefault(number, set()).add(holder)
        furthest[r.partition] = max((end, holder), (r.end, number))
    return tied


def unaccounted(
    found: Mapping[int, int],
    batches: Iterable[Batch],
    swapped: Mapping[int, Collection[int]],
    again: Mapping[int, int],
) -> list[str]:
    """Batches whose files do not hold exactly the records that were read and not filtered. Batches that
    swaps tied together are counted together: what a driver read, less what anybody filtered, of which a
    backfill took some back (`again`, by its batch). `found` has the records of each batch's files."""
    by_number = {b.number: b for b in batches}
    breaches = []
    for tied in together(by_number, swapped, tied_by_ranges(by_number.values())):
        read = sum(
            by_number[n].counts.read - by_number[n].counts.unaccounted for n in tied if n not in swapped
        )
        wanted = read - sum(by_number[n].counts.filtered - again.get(n, 0) for n in tied)
        there = sum(found.get(n, 0) for n in tied)
        if wanted != there:
            name = "batch " + " and ".join(map(str, tied))
            breaches.append(
                f"{name}: {count_of(wanted, 'record')} to be found, {count_of(there, 'is', 'are')}"
            )
    return breaches


def together(numbers: Iterable[int], *ties: Mapping[int, Collection[int]]) -> list[list[int]]:
    """The numbers in groups: a swap's batch is in one with all the batches it took records from."""
    group = {n: {n} for n in numbers}
    for swap, sources in chain.from_iterable(tie.items() for tie in ties):
        merged = set().union(*(group[n] for n in (swap, *sources) if n in group))
        group |= dict.fromkeys(merged, merged)
    return [sorted(g) for g in {min(g): g for g in group.values()}.values()]
