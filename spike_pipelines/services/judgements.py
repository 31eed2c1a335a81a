"""What each asset check makes of a look at a spike: a table of pure functions, one a check.

What could not be observed fails as a warning: never passed, never an error by itself (I12).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.batch import hour_text
from spike_pipelines.domain.lag import GOOD, LagReport, LagVerdict, human, setting, within
from spike_pipelines.domain.lag_verdict import danger, named_otherwise, stall_limit
from spike_pipelines.domain.offsets import Break
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.ports import DatasetState
from spike_pipelines.services.close import HoursSeen

Figures = Mapping[str, float | int | str]


class Grade(StrEnum):
    PASSED = "PASSED"
    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`state` is what a check is told again for when it changes; `figures` are plotted over time."""

    grade: Grade
    state: str
    sentence: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Seen:
    """One spike at one moment. `breaks` is None if nothing was committed lately or could not be asked,
    `dataset` None before the first commit; `problem` says why the ledger did not answer. `hours` is None
    where nobody looked at them."""

    spike: Spike
    report: LagReport
    breaks: tuple[Break, ...] | None = None
    dataset: DatasetState | None = None
    problem: str | None = None
    hours: HoursSeen | None = None


_AT_ONCE = frozenset({LagVerdict.LOST, LagVerdict.TOPIC_CHANGED, LagVerdict.HELD, LagVerdict.WILL_LOSE})
_STILL = frozenset({LagVerdict.STOPPED, LagVerdict.STALLED})


def lag(seen: Seen) -> Judgement:
    """The verdict. An error where a promise is broken or will be; a warning where it is at risk."""
    report, objective = seen.report, seen.spike.objectives.lag.total_seconds()
    late = report.lag_seconds is not None and report.lag_seconds > objective
    if report.verdict in GOOD or (not late and _passing(report)):
        grade = Grade.PASSED
    elif report.verdict in _AT_ONCE | _STILL or (late and report.verdict is not LagVerdict.UNKNOWN):
        grade = Grade.ERROR
    else:
        grade = Grade.WARN
    return Judgement(
        grade,
        LagVerdict.OK if grade is Grade.PASSED else report.verdict,
        f"{report.verdict}: {report.sentence}",
        {
            "verdict": report.verdict.value,
            **_known(
                lag_records=report.lag if report.observed else None,
                staged_lag_records=report.staged_lag if report.observed else None,
                read_lag_records=report.read_lag,
                lag_seconds=report.lag_seconds,
                caught_up_in_seconds=report.eta_seconds,
                produced_per_second=report.trend.produced_per_second if report.trend else None,
                committed_per_second=report.trend.committed_per_second if report.trend else None,
                created_timestamp_seconds=_timestamp(report.created_at),
                epoch_opened_timestamp_seconds=_timestamp(report.epoch_opened_at),
            ),
            "lost_records": report.lost,
            "restarts_in_the_last_hour": len(report.restarts),
            "objective_seconds": objective,
        },
    )


def _passing(report: LagReport) -> bool:
    """Batches that wait at one look may be gone at the next: from the second on somebody is told."""
    return report.verdict is LagVerdict.BACKPRESSURED and not report.lasts


def retention(seen: Seen) -> Judgement:
    """Whether Kafka keeps what is not staged yet for long enough."""
    report, spike = seen.report, seen.spike
    if not report.observed:
        return _unknown(report)
    kept, left = report.retention_seconds, report.time_to_loss_seconds
    limit = danger(spike, timedelta(seconds=kept) if kept is not None else None)
    figures = {
        **_known(retention_seconds=kept, time_to_loss_seconds=left),
        "danger_below_seconds": limit,
        "lost_records": report.lost,
    }
    if report.lost:
        return Judgement(
            Grade.ERROR,
            "LOST",
            f"{count_of(report.lost, 'record was', 'records were')} deleted unread, or cut off",
            figures,
        )
    if report.verdict is LagVerdict.WILL_LOSE:
        return Judgement(Grade.ERROR, "WILL_LOSE", report.sentence, figures)
    if left is not None and left <= limit:
        raised = setting(kept is not None, report.by_size)
        sentence = f"the oldest unread records are deleted {within(left)}: raise {raised}"
        return Judgement(Grade.ERROR, "RISK", f"{sentence} of {spike.topic}", figures)
    if kept is not None and kept <= 3 * spike.objectives.lag.total_seconds():
        sentence = (
            f"the topic keeps {human(kept)}: too little for an objective of "
            f"{human(spike.objectives.lag.total_seconds())}; raise retention.ms of {spike.topic}"
        )
        return Judgement(Grade.WARN, "SHORT", sentence, figures)
    if report.loss_unobserved:
        why = f": {report.unread_problem}" if report.unread_problem else ""
        sentence = f"the age of the first unread record could not be read{why}: it may be deleted soon"
        return Judgement(Grade.WARN, "UNKNOWN", sentence, figures)
    kept_for = ("up to a size" if report.by_size else "for ever") if kept is None else f"for {human(kept)}"
    danger_ = "nothing unread is in danger" if left is None else f"unread records have {human(left)}"
    return Judgement(Grade.PASSED, "SAFE", f"the topic keeps records {kept_for}; {danger_}", figures)


def progress(seen: Seen) -> Judgement:
    """Whether the spike moves while there is something to move."""
    report = seen.report
    figures = {
        **_known(commit_age_seconds=report.commit_age_seconds),
        "stall_limit_seconds": stall_limit(seen.spike).total_seconds(),
        "waiting_batches": report.waiting_batches,
    }
    if report.verdict in _STILL:
        return Judgement(Grade.ERROR, report.verdict, report.sentence, figures)
    if report.running is None or not report.observed:
        return _unknown(report, figures)
    if report.stalled:
        grade = Grade.WARN if report.waiting_batches else Grade.ERROR
        return Judgement(grade, "STALLED", f"nothing moves: {report.sentence}", figures)
    age = report.commit_age_seconds
    sentence = "nothing was ever committed" if age is None else f"last commit {human(age)} ago"
    return Judgement(Grade.PASSED, "MOVES", sentence, figures)


def topic_identity(seen: Seen) -> Judgement:
    """Whether the topic is the one that was read (I10)."""
    report = seen.report
    figures = _known(topic_id=report.topic_id)
    topic, resume = seen.spike.topic, f"`spike resume {seen.spike.name} --accept-loss`"
    if report.read_topic is not None:
        return Judgement(Grade.ERROR, "RENAMED", named_otherwise(topic, report.read_topic), figures)
    if report.topic_changed and report.topic_id is None:
        sentence = f"topic {topic} was deleted: create it again, then {resume} begins with the new one"
        return Judgement(Grade.ERROR, "MISSING", sentence, figures)
    if not report.observed:
        return _unknown(report)
    if report.topic_changed:
        sentence = (
            f"topic {topic} was deleted and made again, its id is {report.topic_id} now: "
            f"{resume} begins with it"
        )
        return Judgement(Grade.ERROR, "CHANGED", sentence, figures)
    return Judgement(Grade.PASSED, str(report.topic_id), f"topic id {report.topic_id}", figures)


def offsets_contiguous(seen: Seen) -> Judgement:
    """Whether what was committed lately continues without gap or overlap (I2)."""
    if seen.problem:
        return Judgement(Grade.WARN, "UNKNOWN", f"not observed: {seen.problem}", {})
    breaks = seen.breaks or ()
    if breaks:
        sentence = "; ".join(map(str, breaks[:5])) + ": run `spike audit`"
        return Judgement(Grade.ERROR, "BROKEN", sentence, {"breaks": len(breaks)})
    lately = "committed ranges continue one another" if seen.breaks is not None else "nothing new to check"
    return Judgement(Grade.PASSED, "CONTIGUOUS", lately, {"breaks": 0})


def fresh(seen: Seen) -> Judgement:
    """Whether readers of the dataset see what the promise says: committed lag, and commits published."""
    report, spike = seen.report, seen.spike
    if seen.problem or not report.observed or report.lag_seconds is None:
        return _unknown(report)
    behind = seen.dataset.sequence - seen.dataset.published if seen.dataset else 0
    waits = _unpublished(seen)
    figures = {
        "lag_seconds": round(report.lag_seconds, 1),
        **_known(commit_age_seconds=report.commit_age_seconds),
        "unpublished_commits": behind,
        "unpublished_seconds": round(waits.total_seconds(), 1),
    }
    seconds = timedelta(seconds=report.lag_seconds)
    if seconds > spike.objectives.lag:
        limit = human(spike.objectives.lag.total_seconds())
        sentence = f"readers miss what came {human(report.lag_seconds)} ago, the objective is {limit}"
        return Judgement(Grade.ERROR, "STALE", sentence, figures)
    if waits > spike.objectives.warn:
        grade = Grade.ERROR if waits > spike.objectives.lag else Grade.WARN
        sentence = (
            f"{count_of(behind, 'commit is', 'commits are')} not published, the oldest for "
            f"{human(waits.total_seconds())}: look at the "
            "appender job's runs"
        )
        return Judgement(grade, "UNPUBLISHED", sentence, figures)
    if seconds > spike.objectives.warn:
        sentence = f"readers miss what came {human(report.lag_seconds)} ago, close to the objective"
        return Judgement(Grade.WARN, "LATE", sentence, figures)
    return Judgement(Grade.PASSED, "FRESH", "readers see all but the newest records", figures)


def _unpublished(seen: Seen) -> timedelta:
    """For how long readers have not seen the oldest commit that they do not see: many that came a moment ago
    are a burst, one from an hour ago is not published."""
    since = seen.dataset.unpublished_since if seen.dataset else None
    if since is None or seen.report.at is None:
        return timedelta(0)
    return max(seen.report.at - since, timedelta(0))


def closed(seen: Seen) -> Judgement:
    """Whether hours are closed soon after they are due."""
    hours = seen.hours
    if hours is None or hours.problem or hours.now is None:
        why = hours.problem if hours and hours.problem else "nobody looked"
        return Judgement(Grade.WARN, "UNKNOWN", f"not observed: {why}", {})
    newest = hour_text(hours.closed) if hours.closed else None
    until = f"closed up to hour {newest}" if newest else "no hour is closed yet"
    figures = _known(closed_until=newest)
    if hours.waiting is None or hours.due_at is None:
        return Judgement(Grade.PASSED, str(newest), until, figures)
    late, name = hours.now - hours.due_at, seen.spike.name
    figures = {**figures, "overdue_seconds": round(late.total_seconds(), 1)}
    if late <= seen.spike.objectives.lag + _TWO_LOOKS:
        return Judgement(Grade.PASSED, str(newest), until, figures)
    if hours.unobserved:
        sentence = f"hour {hour_text(hours.waiting)} was due {human(late.total_seconds())} ago"
        unseen = f"{sentence}, and Kafka's log ends have not been seen since: `spike lag {name}` says why"
        return Judgement(Grade.WARN, "UNKNOWN", unseen, figures)
    waits = "; ".join(map(str, hours.behind[:3])) or "what it waited for is committed now"
    more = f" and {count_of(len(hours.behind) - 3, 'partition')} more" if len(hours.behind) > 3 else ""
    sentence = f"hour {hour_text(hours.waiting)} was due {human(late.total_seconds())} ago and waits: {waits}"
    return Judgement(Grade.WARN, "OVERDUE", f"{sentence}{more}: `spike lag {name}` says why", figures)


_TWO_LOOKS = timedelta(minutes=2)  # of the lag sensor: one writes log ends down, one closes

Judge = Callable[[Seen], Judgement]

# Checks of a spike, and of its dataset: name → (what judges, what it says in the UI).
SPIKE_CHECKS: Mapping[str, tuple[Judge, str]] = {
    "lag": (lag, "Committed lag within its objective, over the last minutes"),
    "retention": (retention, "Kafka keeps unread records for long enough"),
    "progress": (progress, "The spike moves while there is something to read"),
    "topic_identity": (topic_identity, "The topic is the one that was read (I10)"),
    "offsets_contiguous": (offsets_contiguous, "Committed ranges have no gap and no overlap (I2)"),
}
DATASET_CHECKS: Mapping[str, tuple[Judge, str]] = {
    "fresh": (fresh, "Readers see the data within the spike's objective"),
    "closed": (closed, "Hours are closed soon after they are due"),
}


def judgements(seen: Seen) -> Mapping[str, Judgement]:
    return {name: judge(seen) for name, (judge, _) in (*SPIKE_CHECKS.items(), *DATASET_CHECKS.items())}


# which of them to tell

# spike/check → (grade and state, when it was told, in epoch seconds)
Told = Mapping[str, tuple[str, float]]
REPEAT_SECONDS = 600.0  # unchanged figures are told again after as long, so that plots have points
MOST_NEWS = 300  # events a tick, changes first; the rest follow in the next ticks
MOST_REPEATS = 50


def news(told: Told, states: Mapping[str, tuple[Grade, str]], now: float) -> dict[str, tuple[str, float]]:
    """What to tell now: changes, then some of what was told long ago. A changed grade comes before the same
    grade's other state, and in both whoever was told longest ago: where there are more changes than may be
    told, nobody waits for ever, whatever flaps elsewhere. Among equals the worst is first.

    A fleet of 1,000 whose state does not change costs `MOST_REPEATS` events a tick, not 7,000.
    """
    order = {Grade.ERROR: 0, Grade.WARN: 1, Grade.PASSED: 2}
    marks = {key: f"{grade} {state}".rstrip() for key, (grade, state) in states.items()}

    def turn(key: str) -> tuple[bool, float, int, str]:
        mark, at = told.get(key, (Grade.PASSED, 0.0))
        return mark.split()[0] == states[key][0], at, order[states[key][0]], key

    changed = sorted(
        (key for key, mark in marks.items() if key not in told or told[key][0] != mark), key=turn
    )
    old = sorted((told[key][1], key) for key in states if key in told and key not in set(changed))
    due = [key for at, key in old if now - at >= REPEAT_SECONDS and plotted(key)][:MOST_REPEATS]
    return {key: (marks[key], now) for key in (*changed, *due)[:MOST_NEWS]}


def executed(told: Told, by_hand: Told) -> Told:
    """With what somebody had evaluated since: it is what Dagster shows now."""
    return {
        **told,
        **{key: (mark, at) for key, (mark, at) in by_hand.items() if at > told.get(key, ("", 0.0))[1]},
    }


def plotted(key: str) -> bool:
    """Only a spike's lag is told again unchanged: one line to plot for each."""
    return key.endswith("/lag")


def _known(**figures: float | str | None) -> Figures:
    """Without what is not known: a figure that is missing is never zero."""
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items() if v is not None}


def _timestamp(at: datetime | None) -> float | None:
    return at.timestamp() if at else None


def _unknown(report: LagReport, figures: Figures | None = None) -> Judgement:
    return Judgement(Grade.WARN, "UNKNOWN", report.sentence, figures or {})
