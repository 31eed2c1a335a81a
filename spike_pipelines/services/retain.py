"""Retention: deletes what no reader, no driver and no run can need any more (I9), and says how much.

Every deletion can be repeated. A final object is condemned in the ledger before it is deleted, and deleted
once more after the grace time: a copy that was under way when its batch was aborted may land later.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Refused, SpecChanged, Transient
from spike_pipelines.domain.retention import (
    EpochPlace,
    Kind,
    OrdersPlace,
    Place,
    Removal,
    RetentionTerms,
    StagedFacts,
    SwapPlace,
    age,
    invisible_since,
    judge_staged,
    place_of,
)
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Condemned, ObjectInfo, ObjectStore, RetentionLedger, SnapshotCatalog, Upload
from spike_pipelines.services.bound import require_bound

log = logging.getLogger(__name__)

PAGE = 1_000  # objects or files at a time
MOST_UPLOADS = 10_000  # in one place in one run
MOST_PAGES = 1_000  # of one kind of one spike in one run; the next run goes on

# Answers the next condemned files above an id.
_Next = Callable[[int], tuple[Condemned, ...]]


@dataclass(frozen=True, slots=True)
class Retainer:
    ledger: RetentionLedger
    store: ObjectStore
    catalog: SnapshotCatalog
    spikes: Mapping[str, Spike]
    terms: RetentionTerms

    def run(self, *, dry_run: bool = False) -> Iterator[Removal]:
        """One removal for each spike and kind, as it is done. Raises in the end, naming the spikes:
        `Transient` where something did not answer (the next run does what is left), `SpecChanged` where
        only application files stand in the way."""
        known = {state.name: state.published for state in self.ledger.datasets()}
        failures: dict[str, Transient | Refused] = {}
        for spike in self.spikes.values():
            try:
                require_bound(self.ledger, spike)  # its places may be another environment's
                yield from self._spike(spike, known.get(spike.dataset.name), dry_run=dry_run)
            except (Transient, Refused) as error:
                log.warning("%s: %s", spike.name, error)
                failures[spike.name] = error
        if failures:
            raise _undone(failures)

    def _spike(self, spike: Spike, published: int | None, *, dry_run: bool) -> Iterator[Removal]:
        """Snapshots go after the files they no longer protect: who still reads one has until the next run."""
        yield self._staging(spike, dry_run=dry_run)
        if published is not None:
            yield self._superseded(spike, published, dry_run=dry_run)
            yield self._tombstones(spike, dry_run=dry_run)
            yield self._again(spike, dry_run=dry_run)
            yield self._snapshots(spike, dry_run=dry_run)
        yield self._uploads(spike, dry_run=dry_run)  # last: it needs rights of its own

    # staging

    def _staging(self, spike: Spike, *, dry_run: bool) -> Removal:
        folder = spike.staging.key(spike.name) + "/"
        total = Removal(spike.name, Kind.STAGING)
        listing = self.store.list(spike.staging.bucket, folder)
        for _ in range(MOST_PAGES):
            page = list(islice(listing, PAGE))
            if not page:
                break
            doomed = self._doomed(spike, folder, page)
            if doomed and not dry_run:
                self.store.delete(spike.staging.bucket, [info.key for info in doomed])
            size, kept = sum(info.size for info in doomed), len(page) - len(doomed)
            total = total.plus(Removal(spike.name, Kind.STAGING, len(doomed), size, kept))
        return total

    # parts that no listing of objects shows

    def _uploads(self, spike: Spike, *, dry_run: bool) -> Removal:
        """Those that a committer or a copy was killed at. Who is at one for longer than the grace time does
        that batch or copy again."""
        finals = [(spike.final.bucket, spike.final.key(table)) for table in spike.dataset.tables.values()]
        total = Removal(spike.name, Kind.UPLOAD)
        for bucket, folder in [(spike.staging.bucket, spike.staging.key(spike.name)), *finals]:
            for upload in list(islice(self.store.uploads(bucket, f"{folder}/"), MOST_UPLOADS)):
                total = total.plus(self._upload(spike, bucket, upload, dry_run=dry_run))
        return total

    def _upload(self, spike: Spike, bucket: str, upload: Upload, *, dry_run: bool) -> Removal:
        old = age(upload.begun_at, self.ledger.now())
        if old is None or old < self.terms.grace:
            return Removal(spike.name, Kind.UPLOAD, kept=1)
        size = self.store.uploaded(bucket, upload)
        if not dry_run:
            self.store.abort(bucket, upload)
        return Removal(spike.name, Kind.UPLOAD, 1, size)

    def _doomed(self, spike: Spike, folder: str, page: list[ObjectInfo]) -> list[ObjectInfo]:
        """What of a page may go. Whether an epoch or swap is over is asked first, whether a file is
        registered last: what is registered in between is not missed, nor taken for another attempt's."""
        now = self.ledger.now()
        places = {info.key: place_of(info.key.removeprefix(folder)) for info in page}
        over = self._over(spike, places.values())
        shared = {k: _shared(folder, p) for k, p in places.items() if p not in over}
        registered = self.ledger.registered_below({prefix for prefix in shared.values() if prefix})
        fates = self.ledger.staged_fates(places)
        doomed = []
        for info in page:
            place, fate = places[info.key], fates.get(info.key)
            facts = StagedFacts(
                place=place,
                age=age(info.modified_at, now),
                state=fate.state if fate else None,
                cleaned=fate.cleaned if fate else False,
                over=place in over,
                other_attempt=shared.get(info.key) in registered,
            )
            if judge_staged(facts, self.terms.grace).removes:
                doomed.append(info)
        return doomed

    def _over(self, spike: Spike, places: Iterable[Place | None]) -> frozenset[Place]:
        """Those that can register nothing any more: epochs before the open one, swaps that ended."""
        newest = self.ledger.epochs().get(spike.name)
        numbers = {p.number for p in places if isinstance(p, SwapPlace)}
        ended = self.ledger.ended_swaps(numbers) if numbers else {}

        def over(place: Place) -> bool:
            if isinstance(place, SwapPlace):
                return ended.get(place.number, False)
            if isinstance(place, OrdersPlace):
                return True
            if newest is None:
                return False
            return place.epoch < newest.number or (
                place.epoch == newest.number and newest.state is not EpochState.OPEN
            )

        return frozenset(place for place in places if place is not None and over(place))

    # what readers saw once

    def _snapshots(self, spike: Spike, *, dry_run: bool) -> Removal:
        before, keep = self.ledger.now() - self.terms.snapshots, self.terms.keep_snapshots
        act = self.catalog.expirable if dry_run else self.catalog.expire
        gone = sum(act(table, before=before, keep=keep) for table in spike.dataset.tables.values())
        return Removal(spike.name, Kind.SNAPSHOT, gone)

    def _superseded(self, spike: Spike, published: int, *, dry_run: bool) -> Removal:
        total = Removal(spike.name, Kind.SUPERSEDED)
        before = self.ledger.now() - self.terms.grace
        # A busy table's old snapshots are gone, a quiet dataset has no commit that tells: never both.
        cleaned = self.ledger.published_before(spike.dataset.name, before)
        for kind, table in spike.dataset.tables.items():
            readable = self.catalog.oldest_sequence(table)
            shown = max(self.catalog.sequence_at(table, before), cleaned)
            look = partial(self._find_superseded, spike, kind, invisible_since(published, readable, shown))
            total = total.plus(self._sweep(spike, Kind.SUPERSEDED, look, dry_run=dry_run))
        return total

    def _find_superseded(
        self, spike: Spike, kind: FileKind, gone_at: int, after: int
    ) -> tuple[Condemned, ...]:
        return self.ledger.superseded(spike.dataset.name, kind, gone_at=gone_at, limit=PAGE, after=after)

    # what was never to be seen

    def _tombstones(self, spike: Spike, *, dry_run: bool) -> Removal:
        return self._sweep(
            spike,
            Kind.TOMBSTONE,
            lambda after: self.ledger.tombstones(spike.name, PAGE, after),
            dry_run=dry_run,
        )

    def _again(self, spike: Spike, *, dry_run: bool) -> Removal:
        before = self.ledger.now() - self.terms.grace
        return self._sweep(
            spike,
            Kind.AGAIN,
            lambda after: self.ledger.swept_once(spike.name, before, PAGE, after),
            dry_run=dry_run,
        )

    def _sweep(self, spike: Spike, kind: Kind, look: _Next, *, dry_run: bool) -> Removal:
        total = Removal(spike.name, kind)
        after = 0
        for _ in range(MOST_PAGES):
            page = look(after)
            if not page:
                break
            after = page[-1].file
            if not dry_run:
                self._delete(spike, page)
            size = 0 if kind is Kind.AGAIN else sum(c.size for c in page)
            total = total.plus(Removal(spike.name, kind, len(page), size))
        return total

    def _delete(self, spike: Spike, page: Iterable[Condemned]) -> None:
        """Condemn, delete; the second time, note that it was for good."""
        page = list(page)
        self.ledger.mark_condemned(c.file for c in page if not c.again)
        self.store.delete(spike.final.bucket, [c.key for c in page])
        self.ledger.mark_swept(c.file for c in page if c.again)


def _undone(failures: Mapping[str, Transient | Refused]) -> Transient | SpecChanged:
    refused = all(isinstance(error, SpecChanged) for error in failures.values())
    sentences = "; ".join(f"{name}: {error}" for name, error in failures.items())
    return (SpecChanged if refused else Transient)(f"retention is not done: {sentences}")


def _shared(folder: str, place: Place | None) -> str | None:
    """What the keys of all attempts at the same range begin with."""
    if isinstance(place, EpochPlace) and place.attempt is not None:
        return f"{folder}{place.epoch:08d}/{place.attempt}"
    return None
