"""The backfill of one hour: plan, read again beside the live stream, swap in (ADR 0010).

| it dies …                       | then                                                                 |
| ------------------------------- | -------------------------------------------------------------------- |
| before the batch is registered  | files in staging that nobody knows; the plan is aborted              |
| before or among the copies      | it is finished: same batch, same keys                                |
| after the commit                | the swap is done; any publication shows it                           |

By the next backfill of the hour, or by the hourly retention job (`Swapper.finish_left`), whichever is first.

The next backfill then plans anew: what was begun goes by the file, and the accepted loss, of before.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from spike_pipelines.domain.backfill import HOUR, HourPlan, below_start, plan_hour, rounds, scan_problem
from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.binding import check_schema
from spike_pipelines.domain.errors import TopicChanged
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.offsets import OffsetRange, TopicOffsets
from spike_pipelines.domain.operations import NewOperation, OperationKind
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import NewSwap, Scope, Swap, SwapKind
from spike_pipelines.ports import BackfillOrder, Broker, Rereader, SwapLedger, SwapTransaction
from spike_pipelines.services.bound import lock_bound, require_bound
from spike_pipelines.services.operate import Request
from spike_pipelines.services.promote import NotConserved
from spike_pipelines.services.swap import Swapper, SwapRefused, swap_prefix

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """Who wants an hour backfilled and why; `accept_loss` leaves alone what Kafka no longer has."""

    request: Request
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class Backfilled:
    """One hour. Without a `swap` nothing was ever read for it. `scanned` records were read, `final`,
    `dead_letter` and `filtered` are those of the hour. `below` is what Kafka has of that time below where the
    spike began: no part of the hour."""

    hour: datetime
    swap: Swap | None = None
    plan: HourPlan | None = None
    final: int = 0
    dead_letter: int = 0
    filtered: int = 0
    scanned: int = 0
    below: tuple[OffsetRange, ...] = ()

    @property
    def records(self) -> int:
        return self.final + self.dead_letter + self.filtered

    def __str__(self) -> str:
        if self.swap is None:
            return f"{self.hour:%Y-%m-%dT%H}: empty, nothing was ever read for it{told_below(self.below)}"
        return (
            f"{self.hour:%Y-%m-%dT%H}: {self.final:,} rows, {self.dead_letter:,} dead letters, "
            f"{self.filtered:,} filtered (swap {self.swap.number}){told_below(self.below)}"
        )


@dataclass(frozen=True, slots=True)
class Backfiller:
    ledger: SwapLedger
    swapper: Swapper
    broker: Broker
    rereader: Rereader

    def rehearse(self, spike: Spike, hour: datetime, *, accept_loss: bool) -> HourPlan | None:
        """What would be read and replaced now; changes nothing. Errors: as `backfill`."""
        topic = self._topic(spike)
        require_bound(self.ledger, spike)
        with self.ledger.begin() as tx:
            return _plan(tx, spike, hour, topic, accept_loss=accept_loss)

    def backfill(self, spike: Spike, hour: datetime, ask: Ask) -> Backfilled:
        """Read the hour again and swap it in. A backfill of the hour that died is brought to its end first:
        finished, if its batch was registered, and given up if not.

        Errors: `SwapBusy` (another one is at work), `Expired`, `SpecChanged` (the application file names
        another place), `Refused`, `SwapRefused` (aborted, with the reason), `InvalidSpec`, `LeaseLost`,
        `Transient`.
        """
        self._end_left(spike, hour)
        below = self.never_read(spike, hour, hour + HOUR)
        planned = self._planned(spike, hour, ask)
        if planned is None:
            return Backfilled(hour, below=below)
        plan, swap, lease = planned
        end = self.swapper.finish(spike, swap.number, lambda *a: self._reread(spike, plan, *a), lease)
        return replace(self._told(plan, end), below=below)

    def _planned(self, spike: Spike, hour: datetime, ask: Ask) -> tuple[HourPlan, Swap, Lease] | None:
        """In one transaction: what is true of the hour, what is frozen of it, and that it is at work."""
        topic = self._topic(spike)
        with self.ledger.begin() as tx:
            lock_bound(tx, spike)
            plan = _plan(tx, spike, hour, topic, accept_loss=ask.accept_loss)
            if plan is None:
                return None
            swap, lease = self.swapper.add(tx, _new_swap(spike, plan, ask))
            if plan.lost:
                tx.add_operation(_loss(spike, plan, swap, ask))
        return plan, swap, lease

    def never_read(self, spike: Spike, since: datetime, until: datetime) -> tuple[OffsetRange, ...]:
        """What Kafka has from `since` to `until`, below where the spike began. A lookup by timestamp: records
        that came late lie elsewhere. Errors: `Transient`."""
        topic, positions = self._topic(spike), self.ledger.all_positions().get(spike.name, {})
        if topic is None:
            return ()
        begun = {p: positions[p].baseline for p in topic.partitions() if p in positions}
        begun = {p: at for p, at in begun.items() if at > topic.log_start[p.index]}
        if not begun:
            return ()
        first, end = (self.broker.offsets_at(tuple(begun), at) for at in (since, until))
        return below_start(first, end, begun)

    def _reread(
        self,
        spike: Spike,
        plan: HourPlan,
        swap: Swap,
        _replaced: tuple[LedgerFile, ...],
        keep_alive: Callable[[], None],
    ) -> NewBatch:
        """Everything in the pieces is read, or nothing counts."""
        prefix = swap_prefix(spike, swap)
        order = BackfillOrder(spike.name, plan.hour, plan.pieces, plan.dead, swap.planned_at, prefix)
        batch = self.rereader.reread(order, keep_alive)
        exact = not spike.topic_has_gaps
        if problem := scan_problem(plan.pieces, batch.read + batch.elsewhere, exact_topic=exact):
            raise NotConserved(problem)
        self._check_same_topic(spike, plan)
        return batch

    def _check_same_topic(self, spike: Spike, plan: HourPlan) -> None:
        """Spark knows topics by name only: one that was made again meanwhile is another one (I10)."""
        topic = self._topic(spike)
        known = {r.partition.topic_id for r in plan.pieces}
        if topic is None or known != {topic.topic_id}:
            raise TopicChanged(f"topic {spike.topic} was deleted or made again meanwhile")

    def _end_left(self, spike: Spike, hour: datetime) -> None:
        """Finish the hour's open backfill, or give it up. Raises `SwapBusy` for one that is at work."""
        for swap in self.ledger.open_swaps(spike.name):
            if swap.kind is not SwapKind.BACKFILL or swap.scope.since != hour:
                continue
            try:
                log.warning(
                    "%s was found unfinished, and finished", self.swapper.finish(spike, swap.number, None)
                )
            except SwapRefused as refused:
                log.warning("%s was found unfinished: %s", swap, refused)

    def close(self) -> None:
        """After the last hour."""
        self.rereader.close()

    def _told(self, plan: HourPlan, swap: Swap) -> Backfilled:
        with self.ledger.begin() as tx:
            batch = tx.batch(swap.batch or 0)
        assert batch is not None
        counts = batch.counts
        scanned = counts.read + swap.elsewhere
        return Backfilled(plan.hour, swap, plan, counts.final, counts.dead_letter, counts.filtered, scanned)

    def _topic(self, spike: Spike) -> TopicOffsets | None:
        return self.broker.topics([spike.topic]).get(spike.topic)


def told_below(ranges: Iterable[OffsetRange]) -> str:
    """The end of a sentence about an hour, or some."""
    ranges = tuple(ranges)
    if not ranges:
        return ""
    return (
        f"; Kafka has {sum(map(len, ranges)):,} offsets of that time below where the spike began "
        f"({', '.join(map(str, ranges[:5]))}): a rewind to then reads them (`spike rewind`)"
    )


def _plan(
    tx: SwapTransaction, spike: Spike, hour: datetime, topic: TopicOffsets | None, *, accept_loss: bool
) -> HourPlan | None:
    check_schema(spike, tx.used_schemas(spike.name))
    facts = tx.hour_facts(spike.name, spike.dataset.name, hour)
    plan = plan_hour(facts, topic, accept_loss=accept_loss)
    if plan is not None:
        rounds(plan.pieces)  # refuses what no read could ask for
    return plan


def _new_swap(spike: Spike, plan: HourPlan, ask: Ask) -> NewSwap:
    author = ask.request.author
    return NewSwap(
        spike=spike.name,
        dataset=spike.dataset.name,
        kind=SwapKind.BACKFILL,
        who=author.who,
        why=author.why,
        application_version=spike.version,
        scope=Scope(plan.hour, plan.hour + HOUR),
        replaces=tuple(sorted(f.id for f in plan.replaces)),
        sources=plan.sources,
        expected=plan.expected,
    )


def _loss(spike: Spike, plan: HourPlan, swap: Swap, ask: Ask) -> NewOperation:
    """What a person let be: the files of what Kafka no longer has."""
    lost = plan.lost
    summary = (
        f"swap {swap.number} backfills {plan.hour:%Y-%m-%dT%H} without {', '.join(map(str, lost[:20]))}"
        + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        + f": Kafka no longer has them, and the {len(plan.kept)} files that hold them stay as they are"
    )
    request = f"{ask.request.name}/{swap.number}"
    return NewOperation(request, spike.name, OperationKind.ACCEPT_LOSS, ask.request.author, summary)
