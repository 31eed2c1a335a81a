"""A new dataset from an old topic (`domain/fork.py`): what there is for it, and the loss somebody accepts."""

from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.errors import TopicMissing
from spike_pipelines.domain.fork import Fork, check_loss, fork
from spike_pipelines.domain.offsets import TopicOffsets
from spike_pipelines.domain.operations import NewOperation, OperationKind
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Broker, SwapLedger
from spike_pipelines.services.operate import Request


@dataclass(frozen=True, slots=True)
class Forker:
    ledger: SwapLedger
    broker: Broker

    def look(self, spike: Spike, since: datetime | None, *, accept_loss: bool) -> Fork:
        """What a new spike reads of the topic from `since` on. Changes nothing.

        Errors: `ForkLoses`, `TopicMissing`, `Transient`.
        """
        topic = self._topic(spike)
        at_time = {} if since is None else self.broker.offsets_at(topic.partitions(), since)
        found = fork(since, topic, at_time, self.ledger.fed_ranges(spike.name, since or spike.dataset.start))
        check_loss(found, accept_loss=accept_loss)
        return found

    def note_loss(self, spike: Spike, new: str, found: Fork, request: Request) -> None:
        """Kept with the spike that has the records: who let the new one begin without them, and why."""
        summary = f"{new} is made without {found.told_loss()}: Kafka no longer has them, {spike.name} has"
        with self.ledger.begin() as tx:
            tx.add_operation(
                NewOperation(request.name, spike.name, OperationKind.ACCEPT_LOSS, request.author, summary)
            )

    def _topic(self, spike: Spike) -> TopicOffsets:
        topic = self.broker.topics([spike.topic]).get(spike.topic)
        if topic is None:
            raise TopicMissing(f"there is no topic {spike.topic}: nothing can be read of it again")
        return topic
