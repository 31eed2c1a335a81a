"""How a staged batch becomes final files: names, checks and what to publish. All pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.batch import Batch, FileKind, FileState, hour_text
from spike_pipelines.domain.offsets import total
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A file as the ledger has it. Keys are absolute within the bucket. `added` and `removed` are the
    sequence numbers of the dataset at which it became live and was superseded."""

    id: int
    batch: int
    kind: FileKind
    hour: datetime
    rows: int
    size: int
    state: FileState
    staging_key: str
    staging_etag: str
    final_key: str | None = None
    final_etag: str | None = None
    added: int | None = None
    removed: int | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """Where one file goes. Written to the ledger before the first byte is copied."""

    file: int
    final_key: str


def final_key(spike: Spike, file: LedgerFile, index: int, *, mark: str | None = None) -> str:
    """`<prefix>/<table>/hour=2026-11-22T21/<number>-<index>.parquet`: deterministic, and unique for
    ever because the ledger's batch number is (I2). `mark` says in the name that a swap made the file."""
    table, hour = spike.dataset.tables[file.kind], f"hour={hour_text(file.hour)}"
    name = "-".join(part for part in (f"{file.batch:012d}", mark, f"{index:04d}.parquet") if part)
    return spike.final.key(table, hour, name)


def plan_intents(spike: Spike, files: Iterable[LedgerFile], *, mark: str | None = None) -> tuple[Intent, ...]:
    """One intent a file, in the order of their ids, so that every run plans the same."""
    ordered = sorted(files, key=lambda f: f.id)
    return tuple(Intent(f.id, final_key(spike, f, i, mark=mark)) for i, f in enumerate(ordered))


def conservation_problem(
    batch: Batch, files: Iterable[LedgerFile], footer_rows: Mapping[int, int], *, exact_topic: bool
) -> str | None:
    """Why the counts of a batch do not agree (I8), or None.

    `footer_rows` is what the appender counted, by file id. `exact_topic` says that offsets of the
    topic have no gaps (no transactions, no compaction), so that ranges count records too.
    """
    if batch.lost:
        return None
    if problem := counts_problem(batch, tuple(files), footer_rows):
        return problem
    counts, offsets = batch.counts, total(batch.ranges)
    if counts.read > offsets:
        return f"read {count_of(counts.read, 'record')} from {count_of(offsets, 'offset')}"
    if exact_topic and counts.read != offsets:
        return (
            f"read {count_of(counts.read, 'record')}, the ranges have {count_of(offsets, 'offset')} "
            "(a transactional or compacted topic needs `topicHasGaps: true`)"
        )
    return None


def counts_problem(batch: Batch, files: tuple[LedgerFile, ...], footer_rows: Mapping[int, int]) -> str | None:
    """Why the counts of a batch do not agree with its files or each other, wherever its records came from."""
    for file in files:
        if footer_rows[file.id] != file.rows:
            return (
                f"{file.staging_key} has {count_of(footer_rows[file.id], 'row')}, the driver said {file.rows}"
            )
    counted: Counter[FileKind] = Counter()
    for file in files:
        counted[file.kind] += footer_rows[file.id]
    counts = batch.counts
    for kind, said in ((FileKind.FINAL, counts.final), (FileKind.DEAD_LETTER, counts.dead_letter)):
        if counted[kind] != said:
            return f"the files have {count_of(counted[kind], f'{kind.value} row')}, the driver said {said}"
    if not counts.conserved():
        return (
            f"read {counts.read} is not "
            f"final {counts.final} + dead-letter {counts.dead_letter} + filtered {counts.filtered}"
            + (f" + unaccounted {counts.unaccounted}" if counts.unaccounted else "")
        )
    return None


@dataclass(frozen=True, slots=True)
class Publication:
    """What brings a table from one sequence number of the ledger to another."""

    sequence: int
    add: tuple[LedgerFile, ...]
    remove: tuple[LedgerFile, ...]


def publication(files: Iterable[LedgerFile], *, current: int, target: int) -> Publication:
    """Files that became live in `(current, target]` and still are at `target`, and those to take out."""
    files = tuple(files)
    return Publication(
        sequence=target,
        add=tuple(f for f in files if _live_at(f, target) and not _live_at(f, current)),
        remove=tuple(f for f in files if _live_at(f, current) and not _live_at(f, target)),
    )


def _live_at(file: LedgerFile, sequence: int) -> bool:
    return (
        file.added is not None
        and file.added <= sequence
        and (file.removed is None or file.removed > sequence)
    )
