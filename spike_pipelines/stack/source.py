"""The rows of `spike up` and `spike status`, from the ledger, the broker and the process table."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.lag import LagReport
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.overlays import Overlay
from spike_pipelines.domain.supervision import Decision, Verdict
from spike_pipelines.platform import Platform
from spike_pipelines.services.drain import orphans
from spike_pipelines.settings import Settings
from spike_pipelines.stack.status import SpikeRow

RATE_SECONDS = 30.0


@dataclass(slots=True)
class Rates:
    """Commits a second over the last half minute, by spike."""

    clock: Callable[[], float] = time.monotonic
    seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def of(self, spike: str, committed: int) -> float | None:
        """Records a second; None until two looks lie apart."""
        now = self.clock()
        points = self.seen.setdefault(spike, deque(maxlen=200))
        if points and committed < points[-1][1]:
            points.clear()  # a rewind is no rate
        points.append((now, committed))
        while len(points) > 2 and now - points[0][0] > RATE_SECONDS:
            points.popleft()
        elapsed = now - points[0][0]
        return (committed - points[0][1]) / elapsed if elapsed > 0 else None


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """A `StatusSource`. What does not answer becomes UNKNOWN with the reason, never OK (I12)."""

    platform: Platform
    rates: Rates = field(default_factory=Rates)

    def rows(self) -> tuple[SpikeRow, ...]:
        broken = self.platform.applications.broken
        return (
            *self._spikes(),
            *(SpikeRow(name, "INVALID", problem=broken[name]) for name in sorted(broken)),
        )

    def _spikes(self) -> tuple[SpikeRow, ...]:
        names = tuple(self.platform.spikes)
        try:
            decisions = {d.spike: d for d in self.platform.supervisor.look()}
            ledger = self.platform.ledger
            epochs, positions = ledger.epochs(), ledger.all_positions()
            commits, now = ledger.last_commits(), ledger.now()
            waiting, overlays = orphans(ledger, self.platform.spikes), ledger.open_overlays()
        except Transient as error:
            return tuple(SpikeRow(name, "UNKNOWN", problem=str(error)) for name in names)
        lags, problem = self._lags()
        alone = (
            SpikeRow(name, "NO_APPLICATION", problem=sentence)
            for name, sentence in waiting.items()
            if name not in self.platform.applications.broken
        )
        known = (
            self._row(
                decisions[name],
                lags.get(name),
                problem,
                epochs.get(name),
                positions.get(name, {}),
                age_seconds(commits.get(name), now),
                in_words(overlays.get(name, ()), now),
            )
            for name in names
        )
        return (*known, *alone)

    def _lags(self) -> tuple[Mapping[str, LagReport], str | None]:
        try:
            return self.platform.observer.lag(), None
        except Transient as error:
            return {}, str(error)

    def _row(  # noqa: PLR0917 - one column each
        self,
        decision: Decision,
        lag: LagReport | None,
        unknown: str | None,
        epoch: Epoch | None,
        positions: Mapping[Partition, Position],
        commit_age: float | None,
        overlays: str | None,
    ) -> SpikeRow:
        committed = sum(p.committed_end for p in positions.values())
        verdict, problem = headline(decision, lag, unknown)
        seen = lag if lag and lag.observed else None
        return SpikeRow(
            spike=decision.spike,
            verdict=verdict,
            epoch=epoch.number if epoch else None,
            committed=committed,
            lag=seen.lag if seen else None,
            lag_seconds=seen.lag_seconds if seen else None,
            records_per_second=self.rates.of(decision.spike, committed),
            commit_age_seconds=commit_age,
            problem="; ".join(filter(None, (problem, overlays))) or None,
        )


def headline(decision: Decision, lag: LagReport | None, unknown: str | None) -> tuple[str, str | None]:
    """One word and one sentence: what the driver does if that is not simply running, else the lag."""
    if decision.verdict is not Verdict.RUNNING:
        return decision.verdict, decision.cause
    if lag is None:
        return "UNKNOWN", unknown
    return lag.verdict, None if lag.verdict in {"OK", "IDLE"} else lag.sentence


def in_words(overlays: Iterable[Overlay], now: datetime) -> str | None:
    """`overlay more-memory 768m until 24 Nov 10:00 UTC (3 drivers … out of memory)`"""
    holding = (o for o in overlays if now < o.expires_at)
    said = (f"overlay {o.kind} {o.value} until {o.expires_at:%d %b %H:%M} UTC ({o.cause})" for o in holding)
    return "; ".join(said) or None


def age_seconds(then: datetime | None, now: datetime) -> float | None:
    return (now - then).total_seconds() if then else None


def platform_source(environment: Mapping[str, str]) -> LiveStatus:
    return LiveStatus(Platform(Settings.from_env(environment)))
