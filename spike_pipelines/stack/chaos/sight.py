"""What the ledger shows at one moment, and two judgements on it: was a batch in flight, is it over.

All times are of one machine's clock: the database's, the drivers' and ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from spike_pipelines.domain.batch import UNFINISHED, Batch
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.ports import Ledger
from spike_pipelines.services.drain import APPENDER_LEASE

LOOK_SECONDS = 0.5
BATCHES = 10  # of a spike, newest first: more than it may have staged and commit between two looks
HEARD_WITHIN = timedelta(seconds=6)  # two heartbeats
WRITING = frozenset({Phase.STAGING, Phase.POSTING})


@dataclass(frozen=True, slots=True)
class SpikeSight:
    """The newest epoch and the newest batches, newest first."""

    epoch: Epoch | None = None
    batches: tuple[Batch, ...] = ()


@dataclass(frozen=True, slots=True)
class Sight:
    """`at` is when the look began, `run` who promotes now, as it names itself in its lease."""

    at: datetime
    spikes: Mapping[str, SpikeSight] = field(default_factory=dict)
    run: str | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Batches of one spike on their way: in the ledger and not committed (`waiting`, their numbers), and
    the one that its driver began at `writing_since` and had not registered."""

    spike: str
    waiting: frozenset[int] = frozenset()
    writing_since: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.waiting) or self.writing_since is not None

    @property
    def names(self) -> frozenset[str]:
        """One for each batch."""
        writing = {f"{self.spike} since {self.writing_since:%H:%M:%S}"} if self.writing_since else set()
        return frozenset(f"{self.spike} #{number}" for number in self.waiting) | writing


def in_flight(spike: str, seen: SpikeSight, now: datetime) -> InFlight:
    waiting = frozenset(b.number for b in seen.batches if b.state in UNFINISHED)
    return InFlight(spike, waiting, _writing_since(seen, now))


def _writing_since(seen: SpikeSight, now: datetime) -> datetime | None:
    """A heartbeat is seconds old: the batch it speaks of may have been registered since."""
    epoch = seen.epoch
    if epoch is None or epoch.state is not EpochState.OPEN or now - epoch.heartbeat_at > HEARD_WITHIN:
        return None
    began = epoch.batch_started_at if epoch.phase in WRITING else None
    if began is None or any(b.staged_at >= began for b in seen.batches):
        return None
    return began


def was_in_flight(before: InFlight, effect_at: datetime, later: SpikeSight) -> bool:
    """Whether what was in flight shortly before the effect still was when it came, in a later look."""
    for b in later.batches:
        if b.number in before.waiting and b.staged_at < effect_at <= (b.committed_at or effect_at):
            return True
    began = before.writing_since
    if began is None or began >= effect_at:
        return False
    return not any(began <= b.staged_at < effect_at for b in later.batches)


def recovered_at(effect_at: datetime, later: SpikeSight) -> datetime | None:
    """When the first batch that was registered after the effect was committed."""
    commits = [b.committed_at for b in later.batches if b.staged_at > effect_at and b.committed_at]
    return min(commits, default=None)


def last_commit(sight: Sight) -> datetime | None:
    """The newest of all spikes."""
    batches = (batch for seen in sight.spikes.values() for batch in seen.batches)
    return max((b.committed_at for b in batches if b.committed_at), default=None)


@dataclass(slots=True)
class Lookout:
    """Looks at the ledger all the time. `last` grows old while a fault keeps the database from answering."""

    ledger: Ledger
    spikes: tuple[str, ...]
    last: Sight = Sight(datetime.min.replace(tzinfo=UTC))

    def look(self) -> None:
        """Raises `Transient`."""
        at = datetime.now(UTC)
        epochs = self.ledger.epochs()
        batches = {name: self.ledger.last_batches(name, BATCHES) for name in self.spikes}
        spikes = {name: SpikeSight(epochs.get(name), batches[name]) for name in self.spikes}
        self.last = Sight(at, spikes, self.ledger.lease_holder(APPENDER_LEASE))
