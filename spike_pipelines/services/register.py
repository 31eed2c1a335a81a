"""What drivers ask of the appender: an epoch, the registration of a batch, a heartbeat."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from spike_pipelines.domain.batch import LIVE_LANE, Batch, NewBatch, identity
from spike_pipelines.domain.binding import Binding, check_schema, check_unmoved
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase, Repeat, decide_epoch
from spike_pipelines.domain.errors import Fenced, TooManyStaged, TopicMissing, Truncated
from spike_pipelines.domain.offsets import Partition, TopicOffsets, check_continues
from spike_pipelines.domain.registration import check_against_broker, check_batch
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.starting import check_ends, check_identity, starting_point
from spike_pipelines.domain.supervision import BLOCKING, TOKEN_REFUSED
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import Broker, Ledger, LedgerTransaction, Refusal
from spike_pipelines.services.bound import require_bound

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EpochToken:
    """What a driver shows with every call: the number orders, the nonce cannot be guessed."""

    number: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A granted epoch and the offsets to go on from, one for each current partition."""

    epoch: Epoch
    offsets: Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class Registered:
    """`new` is False for the repeat of a registration (I7); the first file list stands."""

    batch: Batch
    new: bool


@dataclass(frozen=True, slots=True)
class Registrar:
    """`idle_limit` is how long an epoch without a heartbeat keeps newcomers waiting."""

    ledger: Ledger
    broker: Broker
    idle_limit: timedelta

    def open_epoch(self, spike: Spike, driver: str, after: int | None, version: str) -> Opened:
        """Errors: `Held`, `Fenced`, `TopicMissing`, `TopicChanged`, `Lost`, `SpecChanged`, `Transient`."""
        return _asked_twice(lambda: self._open_epoch(spike, driver, after, version))

    def _open_epoch(self, spike: Spike, driver: str, after: int | None, version: str) -> Opened:
        topic = self._topic(spike)
        at_time: Mapping[Partition, int] = {}
        if isinstance(spike.start, datetime):
            at_time = self.broker.offsets_at(topic.partitions(), spike.start)
        with self.ledger.begin() as tx:
            tx.lock_spike(spike.name, spike.dataset.name)
            decision = decide_epoch(
                latest=tx.latest_epoch(spike.name),
                driver_latest=tx.driver_epoch(spike.name, driver),
                driver=driver,
                after=after,
                now=tx.now(),
                idle_limit=self.idle_limit,
            )
            check_unmoved(spike, tx.bound(spike.name))
            check_schema(spike, tx.used_schemas(spike.name))
            point = starting_point(tx.positions(spike.name, LIVE_LANE), topic, spike.start, at_time)
            tx.add_positions(spike.name, LIVE_LANE, point.baselines)
            if isinstance(decision, Repeat):
                return Opened(decision.epoch, point.offsets)
            epoch = _new_epoch(
                spike, decision.number, driver=driver, after=after, version=version, now=tx.now()
            )
            tx.add_epoch(epoch)
            tx.bind(spike.name, epoch.number, Binding.of(spike))
            tx.refuse(spike.name, None)
        return Opened(epoch, point.offsets)

    def register(self, spike: Spike, token: EpochToken, batch: NewBatch) -> Registered:
        """Errors: `Refused`, `Fenced`, `Gap`, `Overlap`, `TopicChanged`, `Lost`, `SpecChanged`,
        `TooManyStaged`, `Transient`."""
        check_batch(batch)
        return _asked_twice(lambda: self._register(spike, token, batch))

    def _register(self, spike: Spike, token: EpochToken, batch: NewBatch) -> Registered:
        topic = self._topic(spike)
        check_against_broker(batch, topic)
        name = identity(spike.name, LIVE_LANE, token.number, batch.ranges)
        with self.ledger.begin() as tx:
            tx.lock_spike(spike.name, spike.dataset.name)
            check_token(tx.latest_epoch(spike.name), token)
            if known := tx.find_batch(name):
                return Registered(known, new=False)
            check_room(tx.unfinished(spike.name, LIVE_LANE), spike.max_staged_batches)
            _use_binding(tx, spike, token.number)
            self._extend_positions(tx, spike, topic, batch)
            made = tx.add_batch(
                spike.name,
                LIVE_LANE,
                batch,
                epoch=token.number,
                identity=name,
                prefix=staging_prefix(spike, token.number),
            )
        return Registered(made, new=True)

    def heartbeat(
        self,
        spike: Spike,
        token: EpochToken,
        *,
        phase: Phase,
        problem: str | None,
        batch_started_at: datetime | None,
        progress_at: datetime | None = None,
        read: Mapping[Partition, int],
    ) -> None:
        """Errors: `Fenced`, `Transient`."""
        with self.ledger.begin() as tx:
            tx.beat(
                spike.name,
                token.number,
                token.nonce,
                phase=phase,
                problem=problem,
                batch_started_at=batch_started_at,
                progress_at=progress_at,
                read=read,
            )

    def note_refusal(self, spike: Spike, code: str, message: str, driver: str) -> None:
        """Write down what a driver was told, for people to see. A file that names another dataset does not
        make it."""
        with self.ledger.begin() as tx:
            bound = tx.bound(spike.name)
            tx.lock_spike(spike.name, bound.dataset if bound else spike.dataset.name)
            tx.refuse(spike.name, Refusal(tx.now(), code, message, driver))

    def note_refused_token(self, spike: Spike, driver: str) -> None:
        """What a person is to decide about is not written over: anybody can bring this one about."""
        before = self.ledger.refusals().get(spike.name)
        if before is None or before.code not in BLOCKING:
            message = (
                "the appender refuses this driver's token: `spike token list` shows whether it was revoked "
                f"or is over, `spike token rotate {spike.name}` makes another; the driver reads it by itself"
            )
            self.note_refusal(spike, TOKEN_REFUSED, message, driver)

    def _topic(self, spike: Spike) -> TopicOffsets:
        topic = self.broker.topics([spike.topic]).get(spike.topic)
        if topic is None:
            require_bound(self.ledger, spike)  # a slip in the file is no topic to be created
            raise TopicMissing(
                f"topic {spike.topic} of spike {spike.name} does not exist: create it, and it is read"
            )
        return topic

    @staticmethod
    def _extend_positions(tx: LedgerTransaction, spike: Spike, topic: TopicOffsets, batch: NewBatch) -> None:
        positions = tx.positions(spike.name, LIVE_LANE)
        check_identity(positions, topic)
        check_ends(positions, topic)
        ranges = [r for r in batch.ranges if len(r)]
        check_continues({p: position.staged_end for p, position in positions.items()}, ranges)
        new = {r.partition: 0 for r in ranges if r.partition not in positions}
        tx.add_positions(spike.name, LIVE_LANE, new)
        tx.advance_staged(spike.name, LIVE_LANE, ranges)


def _new_epoch(
    spike: Spike, number: int, *, driver: str, after: int | None, version: str, now: datetime
) -> Epoch:
    return Epoch(
        spike=spike.name,
        number=number,
        nonce=secrets.token_hex(16),
        driver=driver,
        state=EpochState.OPEN,
        opened_at=now,
        heartbeat_at=now,
        after=after,
        phase=Phase.STARTING,
        application_version=version,
    )


def _use_binding(tx: LedgerTransaction, spike: Spike, epoch: int) -> None:
    """The spike is bound to what the epoch was opened with. Since then a swap may have used a schema that
    this one does not extend. Raises `SpecChanged`."""
    binding = tx.binding(spike.name, epoch)
    check_unmoved(spike, binding)
    used = tx.used_schemas(spike.name)
    if binding is not None and binding.schema not in used:
        check_schema(replace(spike, schema=binding.schema), used)
    tx.use_binding(spike.name, epoch)


def _asked_twice(ask: Callable[[], T]) -> T:
    """The broker is asked once more before a log counts as cut off; nothing was decided the first time."""
    try:
        return ask()
    except Truncated as error:
        log.warning("asking the broker again: %s", error)
        return ask()


def staging_prefix(spike: Spike, epoch: int) -> str:
    """The only place an epoch writes to, and the only one its files may be in."""
    return spike.staging.key(spike.name, f"{epoch:08d}") + "/"


def check_token(latest: Epoch | None, token: EpochToken) -> None:
    """Raise `Fenced` unless the token is the open epoch's (I6)."""
    if (
        latest is None
        or latest.state is not EpochState.OPEN
        or latest.number != token.number
        or not secrets.compare_digest(latest.nonce.encode(), token.nonce.encode())
    ):
        newest = f"{latest.number} ({latest.state})" if latest else "none"
        raise Fenced(f"epoch {token.number} is not the open one; the newest is {newest}")


def check_room(unfinished: int, limit: int) -> None:
    """Raise `TooManyStaged` unless one batch more may wait for the appender."""
    if unfinished >= limit:
        raise TooManyStaged(
            f"{count_of(unfinished, 'batch waits', 'batches wait')} for the appender, {limit} may; "
            "staging goes on when it catches up",
            retry_after_seconds=2.0,
        )
