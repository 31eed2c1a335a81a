"""What lag did over the last minutes: samples, and the rates between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)
SPACING = timedelta(minutes=2)  # between looks at single partitions that are kept
SHORTEST = timedelta(seconds=20)  # below it, one batch more or less is the whole rate


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation of one spike. Offsets are sums over the partitions of the topic `topic_id`, which
    is None where the broker did not answer: then the figures are None or 0 and say nothing. `log_starts`
    and `staged_ends` are the same by partition number."""

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
class Ends:
    """Where log and commits of each partition of a topic ended at one moment, by partition number."""

    at: datetime
    topic_id: str
    log_ends: tuple[int, ...]
    committed_ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Offsets a second; `net` is what commits gain on production: negative falls behind."""

    produced_per_second: float
    committed_per_second: float

    @property
    def net_per_second(self) -> float:
        return self.committed_per_second - self.produced_per_second

    @property
    def catches_up(self) -> bool:
        """Gains more than a rounding error of what is produced."""
        return self.net_per_second > 0.01 * max(self.produced_per_second, 1.0)


@dataclass(frozen=True, slots=True)
class Trend:
    """Offsets a second over `seconds`, all partitions together; `partitions` are by partition number, and
    empty where no earlier look at them is known."""

    seconds: float
    produced_per_second: float
    staged_per_second: float
    committed_per_second: float
    partitions: tuple[Rates, ...] = ()

    def of(self, partition: int) -> Rates:
        """A partition's own rates; all partitions' where these are not known: of a partition that was added
        since, and in the first minute after an update."""
        if partition < len(self.partitions):
            return self.partitions[partition]
        return Rates(self.produced_per_second, self.committed_per_second)


def trend(history: Iterable[Sample], now: Sample, rates: tuple[Rates, ...] = ()) -> Trend | None:
    """Rates from the oldest comparable sample of the window to `now`; None without one.

    Another topic id, or offsets that went back (a rewind), begin the history anew. Partitions that were
    added only add to the log's end, which is what happened.
    """
    window = _comparable([s for s in history if timedelta(0) <= now.at - s.at <= WINDOW], now)
    if not window or now.at - window[0].at < SHORTEST:
        return None
    first, seconds = window[0], (now.at - window[0].at).total_seconds()
    return Trend(
        seconds=seconds,
        produced_per_second=max(now.log_end - first.log_end, 0) / seconds,
        staged_per_second=(now.staged_end - first.staged_end) / seconds,
        committed_per_second=(now.committed_end - first.committed_end) / seconds,
        partitions=rates,
    )


def rates(ends: Iterable[Ends], now: Ends) -> tuple[Rates, ...]:
    """Of each partition, from the oldest comparable look of the window to `now`; empty without one."""
    first, later = now, now
    for one in sorted(ends, key=lambda e: e.at, reverse=True):
        if not _continues(one, later) or now.at - one.at > WINDOW:
            break
        first, later = one, one
    seconds = (now.at - first.at).total_seconds()
    if seconds < SHORTEST.total_seconds():
        return ()
    moved = zip(first.log_ends, now.log_ends, first.committed_ends, now.committed_ends, strict=False)
    return tuple(Rates(max(b - a, 0) / seconds, (d - c) / seconds) for a, b, c, d in moved)


def kept(ends: Iterable[Ends], now: Ends) -> tuple[Ends, ...]:
    """The looks that the next one is compared with: one every `SPACING`, of one window, oldest first."""
    young = tuple(one for one in ends if one.topic_id == now.topic_id and now.at - one.at <= WINDOW)
    return young if young and now.at - young[-1].at < SPACING else (*young, now)


def _continues(before: Ends, after: Ends) -> bool:
    """The same life of the same topic: no rewind in between."""
    committed = zip(before.committed_ends, after.committed_ends, strict=False)
    return before.topic_id == after.topic_id and all(a <= b for a, b in committed)


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
