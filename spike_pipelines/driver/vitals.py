"""What a driver is doing right now: written by its threads, read by the heartbeat."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from spike_pipelines.domain.epochs import Phase
from spike_pipelines.wire import EpochGrant, PartitionOffset

MAX_PROBLEM_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Progress:
    """The last batch as the engine saw it: from trigger to commit, and the steps within. `records` is what
    was read; `input_per_second` what came since the batch before, `processed_per_second` the speed of this
    one; None: not known yet."""

    began_at: datetime
    batch_seconds: float
    step_seconds: Mapping[str, float]
    records: int
    input_per_second: float | None
    processed_per_second: float | None


@dataclass(frozen=True, slots=True)
class Vitals:
    """One moment. `opening`: an epoch was asked for and the answer is not known yet. `progress_at`: the
    last time that anything but the heartbeat itself moved; `progress`: the epoch's last batch."""

    grant: EpochGrant | None = None
    opening: bool = False
    phase: Phase = Phase.STARTING
    read_offsets: tuple[PartitionOffset, ...] = ()
    batch_started_at: datetime | None = None
    problem: str | None = None
    progress_at: datetime | None = None
    progress: Progress | None = None


class VitalsBoard:
    """The current `Vitals`, and the one-way switch that ends the driver.

    `stop` wakes whoever waits; `fenced` tells that it was set because another driver has the spike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Vitals()
        self._fenced: str | None = None
        self.stop = threading.Event()

    @property
    def now(self) -> Vitals:
        with self._lock:
            return self._now

    @property
    def fenced(self) -> str | None:
        """Why, or None."""
        with self._lock:
            return self._fenced

    def fence(self, why: str, *, epoch: int | None = None) -> None:
        """Stop for good. A fence of an `epoch` that this driver has given up itself, or is just giving
        up, says nothing: the answer to the open request decides."""
        with self._lock:
            current = self._now.grant.epoch if self._now.grant else None
            if epoch is not None and (self._now.opening or epoch != current):
                return
            self._fenced = self._fenced or why
        self.stop.set()

    def opening(self) -> None:
        with self._lock:
            self._now = replace(self._now, opening=True)

    def opened(self, grant: EpochGrant) -> None:
        with self._lock:
            offsets = tuple(grant.offsets)
            self._now = Vitals(
                grant=grant, read_offsets=offsets, problem=self._now.problem, progress_at=_utc_now()
            )

    def phase(self, phase: Phase, *, batch_started_at: datetime | None = None) -> None:
        """A new phase; the start of the batch stays until the phase is `reading` again."""
        with self._lock:
            started = None if phase is Phase.READING else batch_started_at or self._now.batch_started_at
            self._now = replace(self._now, phase=phase, batch_started_at=started, progress_at=_utc_now())

    def alive(self) -> None:
        """The engine itself was seen to move."""
        with self._lock:
            self._now = replace(self._now, progress_at=_utc_now())

    def progressed(self, progress: Progress) -> None:
        with self._lock:
            self._now = replace(self._now, progress=progress)

    def read(self, offsets: Iterable[PartitionOffset]) -> None:
        with self._lock:
            self._now = replace(self._now, read_offsets=tuple(offsets))

    def problem(self, text: str) -> None:
        with self._lock:
            self._now = replace(self._now, phase=Phase.RETRYING, problem=text[:MAX_PROBLEM_CHARACTERS])

    def well(self) -> None:
        """Whatever the problem was, it is gone."""
        with self._lock:
            self._now = replace(self._now, problem=None)


def _utc_now() -> datetime:
    return datetime.now(UTC)
