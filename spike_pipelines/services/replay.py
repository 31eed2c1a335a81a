"""Dead letters: what there is, and parsing it again with the application as it is now."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from spike_pipelines.domain.batch import NewBatch, hour_text
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import NewSwap, Scope, Swap, SwapKind
from spike_pipelines.ports import (
    DeadLetterReader,
    KeepAlive,
    ReasonCount,
    Reparsed,
    Reparser,
    ReplayOrder,
    SwapLedger,
)
from spike_pipelines.services.swap import Swapper, swap_prefix

MOST_FILES = 5_000  # of one replay: they are named one by one, in the ledger and to Spark
_FILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters of one hour and reason; `sample` is one of them."""

    hour: datetime
    reason: str
    records: int
    sample: ReasonCount


@dataclass(frozen=True, slots=True)
class Replayed:
    """`read` dead letters became `final` rows, `filtered` ones, or stayed dead (`still`, by reason).
    `swap` is None for a dry run. `resumed` are older swaps that were found unfinished."""

    read: int
    final: int
    filtered: int
    still: Mapping[str, int]
    swap: Swap | None = None
    resumed: tuple[Swap, ...] = ()

    @classmethod
    def of(cls, done: Reparsed) -> "Replayed":
        counts = done.batch.counts
        return cls(counts.read, counts.final, counts.filtered, done.still)


@dataclass(frozen=True, slots=True)
class Replayer:
    ledger: SwapLedger
    swapper: Swapper
    reader: DeadLetterReader
    reparser: Reparser

    def groups(self, spike: Spike, scope: Scope) -> tuple[DeadLetterGroup, ...]:
        """What lies in the dead letters, newest hour first. Errors: `Transient`, `InvalidSpec`."""
        counted: dict[tuple[datetime, str], int] = defaultdict(int)
        samples: dict[tuple[datetime, str], ReasonCount] = {}
        for file, found in self._looked_into(spike, self._files(spike, scope)):
            for one in found:
                if scope.reason in (None, one.reason):
                    counted[file.hour, one.reason] += one.records
                    samples.setdefault((file.hour, one.reason), one)
        ordered = sorted(counted, key=lambda key: (-key[0].timestamp(), key[1]))
        return tuple(DeadLetterGroup(*key, counted[key], samples[key]) for key in ordered)

    def rehearse(self, spike: Spike, scope: Scope) -> Replayed | None:
        """What a replay would do, without doing it; None if there is nothing to replay."""
        files = self._concerned(spike, scope)
        if not files:
            return None
        order = _order(spike, files, scope.reason, self.ledger.now(), None)
        return Replayed.of(self.reparser.reparse(order, lambda _=None: None))

    def replay(self, spike: Spike, scope: Scope, *, who: str, why: str) -> Replayed | None:
        """Parse again and swap the outcome in; None if there is nothing to replay.

        A swap whose process died is finished first, or given up if nothing of it was registered.
        Errors: `SwapBusy`, `SwapRefused`, `InvalidSpec`, `LeaseLost`, `Transient`.
        """
        resumed = self.resume(spike)
        files = self._concerned(spike, scope)
        if not files:
            return Replayed(0, 0, 0, {}, resumed=resumed) if resumed else None
        new = NewSwap(
            spike=spike.name,
            dataset=spike.dataset.name,
            kind=SwapKind.REPLAY,
            who=who,
            why=why,
            application_version=spike.version,
            scope=scope,
            replaces=tuple(sorted(f.id for f in files)),
        )
        swap, lease = self.swapper.plan(spike, new)
        done: list[Reparsed] = []

        def produce(swap: Swap, replaced: tuple[LedgerFile, ...], keep_alive: KeepAlive) -> NewBatch:
            order = _order(spike, replaced, scope.reason, swap.planned_at, swap_prefix(spike, swap))
            done.append(self.reparser.reparse(order, keep_alive))
            return done[-1].batch

        end = self.swapper.finish(spike, swap.number, produce, lease)
        return replace(Replayed.of(done[-1]), swap=end, resumed=resumed)

    def resume(self, spike: Spike) -> tuple[Swap, ...]:
        """Bring replays and backfills whose process died to their end: what these have frozen nobody else can
        replace. One that is at work is left alone."""
        return self.swapper.finish_open(spike)

    def _files(self, spike: Spike, scope: Scope) -> tuple[LedgerFile, ...]:
        files = self.ledger.dead_letter_files(spike.dataset.name, scope.since, scope.until, MOST_FILES + 1)
        if len(files) > MOST_FILES:
            raise InvalidSpec(
                f"{spike.name} has more than {MOST_FILES} dead-letter files in these hours: "
                f"choose fewer with --hour and --to (the newest is {hour_text(files[0].hour)})"
            )
        return files

    def _concerned(self, spike: Spike, scope: Scope) -> tuple[LedgerFile, ...]:
        """The files with at least one record of the chosen reason."""
        files = self._files(spike, scope)
        if scope.reason is None:
            return files
        looked = self._looked_into(spike, files)
        return tuple(file for file, found in looked if any(one.reason == scope.reason for one in found))

    def _looked_into(
        self, spike: Spike, files: Iterable[LedgerFile]
    ) -> Iterable[tuple[LedgerFile, tuple[ReasonCount, ...]]]:
        files = tuple(files)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            found = pool.map(lambda f: self.reader.reasons(spike.final.bucket, f.final_key or ""), files)
            yield from zip(files, found, strict=True)


def _order(
    spike: Spike, files: Iterable[LedgerFile], reason: str | None, planned_at: datetime, prefix: str | None
) -> ReplayOrder:
    keys = tuple(sorted(f.final_key for f in files if f.final_key is not None))
    return ReplayOrder(spike.name, keys, reason, planned_at, prefix)
