"""Lag of all spikes: one round of requests to the broker, one read of the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass

from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.lag import LagFacts, LagReport, judge, uncommitted
from spike_pipelines.domain.offsets import Partition, Position, RecordTime, TopicOffsets
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Broker, Cluster, DriverState, Ledger


@dataclass(frozen=True, slots=True)
class Observer:
    ledger: Ledger
    broker: Broker
    cluster: Cluster
    spikes: Mapping[str, Spike]

    def lag(self) -> Mapping[str, LagReport]:
        """A report for each spike. Raises `Transient` if broker or ledger did not answer."""
        topics = self.broker.topics({spike.topic for spike in self.spikes.values()})
        positions = self.ledger.all_positions()
        backlog = {b.spike: b for b in self.ledger.backlog()}
        running = self._running()
        first = self._first_records(topics, positions)
        now = self.ledger.now()
        reports = {}
        for name, spike in self.spikes.items():
            waiting = backlog.get(name)
            facts = LagFacts(
                positions=positions.get(name, {}),
                topic=topics.get(spike.topic),
                first_uncommitted=first.get(name, {}),
                objectives=spike.objectives,
                running=None if running is None else name in running,
                held=waiting is not None and waiting.blocked,
                waiting_batches=waiting.batches if waiting else 0,
                max_staged_batches=spike.max_staged_batches,
            )
            reports[name] = judge(facts, now)
        return reports

    def _running(self) -> frozenset[str] | None:
        """Spikes with a live driver; None if the cluster did not answer, which is not the same as none."""
        try:
            drivers = self.cluster.drivers()
        except Transient:
            return None
        return frozenset(d.spike for d in drivers if d.state is not DriverState.EXITED)

    def _first_records(
        self, topics: Mapping[str, TopicOffsets], positions: Mapping[str, Mapping[Partition, Position]]
    ) -> Mapping[str, Mapping[Partition, RecordTime]]:
        """Of each spike's lagging partitions the first record that is not committed."""
        return {
            name: self.broker.first_records(uncommitted(positions.get(name, {}), topics[spike.topic]))
            for name, spike in self.spikes.items()
            if spike.topic in topics
        }
