"""A new dataset from an old topic (`domain/fork.py`): what there is for it, and the loss somebody accepts."""

from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.batch import LIVE_LANE
from spike_pipelines.domain.errors import Refused, TopicMissing
from spike_pipelines.domain.fork import Fork, check_loss, fork
from spike_pipelines.domain.offsets import TopicOffsets
from spike_pipelines.domain.operations import NewOperation, OperationKind
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Broker, LedgerTransaction, SwapLedger
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
        topic = self._topic(spike)  # looked at last: what Kafka deleted meanwhile counts as lost
        found = fork(since, topic, at_time, self.ledger.fed_ranges(spike.name, since or spike.dataset.start))
        check_loss(found, accept_loss=accept_loss)
        return found

    def begin(self, spike: Spike, new: Spike, found: Fork, request: Request | None) -> None:
        """Write down where the new spike begins, so that its driver is told what Kafka deleted until then;
        and, with the spike that has the records, who let the new one begin without the lost ones, and why.

        Errors: `Refused` for a name that the ledger knows, `ForkLoses`, `Transient`.
        """
        check_loss(found, accept_loss=request is not None)
        with self.ledger.begin() as tx:
            tx.lock_spike(new.name, new.dataset.name)
            _check_new(tx, new, found)
            tx.begin_at(new.name, LIVE_LANE, found.starts)
            if found.lost and request is not None:
                tx.add_operation(_loss(spike, new, found, request))

    def _topic(self, spike: Spike) -> TopicOffsets:
        topic = self.broker.topics([spike.topic]).get(spike.topic)
        if topic is None:
            raise TopicMissing(f"there is no topic {spike.topic}: nothing can be read of it again")
        return topic


def _check_new(tx: LedgerTransaction, new: Spike, found: Fork) -> None:
    """A spike of this name that ever had a driver would go on from where that one was. One that was only
    begun (its application file was not written, or is gone) is begun again."""
    frozen = tx.positions(new.name, LIVE_LANE)
    if tx.latest_epoch(new.name) is not None or (frozen and not found.starts):
        raise Refused(
            f"the ledger knows where a spike {new.name} was, and it would go on from there: choose another "
            "name"
        )


def _loss(spike: Spike, new: Spike, found: Fork, request: Request) -> NewOperation:
    summary = f"{new.name} is made without {found.told_loss()}: Kafka no longer has them, {spike.name} has"
    return NewOperation(request.name, spike.name, OperationKind.ACCEPT_LOSS, request.author, summary)
