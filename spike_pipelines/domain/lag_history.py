"""What lag did over the last minutes: samples, and the rates between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)
SHORTEST = timedelta(seconds=20)  # below it, one batch more or less is the whole rate


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation of one spike. Offsets are sums over the partitions of the topic `topic_id`, which
    is None where the broker did not answer: then the figures are None or 0 and say nothing. `log_starts`
    and `staged_ends` are the same by partition number; empty in history that is for plots only."""

    at: datetime
    verdict: str
    topic_id: str | None
    log_start: int
    log_end: int
    staged_end: int
    committed_end: int
    lag: int | None
    staged_lag: int | None
    read_lag: int | None
    lag_seconds: float | None
    time_to_loss_seconds: float | None
    log_starts: tuple[int, ...] = ()
    staged_ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trend:
    """Offsets a second over `seconds`; `net` is what commits gain on production: negative falls behind.
    `log_starts_per_second` are by partition number, `log_start_per_second` is their sum."""

    seconds: float
    produced_per_second: float
    staged_per_second: float
    committed_per_second: float
    log_start_per_second: float
    log_starts_per_second: tuple[float, ...] = ()

    @property
    def net_per_second(self) -> float:
        return self.committed_per_second - self.produced_per_second

    def start_per_second(self, partition: int) -> float:
        """How fast the log of one partition is deleted; 0.0 where that is not known."""
        rates = self.log_starts_per_second
        return rates[partition] if partition < len(rates) else 0.0

    @property
    def catches_up(self) -> bool:
        """Gains more than a rounding error of what is produced."""
        return self.net_per_second > 0.01 * max(self.produced_per_second, 1.0)


def trend(history: Iterable[Sample], now: Sample) -> Trend | None:
    """Rates from the oldest comparable sample of the window to `now`; None without one.

    Another topic id, or offsets that went back (a rewind), begin the history anew. Partitions that were
    added only add to the log's end, which is what happened.
    """
    window = _comparable([s for s in history if timedelta(0) <= now.at - s.at <= WINDOW], now)
    if not window or now.at - window[0].at < SHORTEST:
        return None
    first, seconds = window[0], (now.at - window[0].at).total_seconds()
    starts = tuple(_start_per_second(window, now, index) for index in range(len(now.log_starts)))
    return Trend(
        seconds=seconds,
        produced_per_second=max(now.log_end - first.log_end, 0) / seconds,
        staged_per_second=(now.staged_end - first.staged_end) / seconds,
        committed_per_second=(now.committed_end - first.committed_end) / seconds,
        log_start_per_second=sum(starts),
        log_starts_per_second=starts,
    )


def _start_per_second(window: Sequence[Sample], now: Sample, partition: int) -> float:
    """A log start that has passed what was staged was a loss: it is over, and says nothing of how fast the
    start will come again."""
    start = now.log_starts[partition]
    kept = (s for s in window if partition < len(s.log_starts) and s.staged_ends[partition] >= start)
    first = next(kept, now)
    if now.at - first.at < SHORTEST:
        return 0.0
    return max(start - first.log_starts[partition], 0) / (now.at - first.at).total_seconds()


def _comparable(samples: Sequence[Sample], now: Sample) -> list[Sample]:
    """The newest samples that tell of the same life of the same topic, oldest first."""
    found: list[Sample] = []
    later = now
    for sample in sorted(samples, key=lambda s: s.at, reverse=True):
        if sample.topic_id is None:
            continue
        if sample.topic_id != now.topic_id or sample.committed_end > later.committed_end:
            break
        found.append(sample)
        later = sample
    return found[::-1]
