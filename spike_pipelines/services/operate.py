"""What a person decides: release or discard a held batch, rewind a spike, accept a loss (design, 3.6, 3.7).

Each is one transaction under the spike's lock. It takes the promotion lease away, so that an appender run
that is at work acts before it or not at all, and opens an epoch that nobody has, so that every driver of
before is fenced; the supervisor then starts one that reads from the ledger's offsets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from spike_pipelines.domain.batch import LIVE_LANE, Batch
from spike_pipelines.domain.epochs import holds_a_batch
from spike_pipelines.domain.errors import (
    Conflict,
    NotParquet,
    ObjectMissing,
    Refused,
    SourceChanged,
    TopicMissing,
    Transient,
)
from spike_pipelines.domain.held import Recount, recount, require_held
from spike_pipelines.domain.leases import lease_name
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position, TopicOffsets, total
from spike_pipelines.domain.operations import (
    Author,
    Move,
    NewOperation,
    Operation,
    OperationKind,
    check_readable,
    moves_to,
)
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.rewind import (
    Aligned,
    Earliest,
    Target,
    ToOffsets,
    Unit,
    align_down,
    align_up,
    bounded,
    joined,
    log_starts,
    offsets_of,
)
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import Broker, Ledger, LedgerTransaction, ObjectStore
from spike_pipelines.services.bound import lock_bound, require_bound


@dataclass(frozen=True, slots=True)
class Request:
    """`name` is unique for ever: after an unknown outcome the same request is told from another one."""

    name: str
    author: Author


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """What a rewind does: ends that go back, committed batches superseded, unfinished ones aborted."""

    moves: tuple[Move, ...]
    superseded: tuple[Batch, ...]
    aborted: tuple[Batch, ...]

    @property
    def rows(self) -> int:
        """Final rows that readers see no more until they are read again."""
        return sum(b.counts.final for b in self.superseded)

    def __str__(self) -> str:
        return (
            f"{count_of(len(self.superseded), 'committed batch', 'committed batches')} superseded "
            f"({count_of(self.rows, 'final row')}), "
            f"{len(self.aborted)} unfinished aborted; {'; '.join(map(str, self.moves))}"
        )


@dataclass(frozen=True, slots=True)
class Operator:
    ledger: Ledger
    broker: Broker
    store: ObjectStore

    # held batches

    def count_again(self, spike: Spike, number: int) -> Recount:
        """What a release would write down. Errors: `Refused` where a release cannot help."""
        with self.ledger.begin() as tx:
            batch = require_held(tx.batch(number), number, spike.name)
            files = tx.files(number)
        return self._recount(spike, batch, files)

    def release(self, spike: Spike, number: int, request: Request) -> Operation:
        """Let a held batch be promoted with the counts that its files have. Errors: `Refused`,
        `Conflict`, `Transient`."""
        with self.ledger.begin() as tx:
            batch = require_held(tx.batch(number), number, spike.name)
            files = tx.files(number)
        counted = self._recount(spike, batch, files)

        def act(tx: LedgerTransaction) -> None:
            lock_bound(tx, spike)
            if require_held(tx.batch(number), number, spike.name) != batch:
                raise Conflict(f"batch {number} was changed meanwhile: look again")
            unaccounted = count_of(counted.counts.unaccounted, "record")
            summary = f"batch {number} released with {unaccounted} unaccounted for"
            new = _new(spike, OperationKind.RELEASE, request, f"{summary}; held: {batch.held_reason}")
            tx.release_batch(number, counted, tx.add_operation(replace(new, batch=number)))

        return self._once(request, act)

    def _recount(self, spike: Spike, batch: Batch, files: Sequence[LedgerFile]) -> Recount:
        rows: dict[int, int] = {}
        for f in files:
            try:
                footer = self.store.footer(
                    spike.staging.bucket, f.staging_key, size=f.size, etag=f.staging_etag
                )
                rows[f.id] = footer.rows
            except (ObjectMissing, SourceChanged, NotParquet) as problem:
                raise Refused(
                    f"batch {batch.number} cannot be released: {problem}. Discarding it has its records "
                    f"read again: `spike batch discard {spike.name} {batch.number} --why …`"
                ) from problem
        return recount(batch, files, rows, exact_topic=not spike.topic_has_gaps)

    def discard(self, spike: Spike, number: int, request: Request) -> Operation:
        """Give a held batch up, and all that is staged behind it: the records are read again. Errors:
        `Refused` where Kafka no longer has them, `Conflict`, `Transient`."""
        topic = self._topic(spike)

        def act(tx: LedgerTransaction) -> None:
            self._take(tx, spike)
            held = require_held(tx.batch(number), number, spike.name)
            waiting = tx.unfinished_batches(spike.name, LIVE_LANE)
            if waiting[0].number != number:
                raise Conflict(f"batch {waiting[0].number} waits before {number}: decide on that one first")
            positions = tx.positions(spike.name, LIVE_LANE)
            _check_open(waiting, positions, "Release the batch, or mend what it is held for")
            moves = moves_to({p: x.committed_end for p, x in positions.items()}, positions)
            check_readable(moves, topic)
            self._still_readable(spike, moves)
            summary = f"batch {number} and {len(waiting) - 1} behind it discarded; held: {held.held_reason}"
            new = _new(spike, OperationKind.DISCARD, request, summary)
            self._go_back(tx, spike, replace(new, batch=number), RewindPlan(moves, (), waiting))

        return self._once(request, act)

    # rewind

    def plan(self, spike: Spike, target: Target) -> RewindPlan:
        """What `rewind` would do now; changes nothing. Errors: `Refused`, `SpecChanged`, `Transient`."""
        require_bound(self.ledger, spike)
        topic, at_time = self._topic(spike), self._at_time(spike, target)
        with self.ledger.begin() as tx:
            return _plan(tx, spike, target, topic, at_time)

    def rewind(self, spike: Spike, target: Target, request: Request) -> Operation | None:
        """Take the spike back to the target, in one transaction; None if nothing lies beyond it. Errors:
        `Refused` (Kafka no longer has the records, the target lies ahead), `Transient`."""
        topic, at_time = self._topic(spike), self._at_time(spike, target)

        def act(tx: LedgerTransaction) -> None:
            self._take(tx, spike)
            plan = _plan(tx, spike, target, topic, at_time)
            if plan.moves:
                self._still_readable(spike, plan.moves)
                self._go_back(tx, spike, _new(spike, OperationKind.REWIND, request, str(plan)), plan)

        try:
            return self._once(request, act)
        except _NotDoneError:
            return None

    @staticmethod
    def _go_back(tx: LedgerTransaction, spike: Spike, new: NewOperation, plan: RewindPlan) -> None:
        """The effects of discard and rewind; the caller's transaction makes them one."""
        gone = [b.number for b in plan.superseded]
        sequence = tx.next_sequence(spike.dataset.name) if gone else None
        epoch = tx.bump_epoch(spike.name, f"{new.kind} by {new.author.who}")
        operation = tx.add_operation(replace(new, epoch=epoch, sequence=sequence, moves=plan.moves))
        tx.abort([b.number for b in plan.aborted], operation)
        if sequence is not None:
            tx.supersede(gone, sequence, operation)
        tx.reopen_hours(spike.dataset.name, plan.moves, operation)
        tx.move_ends(spike.name, LIVE_LANE, {m.partition: m.to for m in plan.moves})
        tx.refuse(spike.name, None)

    # what Kafka no longer has

    def accept_loss(self, spike: Spike, request: Request) -> Operation:
        """Declare lost what Kafka deleted before it was read, or the rest of a topic that was made again;
        the spike goes on behind it. Errors: `Refused` where nothing is lost, `TopicMissing`, `Transient`."""
        topic = self._topic(spike)
        if topic is None:
            raise TopicMissing(f"topic {spike.topic} does not exist: create it first")

        def act(tx: LedgerTransaction) -> None:
            lock_bound(tx, spike)
            self._still_the_same(spike, topic)
            positions = tx.positions(spike.name, LIVE_LANE)
            if any(p.topic_id != topic.topic_id for p in positions):
                _begin_anew(tx, spike, topic, positions, request)
            else:
                _skip_lost(tx, spike, topic, positions, request)
            tx.refuse(spike.name, None)

        return self._once(request, act)

    # what they share

    @staticmethod
    def _take(tx: LedgerTransaction, spike: Spike) -> None:
        """From here to the end of the transaction no driver registers and no run commits for the spike."""
        lock_bound(tx, spike)
        tx.revoke_lease(lease_name(spike.name))

    def _once(self, request: Request, act: Callable[[LedgerTransaction], None]) -> Operation:
        """Do it; if the outcome is unknown, the ledger tells. Raises `_NotDoneError` if `act` did nothing."""
        try:
            with self.ledger.begin() as tx:
                act(tx)
        except Transient:
            if found := self._find(request):
                return found
            raise
        if done := self._find(request):
            return done
        raise _NotDoneError("there was nothing to do")

    def _find(self, request: Request) -> Operation | None:
        with self.ledger.begin() as tx:
            return tx.find_operation(request.name)

    def _topic(self, spike: Spike) -> TopicOffsets | None:
        return self.broker.topics([spike.topic]).get(spike.topic)

    def _still_readable(self, spike: Spike, moves: Sequence[Move]) -> None:
        """Look once more, where nothing but the commit is left: what Kafka deleted since the first look is
        in committed files only, and a rewind would take those away. Raises `Refused`."""
        check_readable(moves, self._topic(spike))

    def _still_the_same(self, spike: Spike, topic: TopicOffsets) -> None:
        """Look once more: positions in a topic that was made again meanwhile would never end. Raises
        `Conflict`."""
        now = self._topic(spike)
        if now is None or now.topic_id != topic.topic_id:
            raise Conflict(f"topic {spike.topic} was deleted or made again meanwhile: look again")

    def _at_time(self, spike: Spike, target: Target) -> Mapping[Partition, int]:
        topic = self._topic(spike) if isinstance(target, datetime) else None
        if topic is None or not isinstance(target, datetime):
            return {}
        return self.broker.offsets_at(topic.partitions(), target)


class _NotDoneError(Refused):
    """Nothing was to be done."""


def _plan(
    tx: LedgerTransaction,
    spike: Spike,
    target: Target,
    topic: TopicOffsets | None,
    at_time: Mapping[Partition, int],
) -> RewindPlan:
    positions = tx.positions(spike.name, LIVE_LANE)
    _check_topic(positions, topic)
    assert topic is not None or not positions
    match target:
        case Earliest():
            wanted = log_starts(positions, topic) if topic else {}
        case ToOffsets():
            wanted = offsets_of(target, positions)
        case datetime():
            wanted = {p: offset for p, offset in at_time.items() if p in positions}
    points = bounded(wanted, positions)
    sources = tx.sources(spike.name)
    earlier = tx.earlier_batches(spike.name)
    align = align_up if isinstance(target, Earliest) else align_down
    committed, aligned = _aligned(tx, spike, align, points, sources, earlier)
    moves = moves_to(aligned.points, positions)
    check_readable(moves, topic)
    gone = frozenset(aligned.superseded)
    _check_open(
        (b for b in committed if b.number in gone), positions, "A later point, or `earliest`, keeps it"
    )
    waiting = tx.unfinished_batches(spike.name, LIVE_LANE)
    return RewindPlan(
        moves,
        (*(b for b in committed if b.number in gone), *_swaps(tx, gone & sources.keys())),
        tuple(b for b in waiting if all(r.partition in positions for r in b.ranges)),
    )


def _aligned(  # noqa: PLR0917 - facts
    tx: LedgerTransaction,
    spike: Spike,
    align: Callable[[Mapping[Partition, int], Sequence[Unit]], Aligned],
    points: Mapping[Partition, int],
    sources: Mapping[int, frozenset[int]],
    earlier: tuple[Batch, ...],
) -> tuple[tuple[Batch, ...], Aligned]:
    """What lies beyond the points, and what of it goes. An hour that was read below where the spike began and
    is reached takes its partitions back to there, and there is more beyond. It ends: points only go down, to
    where a range begins, and an older hour that went once is looked behind from then on."""
    reached, gone = points, frozenset[int]()
    while True:
        committed = (*_committed(tx, spike, reached, sources, gone), *earlier)
        aligned = align(points, joined([Unit((b.number,), b.ranges) for b in committed], sources))
        lower = {p: min(at, aligned.points.get(p, at)) for p, at in reached.items()}
        with_these = gone | frozenset(aligned.superseded) & {b.number for b in earlier}
        if (lower, with_these) == (reached, gone):
            return committed, aligned
        reached, gone = lower, with_these


def _committed(
    tx: LedgerTransaction,
    spike: Spike,
    points: Mapping[Partition, int],
    sources: Mapping[int, frozenset[int]],
    earlier: frozenset[int],
) -> tuple[Batch, ...]:
    """What lies beyond the points, and as far back as swaps tie older batches to it or to the `earlier` ones
    that go."""
    since = None
    while True:
        found = tx.committed_beyond(spike.name, LIVE_LANE, points, since=since)
        numbers = {b.number for b in found} | earlier
        tied = {n for group in sources.values() if group & numbers for n in group} - earlier
        first = min(tied | {b.number for b in found}, default=None)
        if first == since or not tied or (found and first == found[0].number):
            return found
        since = first


def _swaps(tx: LedgerTransaction, numbers: Iterable[int]) -> tuple[Batch, ...]:
    """The batches that swaps made, which are not superseded yet."""
    found = (tx.batch(number) for number in sorted(numbers))
    return tuple(b for b in found if b is not None and b.removed is None)


def _check_topic(positions: Mapping[Partition, Position], topic: TopicOffsets | None) -> None:
    """Raise `Refused` unless the topic is there and the one that the ledger knows."""
    nowhere = 2**62
    check_readable([Move(p, nowhere, nowhere, nowhere) for p in positions], topic)


def _check_open(batches: Iterable[Batch], positions: Mapping[Partition, Position], way_out: str) -> None:
    """Raise `Refused` for a batch that was read from a topic which is no more: a swap ties such a one to
    those of the topic that took its name."""
    for b in batches:
        for r in b.ranges:
            if r.partition not in positions:
                raise Refused(
                    f"{r.partition} of batch {b.number} belongs to a topic that was deleted: its records "
                    f"cannot be read again. {way_out}"
                )


def _skip_lost(
    tx: LedgerTransaction,
    spike: Spike,
    topic: TopicOffsets,
    positions: Mapping[Partition, Position],
    request: Request,
) -> None:
    """A range without records, behind what is staged: it is committed in its turn."""
    ends = (
        {p: positions[p].staged_end if p in positions else 0 for p in topic.partitions()} if positions else {}
    )
    lost = [
        OffsetRange(p, end, topic.log_start[p.index])
        for p, end in ends.items()
        if end < topic.log_start[p.index]
    ]
    if not lost:
        raise Refused(f"nothing of {spike.name} is lost: Kafka has the next record of every partition")
    holder = tx.latest_epoch(spike.name)
    if holder and holds_a_batch(holder, tx.now(), spike.objectives.hang):
        raise Refused(
            f"driver {holder.driver} is {holder.phase} and may have read what Kafka has no more: let the "
            f"appender take its batch first (is one held? `spike batch list {spike.name}`), or stop it"
        )
    summary = f"{count_of(total(lost), 'offset')} declared lost: {', '.join(map(str, lost))}"
    epoch, operation = _accept(tx, spike, request, summary)
    tx.add_positions(spike.name, LIVE_LANE, {r.partition: 0 for r in lost if r.partition not in positions})
    tx.add_lost(spike.name, LIVE_LANE, lost, epoch=epoch, operation=operation)
    tx.advance_staged(spike.name, LIVE_LANE, lost)


def _begin_anew(
    tx: LedgerTransaction,
    spike: Spike,
    topic: TopicOffsets,
    positions: Mapping[Partition, Position],
    request: Request,
) -> None:
    """Close the old incarnation's positions, begin at the new one's log start. What was staged or
    committed of the old one stays."""
    old = {p.topic_id for p in positions if p.topic_id != topic.topic_id}
    ends = ", ".join(f"{p} from {x.staged_end}" for p, x in sorted(positions.items()) if p.topic_id in old)
    summary = (
        f"topic {topic.topic} was made again with id {topic.topic_id}, read from its log start; "
        f"of {', '.join(sorted(old))} lost without a count: {ends}"
    )
    _, operation = _accept(tx, spike, request, summary)
    tx.close_positions(spike.name, LIVE_LANE, old, operation)
    starts = {p: topic.log_start[p.index] for p in topic.partitions() if p not in positions}
    tx.add_positions(spike.name, LIVE_LANE, starts)


def _accept(tx: LedgerTransaction, spike: Spike, request: Request, summary: str) -> tuple[int, int]:
    """Fences every driver and writes the loss down. The epoch and the operation."""
    epoch = tx.bump_epoch(spike.name, f"accept_loss by {request.author.who}")
    new = _new(spike, OperationKind.ACCEPT_LOSS, request, summary)
    return epoch, tx.add_operation(replace(new, epoch=epoch))


def _new(spike: Spike, kind: OperationKind, request: Request, summary: str) -> NewOperation:
    return NewOperation(request.name, spike.name, kind, request.author, summary)
