"""What the lag sensor remembers between ticks: what Dagster shows of each check, and which spikes are broken.

Whoever executes a check by hand changes what Dagster shows. The sensor reads that from the event log, so that
it corrects what is not so any more, and does not forget a break that a longer look has found.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from spike_pipelines.services.judgements import Grade, Judgement, Told, executed

STATE = "state"  # of the judgement, in an evaluation's metadata
MOST_EVALUATIONS = 2_000  # read in a tick; those that sensors told are among them
LATELY = timedelta(minutes=10)  # ranges that a tick proves contiguous
LONGER = timedelta(days=1)  # the same for "Execute" in the UI, and for a sensor that was away
CONTIGUOUS = "offsets_contiguous"
BROKEN = "ERROR BROKEN"


@dataclass(frozen=True, slots=True)
class Memory:
    """`checks` are by spike/check; `seen` is the last event that was read; `broken` has, for each spike whose
    ranges do not continue one another, since when to look (Unix seconds): until it is whole again."""

    checks: Told = field(default_factory=dict)
    seen: int | None = None
    broken: Mapping[str, float] = field(default_factory=dict)
    at: float | None = None

    @classmethod
    def read(cls, cursor: str | None) -> "Memory":
        """A cursor from before there was more to remember has the checks only."""
        found = json.loads(cursor) if cursor else {}
        told = found.get("checks", found)
        checks = {key: (mark, at) for key, (mark, at) in told.items()}
        return cls(checks, **{k: v for k, v in found.items() if k in {"seen", "broken", "at"}})

    def written(self) -> str:
        return json.dumps(asdict(self))

    def since(self, now: datetime) -> datetime:
        """How far back ranges are to be proven: what was committed since the last tick, and some more."""
        longest = now - LONGER
        if self.at is None:
            return longest
        return max(min(datetime.fromtimestamp(self.at, now.tzinfo), now) - LATELY, longest)

    def corrected(self, by_hand: Told, seen: int | None) -> "Memory":
        broken = {
            key.rpartition("/")[0]: at - LONGER.total_seconds()
            for key, (mark, at) in by_hand.items()
            if key.endswith(f"/{CONTIGUOUS}") and mark == BROKEN
        }
        return Memory(executed(self.checks, by_hand), seen, {**broken, **self.broken}, self.at)

    def judged(self, found: Mapping[str, Judgement], since: datetime) -> Mapping[str, float]:
        """The spikes that are broken from now on: those of before that were not seen whole, and new ones."""
        grades = {k.rpartition("/")[0]: j for k, j in found.items() if k.endswith(f"/{CONTIGUOUS}")}
        new = {name: since.timestamp() for name, j in grades.items() if j.grade is Grade.ERROR}
        old = {
            name: at
            for name, at in self.broken.items()
            if name in grades and grades[name].grade is not Grade.PASSED
        }
        return {**new, **old}


def by_hand(
    instance: dg.DagsterInstance, names: Mapping[dg.AssetCheckKey, str], seen: int | None
) -> tuple[Told, int | None]:
    """What was executed since the event `seen`, and the last event that was read. The first time there is
    nothing to correct, only where to begin. Nothing either where each run has a file of its own (SQLite, for
    a try on one machine): events have no order there."""
    if instance.event_log_storage.is_run_sharded:
        return {}, seen
    wanted = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=seen)
    if seen is None:
        newest = instance.get_event_records(wanted, limit=1)
        return {}, newest[0].storage_id if newest else 0
    records = instance.get_event_records(wanted, limit=MOST_EVALUATIONS, ascending=True)
    found: dict[str, tuple[str, float]] = {}
    for record in records:
        entry, evaluation = record.event_log_entry, record.event_log_entry.asset_check_evaluation
        if entry.run_id and evaluation and evaluation.asset_check_key in names:
            found[names[evaluation.asset_check_key]] = (_mark(evaluation), entry.timestamp)
    return found, records[-1].storage_id if records else seen


def _mark(evaluation: dg.AssetCheckEvaluation) -> str:
    warned = evaluation.severity is dg.AssetCheckSeverity.WARN
    grade = Grade.PASSED if evaluation.passed else Grade.WARN if warned else Grade.ERROR
    state = evaluation.metadata.get(STATE)
    return f"{grade} {state.value if state else ''}".rstrip()
