"""How many records are due."""

from dataclasses import dataclass, field

CATCH_UP_SECONDS = 1.0


@dataclass(slots=True)
class Pace:
    """`rate` records per second from `started` on (monotonic seconds); 0 is as fast as it goes, by `burst`.

    What was missed while the broker was away is not made up for: after more than a second behind, the
    count starts anew.
    """

    rate: float
    started: float
    burst: int = 2_000
    _sent: int = field(default=0, init=False)

    def due(self, now: float) -> int:
        if self.rate == 0:
            return self.burst
        due = int((now - self.started) * self.rate) - self._sent
        allowed = max(1, int(self.rate * CATCH_UP_SECONDS))
        if due > allowed:
            self.started, self._sent, due = now - allowed / self.rate, 0, allowed
        return max(0, due)

    def sent(self, records: int) -> None:
        self._sent += records
