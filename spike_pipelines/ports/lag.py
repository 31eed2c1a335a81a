"""The ledger's side of watching lag."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from spike_pipelines.domain.arrival import Watermarks
from spike_pipelines.domain.epochs import Epoch
from spike_pipelines.domain.lag import LagReport, Loss, Waiting
from spike_pipelines.domain.lag_history import Ends, Sample
from spike_pipelines.domain.log_start import Look
from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.offsets import Break, Partition, Position


@dataclass(frozen=True, slots=True)
class LagView:
    """What the ledger knows of every spike's lag, from one snapshot (live lane). `waiting`: unfinished
    batches; `read`: offsets of the open epoch's last heartbeat; `history`: the window's samples, oldest
    first; `ends` and `watermarks`: the newest report's looks at single partitions; `opened`: when the newest
    epochs began; `mirrored`: the sum of committed ends that the consumer group has."""

    now: datetime
    positions: Mapping[str, Mapping[Partition, Position]]
    waiting: Mapping[str, Waiting]
    epochs: Mapping[str, Epoch]
    read: Mapping[str, Mapping[Partition, int]]
    commits: Mapping[str, datetime]
    created: Mapping[str, datetime]
    recoveries: Mapping[str, tuple[Recovery, ...]]
    losses: Mapping[str, Loss]
    history: Mapping[str, tuple[Sample, ...]]
    mirrored: Mapping[str, int]
    ends: Mapping[str, tuple[Ends, ...]] = field(default_factory=dict)
    watermarks: Mapping[str, tuple[Watermarks, ...]] = field(default_factory=dict)
    opened: Mapping[str, tuple[datetime, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts for `/metrics` at one moment: unfinished batches and their files by (spike, state), all that
    was ever committed by spike, recoveries by (spike, verdict), when each duty last succeeded, and the
    seconds from staged to committed of the batches committed lately: (median, longest) by spike. `rows`:
    about how many batches and files of all spikes there are, by (table, state), as the database's own
    statistics have it; a state that they do not tell of is left out. `incident`: what was noted last of the
    fleet, and when."""

    at: datetime
    batches: Mapping[tuple[str, str], int]
    files: Mapping[tuple[str, str], int]
    committed: Mapping[str, int]
    recoveries: Mapping[tuple[str, str], int]
    duties: Mapping[str, datetime]
    latencies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    incident: tuple[str, datetime] | None = None


class LagLedger(Protocol):
    """The ledger's side of watching lag. `SqlLedger` is this too."""

    def lag_view(self, history: timedelta, restarts: timedelta) -> LagView:
        """Raises `Transient` if the database did not answer."""

    def log_starts(self, spikes: Collection[str], since: datetime) -> Mapping[str, tuple[Look, ...]]:
        """Looks between which the start of a log moved, to ten minutes, oldest first."""

    def record_lag(self, reports: Mapping[str, LagReport]) -> None:
        """Write a look down: the newest report of each spike, its samples, and a loss that is seen for the
        first time or has grown. The same again changes nothing. A spike's first look of a day (UTC) forgets
        what was mirrored."""

    def latest_lag(self) -> Mapping[str, LagReport]:
        """Without watermarks, which are half of a report and for the next look only."""

    def lag_samples(self, spike: str, since: datetime) -> tuple[Sample, ...]:
        """Oldest first; minutes where there are any, further back every ten minutes."""

    def mark_mirrored(self, sums: Mapping[str, int | None]) -> None: ...

    def acknowledge_loss(self, spike: str, who: str, why: str) -> Loss | None:
        """The loss that is acknowledged now; None if none stands open."""

    def recent_breaks(
        self, since: datetime, spikes: Collection[str] | None = None
    ) -> Mapping[str, tuple[Break, ...]]:
        """Where ranges committed since then do not continue one another or do not end at the committed end,
        of all spikes or of these. Spikes without a commit since then are absent."""

    def tally(self) -> Tally: ...

    def succeeded(self, duty: str) -> None: ...
