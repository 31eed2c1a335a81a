"""What the supervisor remembers of a SparkApplication between looks, since the operator keeps no times."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.spark_application import AppState, ObservedApplication

KEPT_LIVES = 10
CACHE_BEHIND = timedelta(minutes=10)  # an API server's; seconds, but for one that is cut off
ON_PURPOSE = frozenset({
    AppState.SUSPENDING, AppState.SUSPENDED, AppState.RESUMING, AppState.INVALIDATING,
    AppState.SUBMISSION_FAILED,
})  # fmt: skip
ABSENT = "absent"
UNDEPLOYED = "undeployed"


@dataclass(frozen=True, slots=True)
class Life:
    """One submission: when it was first seen, how it ended (`UNSEEN` if the next one alone tells that it
    did; None if it lives, or was ended on purpose), and the uid of its pod, once anybody had cause to
    look: a driver may name itself by it."""

    submission: str
    seen_at: datetime
    ending: Trouble | None = None
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Since when it is in its state (`state_text` `absent`: since when it is gone; `undeployed`: on purpose)
    and has its spec, and its last lives, oldest first."""

    spike: str
    uid: str
    state_text: str
    since: datetime
    spec_hash: str | None
    spec_since: datetime
    lives: tuple[Life, ...] = ()

    def names(self, submission: str | None) -> frozenset[str]:
        """What the driver of this submission may call itself at the appender, as far as is known."""
        return frozenset(
            name
            for life in self.lives
            if life.submission == submission
            for name in (life.submission, life.uid)
            if name is not None
        )

    def overtook(self, app: ObservedApplication, now: datetime) -> bool:
        """Whether the resource is seen as it was before: a list from a cache may be behind an earlier one,
        and a submission's id does not come back. No cache is for long: what was restored is believed."""
        *past, last = self.lives or (None,)
        if last is None or self.uid != app.uid or now - last.seen_at > CACHE_BEHIND:
            return False
        return app.submission in {life.submission for life in past if life is not None}


def sight(
    before: Sighting | None,
    app: ObservedApplication | None,
    ending: Trouble | None,
    now: datetime,
    uid: str | None = None,
) -> Sighting | None:
    """What is remembered after this look. The same look again gives the same; a spike that was never there
    is not remembered. `ending` is how the present submission ended, `uid` its pod's; None: nobody saw."""
    if app is None:
        if before is None or before.state_text in {ABSENT, UNDEPLOYED}:
            return before
        return replace(before, state_text=ABSENT, since=now)
    if before is None or before.uid != app.uid:
        begun = _begun(app, now)
        before = Sighting(app.spike, app.uid, app.state_text, begun, app.deployed, begun)
    if before.overtook(app, now):
        return before
    lives = _replaced(before, app)
    if before.state_text != app.state_text:
        before = replace(before, state_text=app.state_text, since=now)
    if before.spec_hash != app.deployed:
        before = replace(before, spec_hash=app.deployed, spec_since=now)
    return replace(before, lives=_lives(lives, app.submission, ending, uid, now))


def missed(app: ObservedApplication, before: Sighting | None) -> bool:
    """Whether its driver ended since the last look, and this one does not show how: what there was in between
    is worth a request."""
    if before is None or before.uid != app.uid or app.problem is not None or not _may_have_ended(before, app):
        return False
    reruns = app.state is AppState.PENDING_RERUN
    return _succeeded(before, app) or (reruns and before.state_text != AppState.PENDING_RERUN)


def _may_have_ended(before: Sighting, app: ObservedApplication) -> bool:
    """Of itself, and nobody saw it: an end that was asked for is none."""
    if not before.lives or before.lives[-1].ending is not None:
        return False
    return before.spec_hash == app.deployed and before.state_text not in ON_PURPOSE


def _succeeded(before: Sighting, app: ObservedApplication) -> bool:
    """The operator runs another driver of the same spec: for a new one it counts from 1."""
    return app.submission not in {None, before.lives[-1].submission} and app.executions > 1


def _replaced(before: Sighting, app: ObservedApplication) -> tuple[Life, ...]:
    """A driver that nobody asked to end has ended, if the operator runs another one of the same spec."""
    lives = before.lives
    if not _may_have_ended(before, app) or not _succeeded(before, app):
        return lives
    return (*lives[:-1], replace(lives[-1], ending=Trouble.UNSEEN))


def _begun(app: ObservedApplication, now: datetime) -> datetime:
    """A state that is seen for the first time can be as old as the last thing the operator dated."""
    return min(now, app.submitted_at or app.created_at or now)


def _lives(
    lives: tuple[Life, ...], submission: str | None, ending: Trouble | None, uid: str | None, now: datetime
) -> tuple[Life, ...]:
    if submission is None:
        return lives
    if not lives or lives[-1].submission != submission:
        lives = (*lives, Life(submission, now))
    last = lives[-1]
    last = replace(last, ending=last.ending or ending, uid=last.uid or uid)
    return (*lives[:-1], last)[-KEPT_LIVES:]
