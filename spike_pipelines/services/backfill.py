"""The backfill of one hour: plan, read again beside the live stream, swap in (ADR 0010). What Kafka has of it
below where the spike began is read by a swap of its own, which replaces nothing (ADR 0013).

One that dies is ended as any swap is (`services/swap.py`). The next backfill of the hour then plans anew:
what was begun goes by the file, and the accepted loss, of before.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from spike_pipelines.domain.backfill import Expired, HourPlan, plan_hour, rounds, scan_problem
from spike_pipelines.domain.batch import ONE_HOUR, NewBatch, hour_text
from spike_pipelines.domain.binding import check_schema
from spike_pipelines.domain.earlier import (
    Place,
    Survey,
    below,
    check_still_below,
    cut_off,
    deleted_from,
    older_hours,
)
from spike_pipelines.domain.errors import Refused, TopicChanged
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.offsets import OffsetRange, Partition, TopicOffsets, total
from spike_pipelines.domain.operations import NewOperation, OperationKind
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import HOURLY, NewSwap, Scope, Swap, SwapBusy, SwapKind
from spike_pipelines.domain.words import count_of, some
from spike_pipelines.ports import (
    BackfillOrder,
    Broker,
    KeepAlive,
    Rereader,
    SurveyOrder,
    SwapLedger,
    SwapTransaction,
)
from spike_pipelines.services.bound import lock_bound, require_bound
from spike_pipelines.services.operate import Request
from spike_pipelines.services.promote import NotConserved
from spike_pipelines.services.swap import Swapper, SwapRefused, swap_prefix

log = logging.getLogger(__name__)

BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)  # no record has a timestamp of before

Ranges = tuple[OffsetRange, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Who wants an hour backfilled and why; `accept_loss` leaves alone what Kafka no longer has."""

    request: Request
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a backfill of the hour would do now. Without a `plan` nothing had been read for it; `cut` says
    where more may be gone of what lies below where the spike began, an accepted loss; else it is empty."""

    hour: datetime
    plan: HourPlan | None
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Backfilled:
    """One hour. Without a `swap` nothing had been read for it; `earlier` has read what lies below where the
    spike began. `scanned` records were read, `final`, `dead_letter` and `filtered` are those of the hour."""

    hour: datetime
    swap: Swap | None = None
    final: int = 0
    dead_letter: int = 0
    filtered: int = 0
    scanned: int = 0
    earlier: Swap | None = None

    @property
    def records(self) -> int:
        return self.final + self.dead_letter + self.filtered

    @property
    def swaps(self) -> tuple[Swap, ...]:
        return tuple(swap for swap in (self.swap, self.earlier) if swap is not None)

    def plus(self, other: "Backfilled") -> "Backfilled":
        return replace(
            self,
            final=self.final + other.final,
            dead_letter=self.dead_letter + other.dead_letter,
            filtered=self.filtered + other.filtered,
            scanned=self.scanned + other.scanned,
            earlier=other.earlier,
        )

    def __str__(self) -> str:
        if not self.swaps:
            return f"{hour_text(self.hour)}: empty, nothing was ever read for it"
        numbers = " and ".join(str(swap.number) for swap in self.swaps)
        below = ", below where the spike began" if self.earlier else ""
        return (
            f"{hour_text(self.hour)}: {count_of(self.final, 'row')}, "
            f"{count_of(self.dead_letter, 'dead letter')}, "
            f"{self.filtered:,} filtered (swap {numbers}{below})"
        )


@dataclass(frozen=True, slots=True)
class Backfiller:
    ledger: SwapLedger
    swapper: Swapper
    broker: Broker
    rereader: Rereader

    def rehearse(self, spike: Spike, hour: datetime, *, accept_loss: bool) -> Rehearsed:
        """What would be read and replaced now; changes nothing. Errors: as `backfill`."""
        require_bound(self.ledger, spike)
        cut = self._cut(spike, hour, accept_loss=accept_loss)
        topic = self._topic(spike)
        with self.ledger.begin() as tx:
            return Rehearsed(hour, _plan(tx, spike, hour, topic, accept_loss=accept_loss), cut)

    def backfill(self, spike: Spike, hour: datetime, ask: Ask, survey: Survey | None = None) -> Backfilled:
        """Read the hour again and swap it in, then what lies below where the spike began. A backfill of the
        hour that died is brought to its end first: finished, if its batch was registered, and given up if
        not. `survey`: one that looked for this hour too, if there is one.

        Errors: `SwapBusy` (another one is at work), `Expired`, `SpecChanged` (the application file names
        another place), `Refused`, `SwapRefused` (aborted, with the reason), `InvalidSpec`, `LeaseLost`,
        `Transient`.
        """
        self._end_left(spike, hour)
        survey = self.survey(spike, [hour]) if survey is None else survey
        cut = self._cut(spike, hour, accept_loss=ask.accept_loss)
        planned = self._planned(spike, hour, ask)
        done = Backfilled(hour)
        if planned is not None:
            plan, swap, lease = planned
            end = self.swapper.finish(spike, swap.number, lambda *a: self._reread(spike, plan, *a), lease)
            done = replace(self._told(hour, end), swap=end)
        earlier = self._earlier(spike, hour, ask, survey.of(hour), cut)
        return done if earlier is None else done.plus(earlier)

    def _planned(self, spike: Spike, hour: datetime, ask: Ask) -> tuple[HourPlan, Swap, Lease] | None:
        """In one transaction: what is true of the hour, what is frozen of it, and that it is at work."""
        topic = self._topic(spike)
        with self.ledger.begin() as tx:
            lock_bound(tx, spike)
            plan = _plan(tx, spike, hour, topic, accept_loss=ask.accept_loss)
            if plan is None:
                return None
            new = _new_swap(spike, hour, ask, SwapKind.BACKFILL, plan.expected)
            frozen = tuple(sorted(f.id for f in plan.replaces))
            swap, lease = self.swapper.add(tx, replace(new, replaces=frozen, sources=plan.sources))
            if plan.lost:
                tx.add_operation(_loss(spike, hour, swap, ask, _told_lost(plan)))
        return plan, swap, lease

    # what Kafka has below where the spike began

    def maybe_older(self, spike: Spike, hours: Iterable[datetime]) -> tuple[datetime, ...]:
        """As far as the ledger can tell; it asks no Kafka."""
        return older_hours(hours, self.ledger.earlier_facts(spike.name))

    def older(self, spike: Spike, hours: Iterable[datetime]) -> tuple[tuple[datetime, ...], Ranges]:
        """Those of the hours that may have records below where the spike began which nobody has read, and
        where these would lie. Errors: `Transient`."""
        facts, topic = self.ledger.earlier_facts(spike.name), self._topic(spike)
        older = older_hours(hours, facts)
        if topic is None or not older:
            return (), ()
        begun = {p: facts.baselines[p] for p in topic.partitions() if p in facts.baselines}
        begun = {p: at for p, at in begun.items() if at > topic.log_start[p.index]}
        ranges = below(self.broker.offsets_at(tuple(begun), older[0]), begun) if begun else ()
        return (older, ranges) if ranges else ((), ())

    def survey(self, spike: Spike, hours: Iterable[datetime]) -> Survey:
        """Look for all older ones of the hours at once: what lies behind the first of them is read through.
        Errors: `Refused`, `InvalidSpec`, `Transient`."""
        older, ranges = self.older(spike, hours)
        if not older:
            return Survey()
        log.info("%s: %s offsets are looked through for %d hours", spike.name, total(ranges), len(older))
        order = SurveyOrder(spike.name, ranges, older[0], older[-1] + ONE_HOUR)
        found = self.rereader.survey(order, lambda _=None: None)
        if problem := scan_problem(ranges, found.scanned, exact_topic=not spike.topic_has_gaps):
            raise Refused(problem)
        self._check_same_topic(spike, ranges)
        return Survey(frozenset(older), tuple(p for p in found.places if p.hour in older))

    def _earlier(
        self, spike: Spike, hour: datetime, ask: Ask, places: tuple[Place, ...], cut: str
    ) -> Backfilled | None:
        """None where there is nothing, or somebody else has read it meanwhile. `cut`: an accepted loss."""
        if not places and not cut:
            return None
        pieces = tuple(sorted(place.range for place in places))
        with self.ledger.begin() as tx:
            lock_bound(tx, spike)
            check_schema(spike, tx.used_schemas(spike.name))
            facts = tx.earlier_facts(spike.name)
            if hour in facts.read:
                return None
            check_still_below(places, facts)
            if not places:
                tx.add_operation(_nothing_left(spike, hour, ask, cut))
                return None
            expected = sum(place.records for place in places)
            swap, lease = self.swapper.add(tx, _new_swap(spike, hour, ask, SwapKind.EARLIER, expected))
            if cut:
                tx.add_operation(_loss(spike, hour, swap, ask, f"though {cut}"))

        def read(swap: Swap, _replaced: tuple[LedgerFile, ...], keep_alive: KeepAlive) -> NewBatch:
            return replace(self._read(spike, hour, pieces, (), swap, keep_alive), ranges=pieces)

        end = self.swapper.finish(spike, swap.number, read, lease)
        return replace(self._told(hour, end), earlier=end)

    def _cut(self, spike: Spike, hour: datetime, *, accept_loss: bool) -> str:
        """Where more of an older hour may be gone, if anywhere; `Expired` unless that loss is accepted. The
        hour is looked up first: what is deleted in between makes it a cut one. What is since the survey
        looked, that one's counts tell."""
        facts, topic = self.ledger.earlier_facts(spike.name), self._topic(spike)
        deleted = deleted_from(facts, topic) if older_hours([hour], facts) else ()
        if not deleted:
            return ""
        since = self.broker.offsets_at(deleted, hour)
        cut = cut_off(since, self.broker.offsets_at(deleted, BEFORE_ALL))
        told = _told_cut(cut, topic) if cut else ""
        if told and not accept_loss:
            raise Expired(f"{hour_text(hour)}: {told}; to read what is left say --accept-loss --why …")
        return told

    # what they share

    def _reread(
        self,
        spike: Spike,
        plan: HourPlan,
        swap: Swap,
        _replaced: tuple[LedgerFile, ...],
        keep_alive: KeepAlive,
    ) -> NewBatch:
        return self._read(spike, plan.hour, plan.pieces, plan.dead, swap, keep_alive)

    def _read(  # noqa: PLR0917 - an order's
        self,
        spike: Spike,
        hour: datetime,
        pieces: Ranges,
        dead: tuple[str, ...],
        swap: Swap,
        keep_alive: KeepAlive,
    ) -> NewBatch:
        """Everything in the pieces is read, or nothing counts."""
        order = BackfillOrder(spike.name, hour, pieces, dead, swap.planned_at, swap_prefix(spike, swap))
        batch = self.rereader.reread(order, keep_alive)
        exact = not spike.topic_has_gaps
        if problem := scan_problem(pieces, batch.read + batch.elsewhere, exact_topic=exact):
            raise NotConserved(problem)
        self._check_same_topic(spike, pieces)
        return batch

    def _check_same_topic(self, spike: Spike, pieces: Ranges) -> None:
        """Spark knows topics by name only: one that was made again meanwhile is another one (I10)."""
        topic = self._topic(spike)
        known = {r.partition.topic_id for r in pieces}
        if topic is None or known != {topic.topic_id}:
            raise TopicChanged(f"topic {spike.topic} was deleted or made again meanwhile")

    def _end_left(self, spike: Spike, hour: datetime) -> None:
        """Finish the hour's open backfill and replays whose process died, or give them up: what these have
        frozen nobody else can replace. Raises `SwapBusy` for a backfill of the hour that is at work; whether
        a replay is in the way, the plan tells."""
        for swap in self.ledger.open_swaps(spike.name):
            if swap.kind in HOURLY and swap.scope.since != hour:
                continue
            try:
                log.warning(
                    "%s was found unfinished, and finished", self.swapper.finish(spike, swap.number, None)
                )
            except SwapRefused as refused:
                log.warning("%s was found unfinished: %s", swap, refused)
            except SwapBusy:
                if swap.kind in HOURLY:
                    raise

    def close(self) -> None:
        """After the last hour."""
        self.rereader.close()

    def _told(self, hour: datetime, swap: Swap) -> Backfilled:
        with self.ledger.begin() as tx:
            batch = tx.batch(swap.batch or 0)
        assert batch is not None
        counts = batch.counts
        scanned = counts.read + swap.elsewhere
        return Backfilled(
            hour,
            final=counts.final,
            dead_letter=counts.dead_letter,
            filtered=counts.filtered,
            scanned=scanned,
        )

    def _topic(self, spike: Spike) -> TopicOffsets | None:
        return self.broker.topics([spike.topic]).get(spike.topic)


def _told_cut(cut: tuple[Partition, ...], topic: TopicOffsets | None) -> str:
    starts = {} if topic is None else topic.log_start
    named = some((f"{p} at {starts.get(p.index)}" for p in cut), 20)
    return f"Kafka's log begins with nothing that is older ({named}), so more of it may be gone"


def _plan(
    tx: SwapTransaction, spike: Spike, hour: datetime, topic: TopicOffsets | None, *, accept_loss: bool
) -> HourPlan | None:
    check_schema(spike, tx.used_schemas(spike.name))
    facts = tx.hour_facts(spike.name, spike.dataset.name, hour)
    plan = plan_hour(facts, topic, accept_loss=accept_loss)
    if plan is not None:
        rounds(plan.pieces)  # refuses what no read could ask for
    return plan


def _new_swap(spike: Spike, hour: datetime, ask: Ask, kind: SwapKind, expected: int) -> NewSwap:
    author = ask.request.author
    return NewSwap(
        spike=spike.name,
        dataset=spike.dataset.name,
        kind=kind,
        who=author.who,
        why=author.why,
        application_version=spike.version,
        scope=Scope(hour, hour + ONE_HOUR),
        replaces=(),
        expected=expected,
    )


def _told_lost(plan: HourPlan) -> str:
    """What a person let be: the files of what Kafka no longer has."""
    kept = ("file that holds them stays as it is", "files that hold them stay as they are")
    return (
        f"without {some(plan.lost, 20)}: Kafka no longer has them, and the {count_of(len(plan.kept), *kept)}"
    )


def _loss(spike: Spike, hour: datetime, swap: Swap, ask: Ask, told: str) -> NewOperation:
    summary = f"swap {swap.number} backfills {hour_text(hour)} {told}"
    request = f"{ask.request.name}/{swap.number}"
    return NewOperation(request, spike.name, OperationKind.ACCEPT_LOSS, ask.request.author, summary)


def _nothing_left(spike: Spike, hour: datetime, ask: Ask, told: str) -> NewOperation:
    summary = f"nothing of {hour_text(hour)} was found below where the spike began: {told}"
    request = f"{ask.request.name}/{hour_text(hour)}"
    return NewOperation(request, spike.name, OperationKind.ACCEPT_LOSS, ask.request.author, summary)
