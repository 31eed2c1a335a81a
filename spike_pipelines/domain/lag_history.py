"""What lag did over the last minutes: samples, and the rates between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)
SHORTEST = timedelta(seconds=20)  # below it, one batch more or less is the whole rate


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation of one spike. Offsets are sums over the partitions of the topic `topic_id`, which
    is None where the broker did not answer: then the figures are None or 0 and say nothing."""

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


@dataclass(frozen=True, slots=True)
class Trend:
    """Offsets a second over `seconds`; `net` is what commits gain on production: negative falls behind.
    `log_start_per_second` is summed over `partitions`."""

    seconds: float
    produced_per_second: float
    staged_per_second: float
    committed_per_second: float
    log_start_per_second: float
    partitions: int = 1

    @property
    def net_per_second(self) -> float:
        return self.committed_per_second - self.produced_per_second

    @property
    def catches_up(self) -> bool:
        """Gains more than a rounding error of what is produced."""
        return self.net_per_second > 0.01 * max(self.produced_per_second, 1.0)


def trend(history: Iterable[Sample], now: Sample, partitions: int = 1) -> Trend | None:
    """Rates from the oldest comparable sample of the window to `now`; None without one.

    Another topic id, or offsets that went back (a rewind), begin the history anew. Partitions that were
    added only add to the log's end, which is what happened. A log start that has passed what was staged
    was a loss: it is over, and says nothing of how fast the start will come again.
    """
    window = _comparable([s for s in history if timedelta(0) <= now.at - s.at <= WINDOW], now)
    if not window or now.at - window[0].at < SHORTEST:
        return None
    first, seconds = window[0], (now.at - window[0].at).total_seconds()
    kept = next((s for s in window if s.staged_end >= now.log_start), now)
    since = (now.at - kept.at).total_seconds()
    return Trend(
        seconds=seconds,
        produced_per_second=max(now.log_end - first.log_end, 0) / seconds,
        staged_per_second=(now.staged_end - first.staged_end) / seconds,
        committed_per_second=(now.committed_end - first.committed_end) / seconds,
        log_start_per_second=max(now.log_start - kept.log_start, 0) / since if since else 0.0,
        partitions=partitions,
    )


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
