"""One appender run: promotes whatever waits, several spikes side by side, each in order, for a bounded time.

A commit then costs milliseconds, not the launch of a run. A spike that fails never delays another (I11).
"""

import logging
from collections.abc import Container, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from threading import Event

from spike_pipelines.domain.back_off import BackOff
from spike_pipelines.domain.errors import Conflict, Transient
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import Clock, HourReport, Ledger, OffsetMirror
from spike_pipelines.services.mirror import follow
from spike_pipelines.services.promote import Promoter, released
from spike_pipelines.services.publish import Publisher

log = logging.getLogger(__name__)

APPENDER_LEASE = "appender"
_LEASE_SECONDS = 15.0
_RENEW_EVERY = timedelta(seconds=_LEASE_SECONDS / 3)
_MOST_TURNS = 64  # side by side
_BATCHES_AT_ONCE = 20  # before a spike's turn ends with a publication
_BACK_OFF = BackOff(timedelta(seconds=1), timedelta(seconds=30))


@dataclass(frozen=True, slots=True)
class Terms:
    """A run ends after `idle` without work, and at `longest` in any case; it looks every `poll_seconds`."""

    idle: timedelta = timedelta(seconds=60)
    longest: timedelta = timedelta(minutes=10)
    poll_seconds: float = 0.5
    report_every: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class FailedTurn:
    """A spike whose turn failed. `final` says that this run does not try it again."""

    spike: str
    message: str
    final: bool


def needs_appender(ledger: Ledger, known: Container[str]) -> str | None:
    """Why an appender run is to be started, or None: the ledger is asked, never the status of runs.
    Spikes that are not `known` by an application file wait without one: see `orphans`."""
    if ledger.lease_state(APPENDER_LEASE)[1]:
        return None
    waiting = [b.spike for b in ledger.backlog() if b.free and not b.blocked and b.spike in known]
    behind = [d.name for d in ledger.datasets() if d.reported < d.sequence and d.spike in known]
    if waiting:
        return f"batches wait: {', '.join(waiting)}"
    if behind:
        return f"commits to publish: {', '.join(behind)}"
    uncleaned = [name for name in ledger.uncleaned() if name in known]
    return f"staging to clean up: {', '.join(uncleaned)}" if uncleaned else None


def orphans(ledger: Ledger, known: Container[str]) -> Mapping[str, str]:
    """Spikes with batches that wait, which no application file describes: name → a sentence for a person.
    Nobody can promote them, and nobody else's run fails for it (I11)."""
    return {
        b.spike: f"{count_of(b.batches, 'batch waits', 'batches wait')}, and no application file that can be "
        f"read describes this spike: put {b.spike}.yaml back, or its records stay in staging"
        for b in ledger.backlog()
        if b.spike not in known
    }


@dataclass(slots=True)
class _Turns:
    """The spikes at work now, and those that wait after a failure."""

    running: dict[str, Future[None]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, datetime] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)

    def may_start(self, spike: str, now: datetime) -> bool:
        waits = spike in self.not_before and now < self.not_before[spike]
        return not (waits or spike in self.running or spike in self.given_up)

    def succeeded(self, spike: str) -> None:
        self.failures.pop(spike, None)
        self.not_before.pop(spike, None)

    def failed(self, spike: str, now: datetime) -> None:
        """1 s, 2 s, 4 s … 30 s until the next try."""
        count = self.failures[spike] = self.failures.get(spike, 0) + 1
        self.not_before[spike] = now + _BACK_OFF.after(count)


@dataclass(frozen=True, slots=True)
class Drain:
    """One run. `holder` names it in the leases it takes."""

    ledger: Ledger
    promoter: Promoter
    publisher: Publisher
    spikes: Mapping[str, Spike]
    clock: Clock
    terms: Terms
    holder: str
    mirror: OffsetMirror | None = None
    _turns: _Turns = field(default_factory=_Turns)

    def run(self) -> Iterator[HourReport | FailedTurn]:
        """Work until idle or out of time, and say what became visible and what went wrong. A report
        counts as delivered once the next item is asked for. Errors: `Transient` when the ledger itself
        does not answer, `LeaseLost` when this run was thought dead and another one works."""
        lease = self.ledger.acquire(APPENDER_LEASE, self.holder, _LEASE_SECONDS)
        if lease is None:
            log.info("another appender run is at work")
            return
        with released(self.ledger, lease), self._pool() as pool:
            alone = orphans(self.ledger, self.spikes)
            troubles = (FailedTurn(name, sentence, final=False) for name, sentence in alone.items())
            yield from self._kept(chain(troubles, self._loop(pool, lease)), lease)

    def _kept(
        self, items: Iterator[HourReport | FailedTurn], lease: Lease
    ) -> Iterator[HourReport | FailedTurn]:
        """The lease lasts though each item is told for a while: thousands of hours after a replay."""
        renewed: datetime | None = None
        for item in items:
            yield item
            now = self.clock.now()
            if renewed is None or now - renewed >= _RENEW_EVERY:
                self.ledger.renew(lease, _LEASE_SECONDS)
                renewed = now

    def _pool(self) -> ThreadPoolExecutor:
        """A thread for each spike: one whose store hangs takes nobody else's (I11)."""
        return ThreadPoolExecutor(max(1, min(len(self.spikes), _MOST_TURNS)), thread_name_prefix="promote")

    def _loop(self, pool: ThreadPoolExecutor, lease: Lease) -> Iterator[HourReport | FailedTurn]:
        started = last_work = last_report = self.clock.now()
        while True:
            now = self.clock.now()
            self.ledger.renew(lease, _LEASE_SECONDS)
            yield from self._ended(now)
            out_of_time = now - started >= self.terms.longest
            if not out_of_time and self._start_turns(pool, now):
                last_work = now
            if now - last_report >= self.terms.report_every:
                yield from self._report()
                last_report = now
            if not self._turns.running and (out_of_time or now - last_work >= self.terms.idle):
                break
            self._pause()
        yield from self._report()

    def _pause(self) -> None:
        running = self._turns.running.values()
        if running:
            wait(running, timeout=self.terms.poll_seconds, return_when=FIRST_COMPLETED)
        else:
            Event().wait(self.terms.poll_seconds)

    def _start_turns(self, pool: ThreadPoolExecutor, now: datetime) -> int:
        """One turn for each spike with work; answers how many were started."""
        due = [name for name in self._work() if self._turns.may_start(name, now)]
        for name in due:
            self._turns.running[name] = pool.submit(self._turn, name)
        return len(due)

    def _work(self) -> tuple[str, ...]:
        """Spikes with a batch to commit, a commit to publish or staging to clean up: what waits longest,
        first; a run that died between two of these leaves the next one to do."""
        waiting = [b.spike for b in self.ledger.backlog() if not b.blocked]
        behind = [d.spike for d in self.ledger.datasets() if d.published < d.sequence]
        due = [*waiting, *behind, *self.ledger.uncleaned()]
        return tuple(name for name in dict.fromkeys(due) if name in self.spikes)

    def _turn(self, name: str) -> None:
        spike = self.spikes[name]
        self._promote(spike)
        state = next(d for d in self.ledger.datasets() if d.name == spike.dataset.name)
        if state.published < state.sequence:
            self.publisher.publish(spike, state)
        self.publisher.clean(spike)

    def _promote(self, spike: Spike) -> None:
        """What is committed is in the consumer group before anything that comes later can fail; what a
        promotion committed before it failed, too."""
        committed = True
        try:
            committed = bool(self.promoter.promote(spike, limit=_BATCHES_AT_ONCE))
        finally:
            if committed and self.mirror is not None:
                follow(self.mirror, self.ledger, spike)

    def _ended(self, now: datetime) -> Iterator[FailedTurn]:
        """The turns that are over and failed. What is neither `Transient` nor `Conflict` is not retried
        by this run: it would only happen again."""
        for name in [n for n, turn in self._turns.running.items() if turn.done()]:
            error = self._turns.running.pop(name).exception()
            if error is None:
                self._turns.succeeded(name)
                continue
            self._turns.failed(name, now)
            log.error("%s: %s", name, error, exc_info=error)
            final = not isinstance(error, Transient | Conflict)
            if final:
                self._turns.given_up.add(name)
            yield FailedTurn(name, f"{type(error).__name__}: {error}", final)

    def _report(self) -> Iterator[HourReport]:
        for state in self.ledger.datasets():
            if state.reported < state.published:
                reports = self.ledger.unreported(state.name)
                yield from reports
                told = max([state.published, *(report.sequence for report in reports)])
                self.ledger.mark_reported(state.name, told, since=state.reported)
