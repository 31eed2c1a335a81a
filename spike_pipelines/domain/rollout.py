"""Whether a deployed spec works: a new driver has the spike, commits, and keeps the lag that was promised."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.observed import Refusal
from spike_pipelines.domain.spike import Spike

A_PERSON_DECIDES = frozenset({"topic_changed", "lost"})  # of any spec: going back mends nothing
AGAIN = frozenset({LagVerdict.CATCHING_UP})


class Rollout(StrEnum):
    WAITING = "waiting"
    STABLE = "stable"
    FAILED = "failed"  # go back to the last spec that worked
    UNDECIDED = "undecided"  # neither: it stays, and somebody looks


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """`since` is the database's time before the resource was touched; `changed` says that it was then made
    another than before. `epoch` is the spike's newest, `committed_at` the last commit of a batch of it,
    `lag` what was seen now. `was_late`: the spike was beyond its objective already before. `unlike` says how
    the resource is not what was deployed, such as by an overlay; None: it is."""

    spike: Spike
    since: datetime
    changed: bool
    epoch: Epoch | None
    committed_at: datetime | None
    refusal: Refusal | None
    lag: LagReport
    was_late: bool
    unlike: str | None = None


@dataclass(frozen=True, slots=True)
class RolloutVerdict:
    state: Rollout
    reason: str


def judge_rollout(facts: RolloutFacts, now: datetime, patience: timedelta) -> RolloutVerdict:
    """The rules, in order. What is not so yet is waited for, `patience` long from `since`."""
    over = now - facts.since >= patience
    if (refused := _refused(facts)) is not None:
        return RolloutVerdict(Rollout.UNDECIDED, refused)
    if (missing := _no_driver(facts)) is not None:
        why = "" if facts.unlike is None else f"; {facts.unlike}"
        return _unless(over, Rollout.FAILED, f"{missing}{why}")
    if not facts.lag.observed:
        return _unless(over, Rollout.UNDECIDED, f"lag cannot be seen: {facts.lag.sentence}")
    if not _commits(facts):
        return _unless(over, Rollout.FAILED, f"its driver commits nothing: {facts.lag.sentence}")
    if facts.unlike is not None:
        return _unless(over, Rollout.UNDECIDED, f"it commits, but not as it was deployed: {facts.unlike}")
    if (behind := _behind(facts)) is None:
        done = "commits" if facts.committed_at else "has nothing to read"
        return RolloutVerdict(Rollout.STABLE, f"version {facts.spike.version} {done}: {facts.lag.sentence}")
    if facts.was_late or facts.lag.verdict in AGAIN:
        late = "was late before" if facts.was_late else "catches up"
        return _unless(
            over, Rollout.UNDECIDED, f"{behind}, but it commits and {late}: going back gains nothing"
        )
    return _unless(over, Rollout.FAILED, behind)


def is_late(spike: Spike, lag: LagReport) -> bool:
    """Beyond its objective for certain."""
    seconds = lag.lag_seconds
    return lag.observed and seconds is not None and seconds > spike.objectives.lag.total_seconds()


def _unless(over: bool, then: Rollout, reason: str) -> RolloutVerdict:
    return RolloutVerdict(then if over else Rollout.WAITING, reason)


def _refused(facts: RolloutFacts) -> str | None:
    refusal = facts.refusal
    if refusal is None or refusal.at < facts.since or refusal.code not in A_PERSON_DECIDES:
        return None
    return f"its driver was refused ({refusal.code}): {refusal.message}"


def _no_driver(facts: RolloutFacts) -> str | None:
    """Why there is no living driver of this deployment; None if there is one."""
    version, epoch = facts.spike.version, facts.epoch
    if epoch is None or epoch.state is not EpochState.OPEN or epoch.heartbeat_at < facts.since:
        return f"no driver has been heard of since it was deployed, version {version}"
    if epoch.application_version != version:
        return f"epoch {epoch.number} is still of version {epoch.application_version}, not {version}"
    if facts.changed and epoch.opened_at < facts.since:
        return f"epoch {epoch.number} is still the driver's of before"
    return None


def _commits(facts: RolloutFacts) -> bool:
    """A commit since then; or nothing to commit, and a driver that is past its start."""
    if facts.committed_at is not None and facts.committed_at >= facts.since:
        return True
    started = facts.epoch is not None and facts.epoch.phase not in (None, Phase.STARTING, Phase.RETRYING)
    return started and facts.lag.lag == 0 and facts.lag.waiting_batches == 0


def _behind(facts: RolloutFacts) -> str | None:
    promised = facts.spike.objectives.lag.total_seconds()
    seconds = facts.lag.lag_seconds
    if seconds is None:
        return "how far behind it is cannot be told"
    return f"{seconds:.0f} s behind, {promised:.0f} s were promised" if seconds > promised else None
