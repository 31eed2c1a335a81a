"""The second level of recovery: list, compare, act. Level-triggered, so a missed tick loses nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.supervision import (
    Action,
    ActionKind,
    Decision,
    Driver,
    SpikeFacts,
    supervise,
)
from spike_pipelines.ports import Appender, Cluster, DriverState, Ledger, ObservedDriver, Recovery

WINDOW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one recovery did, and the last lines that the ended driver wrote."""

    decision: Decision
    action: Action
    started: str | None
    log_tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Supervisor:
    ledger: Ledger
    cluster: Cluster
    appender: Appender
    spikes: Mapping[str, Spike]
    window: timedelta = WINDOW  # for so long a recovery counts towards the back-off of the next

    def look(self, names: Iterable[str] | None = None) -> tuple[Decision, ...]:
        """The decision on each spike. Raises `Transient` if anything could not be observed: then nobody
        is judged (I12)."""
        chosen = [self.spikes[name] for name in (self.spikes if names is None else names)]
        drivers = self.cluster.drivers()
        since = self.appender.since()
        now = self.ledger.now()
        epochs, refusals = self.ledger.epochs(), self.ledger.refusals()
        recoveries = self.ledger.recoveries(now - self.window)
        decisions = []
        for spike in chosen:
            mine = [d for d in drivers if d.spike == spike.name]
            refusal = refusals.get(spike.name)
            facts = SpikeFacts(
                spike=spike.name,
                objectives=spike.objectives,
                drivers=[Driver(d.driver, d.started_at) for d in mine if d.state is not DriverState.EXITED],
                epoch=epochs.get(spike.name),
                recoveries=[r.at for r in recoveries.get(spike.name, ())],
                appender_since=since,
                refusal=(refusal.at, refusal.code, refusal.message) if refusal else None,
                last_exit=last_exit(mine),
            )
            decisions.append(supervise(facts, now))
        return tuple(decisions)

    def recover(self, spike: str) -> Recovered | None:
        """Look again, and do what is to be done now; None if that is nothing any more.

        A fenced driver can write no more, so it is fenced first and ended second: should it be out of
        reach, the new one is safe all the same.
        """
        (decision,) = self.look([spike])
        action = decision.action
        if action is None:
            return None
        self._note(decision, action)
        tail = tuple(line for driver in action.stop for line in self.cluster.log_tail(driver, 20))
        self._end(action)
        started = None
        if action.kind is not ActionKind.STOP:
            started = self.cluster.start(self.spikes[spike]).driver
        return Recovered(decision, action, started, tail)

    def _note(self, decision: Decision, action: Action) -> None:
        """Before acting: an attempt that dies half-way still counts for the back-off."""
        with self.ledger.begin() as tx:
            tx.add_recovery(Recovery(decision.spike, tx.now(), action.kind, decision.cause, decision.verdict))

    def _end(self, action: Action) -> None:
        with self.ledger.begin() as tx:
            for driver in action.stop:
                tx.retire_epoch(action.spike, driver)
        for driver in action.stop:
            self.cluster.stop(driver)


def last_exit(drivers: Iterable[ObservedDriver]) -> str | None:
    """How the newest ended driver ended, in words."""
    ended = [d for d in drivers if d.state is DriverState.EXITED]
    if not ended:
        return None
    newest = max(ended, key=lambda d: d.started_at)
    if newest.exit_code is None:
        return "the last one vanished"
    if newest.exit_code < 0:
        return f"the last one was killed by signal {-newest.exit_code}"
    return f"the last one exited with {newest.exit_code}"
