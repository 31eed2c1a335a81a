"""The second level of recovery: list, compare, act. Level-triggered, so a missed tick loses nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.offsets import Partition, TopicOffsets
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.supervision import (
    Action,
    ActionKind,
    Decision,
    SpikeFacts,
    supervise,
    without_progress,
)
from spike_pipelines.ports import Appender, Broker, Cluster, Ledger, Recovery

WINDOW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one recovery did, the last lines that the ended driver wrote, and what Kubernetes said of it."""

    decision: Decision
    action: Action
    started: str | None
    log_tail: tuple[str, ...]
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Supervisor:
    ledger: Ledger
    cluster: Cluster
    appender: Appender
    broker: Broker
    spikes: Mapping[str, Spike]
    window: timedelta = WINDOW  # for so long a recovery counts towards the back-off of the next

    def look(self, names: Iterable[str] | None = None) -> tuple[Decision, ...]:
        """The decision on each spike. Raises `Transient` if the cluster or the ledger could not be observed:
        then nobody is judged (I12)."""
        chosen = [self.spikes[name] for name in (self.spikes if names is None else names)]
        drivers = self.cluster.drivers()
        since = self.appender.since()
        now = self.ledger.now()
        epochs, refusals = self.ledger.epochs(), self.ledger.refusals()
        recoveries = self.ledger.recoveries(now - self.window)
        unread = unread_by_the_still(self.broker, chosen, epochs)
        decisions = []
        for spike in chosen:
            facts = SpikeFacts(
                spike=spike.name,
                objectives=spike.objectives,
                drivers=[d for d in drivers if d.spike == spike.name],
                epoch=epochs.get(spike.name),
                recoveries=recoveries.get(spike.name, ()),
                appender_since=since,
                refusal=refusals.get(spike.name),
                unread=unread.get(spike.name),
                obstacle=self.cluster.obstacle(spike),
                version=spike.version,
            )
            decisions.append(supervise(facts, now))
        return tuple(decisions)

    def watch(self) -> tuple[Decision, ...]:
        """Processes need no memory of ours: a look."""
        return self.look()

    def recover_all(self, spikes: Iterable[str]) -> Iterator[Recovered]:
        """One after the other, each after a look of its own."""
        for spike in spikes:
            done = self.recover(spike)
            if done is not None:
                yield done

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


def unread_by_the_still(
    broker: Broker, spikes: Iterable[Spike], epochs: Mapping[str, Epoch]
) -> Mapping[str, int]:
    """Records beyond what each driver that stands still has read. Kafka is asked only if there is one; while
    it does not answer, nobody is blamed for that."""
    still = [s for s in spikes if _stands_still(s, epochs.get(s.name))]
    if not still:
        return {}
    try:
        topics = broker.topics({s.topic for s in still})
    except Transient:
        return {}
    return {s.name: _beyond(epochs[s.name].read, topics[s.topic]) for s in still if s.topic in topics}


def _stands_still(spike: Spike, epoch: Epoch | None) -> bool:
    return epoch is not None and without_progress(epoch, spike.objectives) is not None


def _beyond(read: Mapping[Partition, int], topic: TopicOffsets) -> int:
    """A partition made again has another id, and is another matter (I10)."""
    return sum(
        max(topic.log_end.get(p.index, 0) - offset, 0)
        for p, offset in read.items()
        if p.topic_id == topic.topic_id
    )
