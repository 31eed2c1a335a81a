"""How long to wait after failures in a row, and when to give up."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from spike_pipelines.domain.back_off import BackOff

BACK_OFF = BackOff(timedelta(seconds=1), timedelta(seconds=30), spread=(1.0, 0.5))
GIVE_UP_SECONDS = 600.0
GIVE_UP_FAILURES = 10
QUIET_SECONDS = 300.0

Jitter = Callable[[], float]


def back_off_seconds(failures: int, jitter: Jitter = random.random) -> float:
    """Seconds before the next try: 1, 2, 4 … 30, less up to a half, so that many do not come back at once."""
    return BACK_OFF.after(failures, jitter()).total_seconds()


@dataclass(frozen=True, slots=True)
class Failures:
    """Failures in a row; times are of a monotonic clock, in seconds."""

    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def add(self, now: float) -> "Failures":
        """One more; the row begins anew when the last one is long ago (the engine ran well since)."""
        if self.count == 0 or now - self.last_at > QUIET_SECONDS:
            return Failures(1, now, now)
        return Failures(self.count + 1, self.first_at, now)

    def hopeless(self) -> bool:
        """Many failures over a long time: this process does not get better by itself."""
        return self.count >= GIVE_UP_FAILURES and self.last_at - self.first_at > GIVE_UP_SECONDS
