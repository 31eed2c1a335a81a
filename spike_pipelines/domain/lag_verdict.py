"""What to call a spike's lag: one rung of a ladder, and the sentence that a person reads.

The first rung that matches is the verdict, worst first. What could not be observed is UNKNOWN: never
OK, and never a reason to restart anything (I12).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from spike_pipelines.domain import arrival
from spike_pipelines.domain.arrival import Watermarks
from spike_pipelines.domain.lag import (
    LagFacts,
    LagReport,
    LagVerdict,
    Loss,
    PartitionLag,
    Waiting,
    human,
    measure,
    missing,
    read_topic,
    setting,
    topic_changed,
    within,
)
from spike_pipelines.domain.lag_history import SHORTEST, Ends, Rates, Sample, Trend, kept, rates, trend
from spike_pipelines.domain.losses import joined, records
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of

FIRST_COMMIT = timedelta(minutes=5)  # of a new spike: until then nothing is wrong
_KEEPS_UP = 0.9  # of what comes
_DANGER = 0.2  # of the retention left: somebody must look, whatever the forecast says
_HALF_LIFE = 0.5  # of the retention left: from here on a forecast of loss is a verdict of its own
_JUMP = 2.0  # seconds of margin in a second: nothing that goes on shrinks faster
_JITTER_SECONDS = 20.0
_WITHOUT_RETENTION = timedelta(days=1)  # where only the log's size deletes, a forecast counts from here on


@dataclass(frozen=True, slots=True)
class Sight:
    """The facts, measured. `lag_seconds` is None where any lagging partition's is."""

    facts: LagFacts
    now: datetime
    partitions: tuple[PartitionLag, ...]
    lag: int
    lag_seconds: float | None
    trend: Trend | None
    time_to_loss_seconds: float | None
    ends: Ends | None = None

    @property
    def spike(self) -> Spike:
        return self.facts.spike

    @property
    def lost(self) -> int:
        """Offsets gone now or noted before, each once."""
        noted = self.facts.loss
        gone = records(joined(noted.ranges if noted else (), missing(self.partitions)))
        return max(gone, noted.records if noted else 0)

    @property
    def eta_seconds(self) -> float | None:
        """Until nothing is uncommitted any more, in the partition where that takes longest; None if it never
        comes at these rates."""
        times = [self._eta_seconds(p) for p in self.partitions if self._counts(p)]
        known = [time for time in times if time is not None]
        return None if len(known) < len(times) else max(known, default=0.0)

    def _eta_seconds(self, p: PartitionLag) -> float | None:
        found = self.rates(p)
        if found is None or not found.catches_up:
            return None
        behind = self.uncommitted(p) if self._apart else sum(map(self.uncommitted, self.partitions))
        return behind / found.net_per_second

    def _counts(self, p: PartitionLag) -> bool:
        """Whether a partition decides when all is caught up: those that are late do, where any are. A quiet
        one with a few young records gains nothing on what comes, and need not."""
        if self.uncommitted(p) == 0:
            return False
        return self.late_partition(p) or not any(map(self.late_partition, self.partitions))

    @property
    def _apart(self) -> bool:
        return bool(self.trend and self.trend.partitions)

    def rates(self, p: PartitionLag) -> Rates | None:
        return self.trend.of(p.partition.index) if self.trend else None

    def late_partition(self, p: PartitionLag) -> bool:
        return p.lag > 0 and (
            p.lag_seconds is None or p.lag_seconds > self.spike.objectives.warn.total_seconds()
        )

    def uncommitted(self, p: PartitionLag) -> int:
        """Offsets to commit: also those that wait for the appender and that Kafka no longer has."""
        waits = p.staged_end - p.committed_end if self.facts.waiting else 0
        return max(p.lag, waits)

    @property
    def commit_age_seconds(self) -> float | None:
        at = self.facts.last_commit_at
        return max((self.now - at).total_seconds(), 0.0) if at else None

    @property
    def quiet_seconds(self) -> float:
        """Since anything moved, a commit or a staged batch, while there was something to move. The first
        driver that was started since has its time; one that comes after it and moves nothing either has
        none: starting again and again is no movement."""
        life, waiting = self.facts.life, self.facts.waiting
        staged = waiting.newest_staged_at if waiting else None
        moved = [at for at in (self.facts.last_commit_at, staged) if at]
        tried = [at for at in (*life.tried_at, life.opened_at, life.started_at) if at]
        if self.lag_seconds is None:  # not known since when there is something to move
            return self._since(max((*moved, *tried), default=None))
        idle = max((*moved, self.now - timedelta(seconds=self.lag_seconds)))
        return self._since(min((at for at in tried if at > idle), default=idle))

    def _since(self, at: datetime | None) -> float:
        return (self.now - at).total_seconds() if at else 0.0

    @property
    def behind(self) -> str:
        if self.lag == 0 and self.facts.waiting:
            return _waits(self.facts.waiting, self.now)
        seconds = "" if self.lag_seconds is None else f" and {human(self.lag_seconds)}"
        return f"{self.lag:,} record{'s' if self.lag != 1 else ''}{seconds} behind"

    @property
    def stalled(self) -> bool:
        """Something is to be read or committed for longer than any batch should take, and nothing moves."""
        limit = stall_limit(self.spike).total_seconds()
        late = self.lag_seconds is None or self.lag_seconds > limit
        return (self.lag > 0 or self.facts.waiting is not None) and late and self.quiet_seconds > limit


def _waits(waiting: Waiting, now: datetime) -> str:
    """What is staged and not committed, where that is all there is: Kafka has, or may have, deleted it."""
    oldest = human((now - waiting.oldest_staged_at).total_seconds())
    if waiting.batches == 1:
        return f"1 batch is staged for {oldest} and not committed"
    return f"{waiting.batches} batches are staged and not committed, the oldest for {oldest}"


def stall_limit(spike: Spike) -> timedelta:
    return max(spike.objectives.hang, 3 * spike.trigger)


def judge(facts: LagFacts, now: datetime) -> LagReport:
    """The verdict on one spike at one moment, over its history."""
    sight = _sight(facts, now)
    verdict, sentence = next(found for rung in LADDER if (found := rung(sight)))
    seen = facts.topic is not None
    read = [p.read_lag for p in sight.partitions if p.read_lag is not None]
    worst = max(sight.partitions, key=_badness, default=None)
    return LagReport(
        verdict=verdict,
        sentence=". ".join([sentence, *_outlook(sight, verdict)]),
        lag=sight.lag,
        lag_seconds=sight.lag_seconds if seen else None,
        partitions=sight.partitions,
        observed=seen,
        at=now,
        topic_id=facts.topic.topic_id if facts.topic else None,
        topic_changed=topic_changed(facts),
        read_topic=read_topic(facts),
        staged_lag=sum(p.staged_lag for p in sight.partitions),
        read_lag=sum(read) if read and len(read) == len(sight.partitions) else None,
        time_to_loss_seconds=sight.time_to_loss_seconds,
        eta_seconds=sight.eta_seconds if seen else None,
        retention_seconds=facts.retention.total_seconds() if facts.retention else None,
        commit_age_seconds=sight.commit_age_seconds,
        stalled=sight.stalled and _beginning(sight) is None,
        running=facts.life.running,
        waiting_batches=facts.waiting.batches if facts.waiting else 0,
        held_reason=facts.waiting.held_reason if facts.waiting else None,
        unacknowledged_loss=facts.loss.records if facts.loss else 0,
        worst=worst.partition if worst and worst.lag else None,
        trend=sight.trend,
        created_at=facts.created_at,
        epoch_opened_at=facts.life.opened_at,
        restarts=facts.restarts,
        objective_seconds=facts.spike.objectives.lag.total_seconds(),
        unread_problem=_unread_problem(facts),
        lasts=bool(facts.history) and max(facts.history, key=lambda h: h.at).verdict == verdict,
        by_size=facts.by_size,
        ends=kept(facts.ends, sight.ends) if sight.ends else facts.ends,
        watermarks=_watermarks(facts, now),
    )


def _watermarks(facts: LagFacts, now: datetime) -> tuple[Watermarks, ...]:
    if facts.topic is None or facts.asked_at is None:
        return facts.watermarks
    seen = tuple(end for _, end in sorted(facts.high_watermarks.items()))
    return arrival.kept(facts.watermarks, Watermarks(facts.asked_at, now, facts.topic.topic_id, seen))


def _badness(p: PartitionLag) -> tuple[int, bool, float, int]:
    return p.lost + p.cut_off, p.lag_seconds is None, p.lag_seconds or 0.0, p.lag


def _sight(facts: LagFacts, now: datetime) -> Sight:
    if facts.topic is None:
        return Sight(facts, now, (), 0, None, None, None)
    partitions = measure(facts, facts.topic, now)
    point, here = _point(facts, partitions, now), _ends(facts, partitions, now)
    unknown = any(p.lag_seconds is None for p in partitions)
    seconds = [p.lag_seconds or 0.0 for p in partitions]
    if facts.waiting:
        seconds.append(max((now - facts.waiting.oldest_staged_at).total_seconds(), 0.0))
    losses = [p.time_to_loss_seconds for p in partitions if p.time_to_loss_seconds is not None]
    return Sight(
        facts,
        now,
        partitions,
        sum(p.lag for p in partitions),
        None if unknown else max(seconds, default=0.0),
        trend(facts.history, point, rates(facts.ends, here)),
        min(losses, default=None),
        here,
    )


def _point(facts: LagFacts, partitions: tuple[PartitionLag, ...], now: datetime) -> Sample:
    assert facts.topic is not None
    report = LagReport(LagVerdict.UNKNOWN, "", 0, None, partitions, topic_id=facts.topic.topic_id)
    return report.sample(now)


def _ends(facts: LagFacts, partitions: tuple[PartitionLag, ...], now: datetime) -> Ends:
    assert facts.topic is not None
    log_ends, committed = (p.log_end for p in partitions), (p.committed_end for p in partitions)
    return Ends(now, facts.topic.topic_id, tuple(log_ends), tuple(committed))


# the ladder

Rule = Callable[[Sight], tuple[LagVerdict, str] | None]


def _lost(s: Sight) -> tuple[LagVerdict, str] | None:
    name = s.spike.name
    if sum(p.lost for p in s.partitions):
        unread = (
            "record was deleted by Kafka before it was",
            "records were deleted by Kafka before they were",
        )
        return LagVerdict.LOST, (
            f"{count_of(s.lost, *unread)} read: "
            f"`spike resume {name} --accept-loss` goes on behind them, then `spike ack {name}`"
        )
    if cut := next((p for p in s.partitions if p.cut_off), None):
        beyond = count_of(cut.cut_off, "offset beyond it is", "offsets beyond it are")
        return LagVerdict.LOST, (
            f"Kafka's log of {cut.partition} ends at {cut.log_end:,}, and {beyond} "
            "staged: its end was cut off, nothing more is read: "
            f"`spike rewind {name} --to {cut.partition}:{cut.log_end}`"
        )
    if loss := s.facts.loss:
        return LagVerdict.LOST, (
            f"{count_of(s.lost, 'record was', 'records were')} lost at {loss.seen_at:%Y-%m-%d %H:%M}Z "
            f"({loss.detail}): "
            f"{_read_again(name, loss)}`spike ack {name} --why …` once that is dealt with"
        )
    return None


def _read_again(name: str, loss: Loss) -> str:
    """A log that was cut off grows again, with records that nobody has read."""
    cut = next((one.range for one in loss.ranges if one.cut_off), None)
    if cut is None:
        return ""
    return (
        f"what stands at the offsets that were cut off was never read: `spike rewind {name} --to "
        f"{cut.partition}:{cut.start}` reads it, then "
    )


def named_otherwise(topic: str, read: str) -> str:
    return (
        f"the application file names topic {topic}, and {read} was read: put {read} back, or describe a "
        "spike of another name"
    )


def _topic_changed(s: Sight) -> tuple[LagVerdict, str] | None:
    if not topic_changed(s.facts):
        return None
    if (other := read_topic(s.facts)) is not None:
        return LagVerdict.TOPIC_CHANGED, named_otherwise(s.spike.topic, other)
    if s.facts.topic is None:
        return LagVerdict.TOPIC_CHANGED, (
            f"topic {s.spike.topic} was deleted: what was staged of it is safe, what was not read is gone: "
            f"create it again, then `spike resume {s.spike.name} --accept-loss` begins with the new one"
        )
    return LagVerdict.TOPIC_CHANGED, (
        f"topic {s.spike.topic} was deleted and made again: nothing of the new one is read: "
        f"`spike resume {s.spike.name} --accept-loss` begins with it"
    )


def _held(s: Sight) -> tuple[LagVerdict, str] | None:
    if not s.facts.waiting or s.facts.waiting.held_reason is None:
        return None
    where = "" if s.facts.topic is None else f", {s.behind}"
    return LagVerdict.HELD, (
        f"the oldest batch is held for a person{where}: {s.facts.waiting.held_reason}. "
        f"See `spike batch list {s.spike.name}`"
    )


def _unobserved(s: Sight) -> tuple[LagVerdict, str] | None:
    """Not a rung of severity: below it everything needs the broker's answer."""
    if s.facts.topic is not None:
        return None
    if s.facts.unobserved:
        return LagVerdict.UNKNOWN, f"not observed: {s.facts.unobserved}"
    return LagVerdict.UNKNOWN, f"the broker has no topic {s.spike.topic}: create it, and it is read"


def _will_lose(s: Sight) -> tuple[LagVerdict, str] | None:
    left, eta = s.time_to_loss_seconds, s.eta_seconds
    if left is None or left > _forecast_counts_from(s) or not _behind(s) or not _loses(s):
        return None
    comes = "it does not catch up" if eta is None else f"catching up takes {human(eta)}"
    return LagVerdict.WILL_LOSE, (
        f"Kafka deletes unread records {within(left)}, and {comes} ({s.behind}): raise {_setting(s)} of "
        f"{s.spike.topic} now, then find out why"
    )


def _retention_risk(s: Sight) -> tuple[LagVerdict, str] | None:
    left = s.time_to_loss_seconds
    if left is None or left > danger(s.spike, s.facts.retention):
        return None
    keeps = f", the topic keeps {human(s.facts.retention.total_seconds())}" if s.facts.retention else ""
    return LagVerdict.RETENTION_RISK, (
        f"Kafka deletes the oldest unread records {within(left)}{keeps}: raise {_setting(s)} of "
        f"{s.spike.topic}"
    )


def _setting(s: Sight) -> str:
    return setting(s.facts.retention is not None, s.facts.by_size)


def _backpressured(s: Sight) -> tuple[LagVerdict, str] | None:
    """As many as may, for so long that another one was due: with a bound of 1 there is one at any moment."""
    waiting, most = s.facts.waiting, s.spike.max_staged_batches
    if waiting is None or waiting.batches < most or s.now - waiting.oldest_staged_at < most * s.spike.trigger:
        return None
    oldest = human((s.now - waiting.oldest_staged_at).total_seconds())
    return LagVerdict.BACKPRESSURED, (
        f"{count_of(waiting.batches, 'batch waits', 'batches wait')} for the appender, the oldest for "
        f"{oldest}; {s.behind}. What is staged is safe; look at the appender job's runs"
    )


def _stopped(s: Sight) -> tuple[LagVerdict, str] | None:
    """However the last driver ended, and though all is read: a spike has no bounded run."""
    if s.facts.life.running is not False:
        return None
    never = "" if s.facts.last_commit_at else ", nothing was ever committed"
    return LagVerdict.STOPPED, f"no driver runs, {s.behind}{never}: see `spike status` and the driver's log"


def _stalled(s: Sight) -> tuple[LagVerdict, str] | None:
    if s.facts.life.running is None or not s.stalled:
        return None
    life = s.facts.life
    if life.problem:
        why = f"the driver says: {life.problem}"
    elif life.batch_started_at:
        why = f"one batch has taken {human((s.now - life.batch_started_at).total_seconds())} so far"
    elif s.facts.waiting and s.lag == 0:
        why = "look at the appender job's runs"
    elif s.facts.waiting:
        oldest = human((s.now - s.facts.waiting.oldest_staged_at).total_seconds())
        waits = count_of(s.facts.waiting.batches, "batch waits", "batches wait")
        why = f"{waits} for the appender, the oldest for {oldest}"
    elif s.facts.last_commit_at is None:
        why = "the driver runs and nothing was ever committed"
    else:
        why = "the driver runs and stages nothing"
    return LagVerdict.STALLED, f"nothing moves for {human(s.quiet_seconds)}, {s.behind}: {why}"


def _partly_observed(s: Sight) -> tuple[LagVerdict, str] | None:
    if s.facts.life.running is None:
        return LagVerdict.UNKNOWN, f"not known whether a driver runs: the cluster did not answer; {s.behind}"
    why = _unread_problem(s.facts)
    reason = f": {why}" if why else ""
    if s.lag_seconds is not None:
        return _loss_unobserved(s, reason)
    ahead = [r.stamped_at - s.now for r in s.facts.first_uncommitted.values() if r and r.stamped_at > s.now]
    if ahead:
        skew = human(max(ahead).total_seconds())
        return LagVerdict.UNKNOWN, (
            f"{s.behind}, and the first record is stamped {skew} in the future: the clocks of producer or "
            "broker and of the ledger differ"
        )
    return LagVerdict.UNKNOWN, f"{s.behind}, and the age of the first record could not be read{reason}"


def _loss_unobserved(s: Sight, reason: str) -> tuple[LagVerdict, str] | None:
    if not any(p.loss_unobserved for p in s.partitions):
        return None
    return LagVerdict.UNKNOWN, (
        f"{s.behind}, and when Kafka deletes what is not staged is not known: the age of the first such "
        f"record could not be read{reason}"
    )


def _unread_problem(facts: LagFacts) -> str | None:
    """The first partition's, and how many there are more."""
    told = [f"{partition}: {problem}" for partition, problem in sorted(facts.unread_problems.items())]
    more = f", and {count_of(len(told) - 1, 'partition')} more" if len(told) > 1 else ""
    return f"{told[0]}{more}" if told else None


def _falling_behind(s: Sight) -> tuple[LagVerdict, str] | None:
    if not _late(s) or s.eta_seconds is not None or _keeps_up(s):
        return None
    if s.trend is None:
        return LagVerdict.FALLING_BEHIND, f"{s.behind}{_objective(s)}; the trend is not known yet"
    if s.lag == 0:
        return LagVerdict.FALLING_BEHIND, f"{s.behind}{_objective(s)}: look at the appender job's runs"
    where, found = _slowest(s)
    return LagVerdict.FALLING_BEHIND, (
        f"{s.behind}{_objective(s)}: {where}{_both(found)}. Give it more cores or larger batches"
    )


def _slowest(s: Sight) -> tuple[str, Rates]:
    """The rates that tell why: all partitions', or those of the worst one that does not catch up while all
    together do."""
    assert s.trend is not None
    whole = Rates(s.trend.produced_per_second, s.trend.committed_per_second)
    late = [p for p in s.partitions if s.late_partition(p) and not s.trend.of(p.partition.index).catches_up]
    worst = max(late, key=_badness, default=None)
    if worst is None or not whole.catches_up:
        return "", whole
    return f"in {worst.partition} ", s.trend.of(worst.partition.index)


def _beginning(s: Sight) -> tuple[LagVerdict, str] | None:
    """A new spike's first batch takes longer than any later one, and holds all that came meanwhile. Since its
    first driver: one that starts again and again is not new; and what is staged is the appender's to do."""
    life = s.facts.life
    began = min((at for at in (s.facts.created_at, life.opened_at, *life.tried_at) if at), default=None)
    if began is None or s.now - began > FIRST_COMMIT or s.facts.last_commit_at is not None:
        return None
    if not _late(s) or (s.stalled and s.facts.waiting) or _partly_observed(s) is not None:
        return None
    age = human((s.now - began).total_seconds())
    return LagVerdict.CATCHING_UP, f"{s.behind}{_objective(s)}; it began {age} ago and has not committed yet"


def _keeps_up(s: Sight) -> bool:
    """Within the objective, and as fast as records come but for a tenth: the lag goes up and down between two
    commits, and rates of a few looks are no exacter than that."""
    if s.lag == 0 or s.trend is None or s.lag_seconds is None:
        return False
    where, found = _slowest(s)
    near = found.committed_per_second >= _KEEPS_UP * found.produced_per_second > 0
    return not where and near and s.lag_seconds <= s.spike.objectives.lag.total_seconds()


def _catching_up(s: Sight) -> tuple[LagVerdict, str] | None:
    if not _late(s):
        return None
    if s.eta_seconds is None:
        return LagVerdict.CATCHING_UP, f"{s.behind}{_objective(s)}: it keeps up, {_both(_slowest(s)[1])}"
    return LagVerdict.CATCHING_UP, f"{s.behind}{_objective(s)}, caught up in {human(s.eta_seconds)}"


def _idle(s: Sight) -> tuple[LagVerdict, str] | None:
    if s.lag or s.facts.waiting:
        return None
    return LagVerdict.IDLE, "all that is in the topic is committed"


def _ok(s: Sight) -> tuple[LagVerdict, str]:
    return LagVerdict.OK, s.behind


LADDER: tuple[Rule, ...] = (
    _lost,
    _topic_changed,
    _held,
    _unobserved,
    _will_lose,
    _retention_risk,
    _backpressured,
    _stopped,
    _beginning,
    _stalled,
    _partly_observed,
    _falling_behind,
    _catching_up,
    _idle,
    _ok,
)


def danger(spike: Spike, retention: timedelta | None) -> float:
    """Seconds to loss below which it is a risk: a share of the retention, or three times what the spike may
    be behind where that is more; but no more than half of a retention, or every record would be in danger as
    soon as it is there."""
    promised = 3 * spike.objectives.lag.total_seconds()
    if retention is None:
        return promised
    kept_seconds = retention.total_seconds()
    return min(max(kept_seconds * _DANGER, promised), kept_seconds * _HALF_LIFE)


def _forecast_counts_from(s: Sight) -> float:
    return (s.facts.retention * _HALF_LIFE if s.facts.retention else _WITHOUT_RETENTION).total_seconds()


def _behind(s: Sight) -> bool:
    """A spike that reads what came a moment ago loses nothing that a forecast could tell of."""
    return s.lag_seconds is None or _late(s)


def _loses(s: Sight) -> bool:
    """Whether the log's start comes to the first unread record before the spike does.

    The margin itself tells: a reprocess of old records reads much faster than the log is deleted, however
    long catching up will take. One look knows no margin's speed: the next one does.
    """
    left, eta = s.time_to_loss_seconds, s.eta_seconds
    assert left is not None
    earlier, seconds = _steady(_margins(s), left)
    if seconds < SHORTEST.total_seconds():
        return False
    if left <= 0:
        return eta is None  # nothing is left that could shrink
    shrinks_per_second = (earlier - left) / seconds
    return shrinks_per_second > 0.01 and (eta is None or eta > left / shrinks_per_second)


def _margins(s: Sight) -> list[tuple[float, float]]:
    """Known times to loss in the trend's window, the newest first, and how long ago that was, in seconds."""
    if s.trend is None:
        return []
    seen = [(x.time_to_loss_seconds, (s.now - x.at).total_seconds()) for x in s.facts.history]
    known = [(left, ago) for left, ago in seen if left is not None and 0 < ago <= s.trend.seconds]
    return sorted(known, key=lambda one: one[1])


def _steady(margins: Iterable[tuple[float, float]], left: float) -> tuple[float, float]:
    """The oldest margin since which it did not jump down. It shrinks by a second in a second where nothing
    is read; more is a late event, or a retention that was made shorter: the next look tells which."""
    oldest = (left, 0.0)
    for margin, ago in margins:
        if margin - oldest[0] > _JUMP * (ago - oldest[1]) + _JITTER_SECONDS:
            break
        oldest = (margin, ago)
    return oldest


def _late(s: Sight) -> bool:
    return s.lag_seconds is not None and timedelta(seconds=s.lag_seconds) > s.spike.objectives.warn


def _objective(s: Sight) -> str:
    return f", the objective is {human(s.spike.objectives.lag.total_seconds())}"


def _both(found: Rates) -> str:
    return f"{_rate(found.produced_per_second)} come and {_rate(found.committed_per_second)} are committed"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def _outlook(s: Sight, verdict: LagVerdict) -> Iterator[str]:
    """What else a person wants to know: the worst partition, loss to come, restarts."""
    if verdict in {LagVerdict.IDLE, LagVerdict.OK, LagVerdict.UNKNOWN}:
        return
    worst = max(s.partitions, key=_badness, default=None)
    if worst and worst.lag and len(s.partitions) > 1:
        yield f"Worst partition: {worst.partition}"
    if s.time_to_loss_seconds is not None and verdict not in {
        LagVerdict.WILL_LOSE,
        LagVerdict.RETENTION_RISK,
    }:
        yield f"Kafka keeps what is unread for {human(s.time_to_loss_seconds)} more"
    if s.facts.restarts:
        restarts = count_of(len(s.facts.restarts), "restart")
        yield f"{restarts} in the last hour, the last: {s.facts.restarts[-1]}"
