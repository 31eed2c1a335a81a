"""`spike audit`: recomputes the invariants of the design from Kafka, S3, Iceberg and the ledger.

Safe beside a running system: the ledger is asked first, and what looks wrong in a place that moves on
is looked up again before it counts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spike_pipelines.domain.batch import FileKind, hour_text
from spike_pipelines.domain.binding import Binding
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.offsets import TopicOffsets
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Location, Spike, tables_of
from spike_pipelines.domain.swap import HOURLY, SwapKind
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import (
    Books,
    Broker,
    Catalog,
    CommittedSums,
    Coverage,
    Ledger,
    ObjectInfo,
    ObjectStore,
    RetentionLedger,
    SwapBook,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant's figure, and every breach of it; `observed` is False where it could not be told."""

    invariant: str
    promise: str
    figure: str
    breaches: tuple[str, ...] = ()
    observed: bool = True

    @property
    def ok(self) -> bool:
        return self.observed and not self.breaches


@dataclass(frozen=True, slots=True)
class Figure:
    text: str
    breaches: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a spike's files and tables are."""

    spike: str
    dataset: str
    staging: Location
    final: Location

    @property
    def tables(self) -> Mapping[FileKind, str]:
        return tables_of(self.dataset)

    @classmethod
    def of(cls, spike: Spike) -> "Place":
        return cls(spike.name, spike.dataset.name, spike.staging, spike.final)

    @classmethod
    def bound(cls, spike: str, to: Binding) -> "Place":
        return cls(spike, to.dataset, to.staging, to.final)

    def holding(self, dataset: str) -> "Place":
        """The same place, of whatever dataset the ledger has there."""
        return replace(self, dataset=dataset)


def observed(invariant: str, promise: str, look: Callable[[], Figure]) -> Finding:
    """What could not be observed is said to be so, and is not OK (I12)."""
    try:
        figure = look()
    except Transient as error:
        return Finding(invariant, promise, f"not observed: {error}", observed=False)
    return Finding(invariant, promise, figure.text, tuple(figure.breaches))


def places_of_spikes(ledger: Ledger, spikes: Mapping[str, Spike]) -> dict[str, Place]:
    """By spike: as its batches were opened, else as its application file says."""
    said = {name: Place.of(spike) for name, spike in spikes.items()}
    return said | {name: Place.bound(name, binding) for name, binding in ledger.bindings().items()}


@dataclass(frozen=True, slots=True)
class Auditor:
    ledger: RetentionLedger
    broker: Broker
    store: ObjectStore
    catalog: Catalog
    spikes: Mapping[str, Spike]

    def run(self) -> Iterator[Finding]:
        """One finding for each invariant that state can show, as it is computed."""
        books = self.ledger.books()
        coverage, sums, done = books.coverage, books.sums, books.operations
        swaps = self.ledger.swap_books()
        yield observed("I1", "no record is lost", lambda: no_loss(coverage, sums, self.spikes))
        yield observed("I2", "no record is there twice", lambda: no_duplicate(coverage, sums, swaps))
        yield observed("I3", "readers see the ledger's state", lambda: self._readers(books))
        yield observed("I4", "every final object is explained", self._objects)
        yield observed("I5", "offsets never go back", lambda: monotonic(coverage, sums, done))
        yield observed("I6", "a fenced driver wrote nothing", lambda: fenced(sums))
        yield observed("I8", "read = final + dead-letter + filtered", lambda: conserved(sums, swaps))
        yield observed("I9", "staged files are there until published", self._staged)
        yield observed("I10", "topics are the ones that were read", lambda: self._identity(coverage))

    def _places(self) -> list[Place]:
        """Where each dataset is. One that has commits and of which nobody says it cannot be judged."""
        known = places_of_spikes(self.ledger, self.spikes)
        datasets = [d for d in self.ledger.datasets() if d.sequence or d.spike in known]
        if nowhere := [d.name for d in datasets if d.spike not in known]:
            raise Transient(
                f"nobody says where dataset {', '.join(nowhere)} is: put its application file back"
            )
        return [known[d.spike].holding(d.name) for d in datasets]

    def _readers(self, books: Books) -> Figure:
        """I3: each table has exactly the files that were live at the sequence number it says it has, and
        is not behind what was published before; and the ledger's rows agree on what was committed."""
        breaches = commits_agree(books)
        files = 0
        states = {state.name: state for state in self.ledger.datasets()}
        places = self._places()
        for place in places:
            for kind, table in place.tables.items():
                seen, at = self._table_at_rest(table)
                if at > states[place.dataset].sequence:
                    breaches += self._ahead(place, table, at)
                # A table without news keeps its number; one that went back does not show what it did.
                sequence = max(at, states[place.dataset].published)
                live = self.ledger.live_files(place.dataset, sequence)
                expected = {_uri(place, f): f.rows for f in live if f.kind is kind}
                files += len(expected)
                breaches += [f"{table} at #{sequence}: {b}" for b in _difference(expected, seen)]
        return Figure(f"{count_of(files, 'file')} in {2 * len(places)} tables", breaches)

    def _ahead(self, place: Place, table: str, at: int) -> list[str]:
        """A table ahead of its ledger takes none of the commits up to there: the ledger was restored. It is
        asked again, since it may have gone on meanwhile."""
        now = next(d.sequence for d in self.ledger.datasets() if d.name == place.dataset)
        return [f"{table} is at #{at}, its ledger at #{now} only"] if at > now else []

    def _table_at_rest(self, table: str) -> tuple[Mapping[str, int], int]:
        """Files and sequence number of one and the same snapshot."""
        for _ in range(10):
            sequence = self.catalog.sequence(table)
            if sequence == 0:
                return {}, 0
            seen = self.catalog.files(table)
            if self.catalog.sequence(table) == sequence:
                return seen, sequence
        raise Transient(f"table {table} changes faster than it can be read")

    def _objects(self) -> Figure:
        """I4: objects under final are known to the ledger, and live files are there as recorded."""
        breaches: list[str] = []
        objects = 0
        for place in self._places():
            live = self._live(place)
            there = self._final_objects(place)
            objects += len(there)
            unknown = there.keys() - self.ledger.known_final_keys(there)
            breaches += [f"s3://{place.final.bucket}/{key} is not in the ledger" for key in sorted(unknown)]
            breaches += [b for f in live if (b := _differs(place, f, there))]
            breaches += self._gone_too_early(place, there)
        return Figure(count_of(objects, "object"), breaches)

    def _gone_too_early(self, place: Place, there: Mapping[str, ObjectInfo]) -> list[str]:
        """Superseded files that older snapshots show, and retention did not remove."""
        missing = [f for f in self.ledger.kept_superseded(place.dataset) if f.final_key not in there]
        still = {f.id for f in self.ledger.kept_superseded(place.dataset)} if missing else set()
        return [
            f"{_uri(place, f)} is superseded, not yet removed, and gone" for f in missing if f.id in still
        ]

    def _live(self, place: Place) -> tuple[LedgerFile, ...]:
        state = next(d for d in self.ledger.datasets() if d.name == place.dataset)
        return self.ledger.live_files(state.name, state.sequence)

    def _final_objects(self, place: Place) -> Mapping[str, ObjectInfo]:
        folders = [place.final.key(table) + "/" for table in place.tables.values()]
        found = (info for folder in folders for info in self.store.list(place.final.bucket, folder))
        return {info.key: info for info in found}

    def _staged(self) -> Figure:
        """I9: what waits to be promoted has its staged files, or has been promoted meanwhile."""
        places = {place.spike: place for place in self._places()}
        staged = self.ledger.staged_files()
        if nowhere := sorted({name for name, _ in staged} - places.keys()):
            raise Transient(f"nobody says where the staged files of {', '.join(nowhere)} are")
        waiting = [(places[name], f) for name, f in staged]
        wrong = [(f, b) for s, f in waiting if (b := self._spoilt(s, f))]
        still = {f.id for _, f in self.ledger.staged_files()}
        breaches = [breach for f, breach in wrong if f.id in still]
        early = self.ledger.condemned_early()
        breaches += [f"{key} was removed before its replacement was published" for key in early]
        return Figure(count_of(len(waiting), "file waits", "files wait"), breaches)

    def _spoilt(self, place: Place, file: LedgerFile) -> str | None:
        found, uri = self.store.head(place.staging.bucket, file.staging_key), _staged_uri(place, file)
        if found is None:
            return f"{uri} is gone"
        same = (found.size, found.etag) == (file.size, file.staging_etag)
        return None if same else f"{uri} is not the object that was registered"

    def _identity(self, coverage: Sequence[Coverage]) -> Figure:
        """I10: the broker's topic ids are the ledger's, what is to be read next is still there, and what was
        read has not been cut off."""
        read = [c for c in coverage if not c.position.closed]
        topics = self.broker.topics({c.position.partition.topic for c in coverage})
        if any(_cut_off(c, topics) for c in read):  # a replica that is behind is not blamed
            topics = self.broker.topics(topics)
        breaches = [b for c in read if (b := _cut_off(c, topics))]
        breaches += [b for c in coverage if (b := _closed_early(c, topics))]
        for c in read:
            partition = c.position.partition
            topic = topics.get(partition.topic)
            if topic is None or topic.topic_id != partition.topic_id:
                breaches.append(f"{c.spike}: topic {partition.topic} is gone or was made again")
            elif (lost := topic.log_start[partition.index] - c.position.staged_end) > 0:
                breaches.append(f"{c.spike}: {partition} lost {count_of(lost, 'offset')}")
        return Figure(count_of(len(topics), "topic"), sorted(set(breaches)))


def _cut_off(c: Coverage, topics: Mapping[str, TopicOffsets]) -> str | None:
    partition, staged = c.position.partition, c.position.staged_end
    topic = topics.get(partition.topic)
    if topic is None or topic.topic_id != partition.topic_id:
        return None
    end = topic.log_end.get(partition.index, 0)
    return f"{c.spike}: {partition} is staged up to {staged}, its log ends at {end}" if end < staged else None


def _closed_early(c: Coverage, topics: Mapping[str, TopicOffsets]) -> str | None:
    """What was closed is read no more: only a topic that was made again leaves nothing to be read."""
    partition = c.position.partition
    topic = topics.get(partition.topic)
    there = c.position.closed and topic is not None and topic.topic_id == partition.topic_id
    return f"{c.spike}: {partition} is closed, and its topic is the one that was read" if there else None


def no_loss(
    coverage: Sequence[Coverage], sums: Sequence[CommittedSums], spikes: Mapping[str, Spike]
) -> Figure:
    """I1: live ranges leave nothing out, and all that was in the committed ones was read."""
    gaps = [f"{c.spike}: {b}" for c in coverage for b in c.breaks if b.found > b.expected]
    gaps += [f"{s.spike}: a file of batch {n} was replaced by nothing" for s in sums for n in s.vanished]
    gaps += [f"{s.spike}: nobody knows where batch {n} was read" for s in sums for n in s.unplaced]
    for s in sums:
        offsets = sum(c.offsets - c.lost for c in coverage if c.spike == s.spike)
        exact = s.spike in spikes and not spikes[s.spike].topic_has_gaps
        if exact and offsets != s.read:
            gaps.append(
                f"{s.spike}: {count_of(offsets, 'offset is', 'offsets are')} committed, "
                f"{count_of(s.read, 'record was', 'records were')} read"
            )
    total, lost = sum(c.offsets for c in coverage), sum(c.lost for c in coverage)
    declared = f", {lost:,} of them declared lost" if lost else ""
    ranges = count_of(sum(c.ranges for c in coverage), "range")
    return Figure(f"{count_of(total, 'offset')} in {ranges}{declared}", gaps)


def no_duplicate(
    coverage: Sequence[Coverage], sums: Sequence[CommittedSums], swaps: Sequence[SwapBook]
) -> Figure:
    """I2: live ranges are disjoint, nothing of a batch that was given up is live, what a swap replaced
    is not live beside its replacement, and an hour that was read below where the spike began was so once."""
    overlaps = [f"{c.spike}: {b}" for c in coverage for b in c.breaks if b.found < b.expected]
    overlaps += [f"{s.spike}: batch {n} was given up and is live in part" for s in sums for n in s.undead]
    overlaps += [
        f"{w.spike}: swap {w.number} left {w.not_superseded} of the files it replaced"
        for w in swaps
        if w.not_superseded
    ]
    overlaps += [f"{w.spike}: swap {w.number} read what the live stream reads too" for w in swaps if w.above]
    hours = Counter((w.spike, w.hour) for w in swaps if w.kind is SwapKind.EARLIER and w.hour)
    overlaps += [
        f"{spike}: {hour_text(hour)} was read {n} times below where the spike began"
        for (spike, hour), n in hours.items()
        if n > 1
    ]
    return Figure(count_of(len(coverage), "partition"), overlaps)


def commits_agree(books: Books) -> list[str]:
    """I3: a commit is whole in every row that tells of it, and no sequence number is missing."""
    wrong = [f"{s.spike}: files of batch {n} do not have its state" for s in books.sums for n in s.halfway]
    wrong += [f"{q.dataset}: commit #{n} is missing" for q in books.sequences for n in q.missing]
    wrong += [
        f"{q.dataset} is at #{q.sequence}, its newest commit is #{q.newest}"
        for q in books.sequences
        if q.sequence != q.newest
    ]
    return wrong


def monotonic(
    coverage: Sequence[Coverage], sums: Sequence[CommittedSums], operations: Mapping[str, int]
) -> Figure:
    """I5: in every partition baseline ≤ committed end ≤ staged end, the staged end is where the last range
    ends, and whatever went back or was skipped says who did it and why."""
    back = [
        f"{c.spike}: {c.position}"
        for c in coverage
        if not c.position.baseline <= c.position.committed_end <= c.position.staged_end
    ]
    back += [
        f"{c.spike}: {c.position.partition} is staged up to {c.staged}, its staged end is "
        f"{c.position.staged_end}"
        for c in coverage
        if c.staged != c.position.staged_end
    ]
    back += [f"{s.spike}: nobody accounts for batch {n}" for s in sums for n in s.unexplained]
    waiting = sum(c.position.staged_end - c.position.committed_end for c in coverage)
    done = "".join(f", {number} {kind}" for kind, number in operations.items())
    return Figure(f"{count_of(waiting, 'offset')} staged and not committed{done}", back)


def fenced(sums: Sequence[CommittedSums]) -> Figure:
    """I6: no batch was registered after a newer epoch was opened."""
    late = [f"{s.spike}: batch {n} was registered by a fenced epoch" for s in sums for n in s.late]
    return Figure(count_of(sum(s.batches for s in sums), "batch", "batches"), late)


def conserved(sums: Sequence[CommittedSums], swaps: Sequence[SwapBook]) -> Figure:
    """I8: counts of every batch agree with its files, of a committed one with each other and its ranges too;
    and a replay read what lay in the files it replaced."""
    broken = [f"{s.spike}: batch {n} does not add up" for s in sums for n in s.unbalanced]
    broken += [b for w in swaps if (b := _unbalanced(w))]
    read, final = sum(s.read for s in sums), sum(s.final for s in sums)
    dead, filtered = sum(s.dead_letter for s in sums), sum(s.filtered for s in sums)
    passed = sum(s.unaccounted for s in sums)
    released = f" + {passed:,} unaccounted for" if passed else ""
    replaced = count_of(sum(w.replaced_rows for w in swaps), "record")
    also = f", {count_of(len(swaps), 'swap')} of {replaced}" if swaps else ""
    return Figure(f"{read:,} = {final:,} + {dead:,} + {filtered:,}{released}{also}", broken)


def _unbalanced(swap: SwapBook) -> str | None:
    name = f"{swap.spike}: swap {swap.number}"
    if swap.kind is SwapKind.REPLAY and swap.read != swap.replaced_rows:
        return f"{name} read {count_of(swap.read, 'record')}, the files it replaced have {swap.replaced_rows}"
    if swap.kind in HOURLY and swap.read != swap.expected:
        return f"{name} found {count_of(swap.read, 'record')} of its hour, the ledger had {swap.expected}"
    if swap.read != swap.final + swap.dead_letter + swap.filtered:
        return f"{name} does not add up"
    if swap.file_rows != swap.final + swap.dead_letter:
        counted = count_of(swap.final + swap.dead_letter, "row")
        return f"{name} counted {counted}, its files have {swap.file_rows}"
    return None


def _uri(place: Place, file: LedgerFile) -> str:
    return f"s3://{place.final.bucket}/{file.final_key}"


def _staged_uri(place: Place, file: LedgerFile) -> str:
    return f"s3://{place.staging.bucket}/{file.staging_key}"


def _difference(expected: Mapping[str, int], seen: Mapping[str, int]) -> list[str]:
    missing = [f"{uri} is missing or differs" for uri, rows in expected.items() if seen.get(uri) != rows]
    more = sorted(seen.keys() - expected.keys())
    return missing + [
        f"{uri} {'hides rows' if seen[uri] < 0 else 'is not live in the ledger'}" for uri in more
    ]


def _differs(place: Place, file: LedgerFile, there: Mapping[str, ObjectInfo]) -> str | None:
    found = there.get(file.final_key or "")
    if found is None:
        return f"{_uri(place, file)} is live and not there"
    if (found.size, found.etag) != (file.size, file.final_etag):
        return f"{_uri(place, file)} is not the object that was committed"
    named = f"/hour={hour_text(file.hour)}/{file.batch:012d}-"
    return None if named in found.key else f"{_uri(place, file)} is not named for its hour and batch"
