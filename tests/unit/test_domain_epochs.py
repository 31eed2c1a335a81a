"""Who gets a spike: grants, repeats, takeovers, fencing (I6)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from builders import HOUR, epoch
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.epochs import Epoch, EpochState, Grant, Repeat, decide_epoch
from spike_pipelines.domain.errors import Fenced, Held

LIMIT = timedelta(seconds=20)


def decide(latest, driver_latest, driver="b", after=None, now=HOUR):
    return decide_epoch(
        latest=latest, driver_latest=driver_latest, driver=driver, after=after, now=now, idle_limit=LIMIT
    )


def test_the_first_driver_of_a_spike_gets_epoch_one():
    assert decide(None, None) == Grant(1)


def test_a_repeated_request_gets_the_same_epoch_again():
    mine = epoch(3, "b")
    assert decide(mine, mine) == Repeat(mine)


def test_a_repeated_resync_gets_the_same_epoch_again():
    mine = epoch(4, "b", after=3)
    assert decide(mine, mine, after=3) == Repeat(mine)


def test_giving_up_the_own_epoch_gets_the_next():
    mine = epoch(3, "b")
    assert decide(mine, mine, after=3) == Grant(4)


def test_a_first_request_again_after_a_resync_is_refused_not_repeated():
    mine = epoch(4, "b", after=3)
    with pytest.raises(Fenced):
        decide(mine, mine, after=None)


def test_giving_up_an_epoch_one_never_had_is_fenced():
    with pytest.raises(Fenced):
        decide(epoch(3, "a"), None, after=3)
    with pytest.raises(Fenced):
        decide(None, None, after=1)


@pytest.mark.parametrize("silent", [0, 19.9])
def test_a_newcomer_waits_while_another_epoch_is_alive(silent):
    with pytest.raises(Held) as held:
        decide(epoch(1, "a"), None, now=HOUR + timedelta(seconds=silent))
    assert 0 < held.value.retry_after_seconds <= 5


def test_a_newcomer_takes_over_an_epoch_that_is_idle_beyond_its_limit():
    assert decide(epoch(1, "a"), None, now=HOUR + LIMIT) == Grant(2)


def test_a_retired_epoch_is_free_at_once():
    assert decide(epoch(1, "a", state=EpochState.RETIRED), None) == Grant(2)


@pytest.mark.parametrize("after", [None, 1, 2])
@pytest.mark.parametrize("days", [0, 365])
def test_a_driver_that_was_taken_over_is_fenced_for_ever(after, days):
    mine = epoch(1, "b", state=EpochState.SUPERSEDED)
    with pytest.raises(Fenced, match="lost this spike"):
        decide(epoch(2, "a"), mine, after=after, now=HOUR + timedelta(days=days))


def test_a_retired_driver_is_fenced_for_ever():
    mine = epoch(1, "b", state=EpochState.RETIRED)
    for after in (None, 1):
        with pytest.raises(Fenced):
            decide(mine, mine, after=after)


class Appender:
    """`decide_epoch` over a list, as the ledger does it."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def ask(self, driver: str, after: int | None, now: datetime) -> Epoch:
        mine = [e for e in self.epochs if e.driver == driver]
        latest = self.epochs[-1] if self.epochs else None
        decided = decide(latest, mine[-1] if mine else None, driver, after, now)
        if isinstance(decided, Repeat):
            return decided.epoch
        if latest and latest.state is EpochState.OPEN:
            self.epochs[-1] = replace(latest, state=EpochState.SUPERSEDED)
        self.epochs.append(epoch(decided.number, driver, at=now, after=after))
        return self.epochs[-1]

    def beat(self, now: datetime) -> None:
        self.epochs[-1] = replace(self.epochs[-1], heartbeat_at=now)


@given(st.lists(st.sampled_from("ab"), min_size=4, max_size=60), st.booleans())
def test_two_drivers_started_together_settle_on_one(order, resync):
    """Each asks again while it is held; the owner may resync. Exactly one ever owns the spike."""
    appender, now = Appender(), HOUR
    owners, own = set(), {}
    for driver in order:
        now += timedelta(seconds=1)
        try:
            own[driver] = appender.ask(driver, own[driver].number if resync and driver in own else None, now)
            owners.add(driver)
        except Held:
            appender.beat(now)
    assert owners == {order[0]}
    assert all(e.driver == order[0] for e in appender.epochs)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.booleans()), max_size=60))
def test_whatever_the_order_ownership_never_comes_back_and_numbers_only_grow(calls):
    appender, now, own = Appender(), HOUR, {}
    for driver, seconds, resync in calls:
        now += timedelta(seconds=seconds)
        try:
            own[driver] = appender.ask(driver, own[driver].number if resync and driver in own else None, now)
        except (Held, Fenced):
            continue
    assert [e.number for e in appender.epochs] == list(range(1, len(appender.epochs) + 1))
    changes = [e.driver for e, before in zip(appender.epochs, [None, *appender.epochs], strict=False)
               if before is None or before.driver != e.driver]  # fmt: skip
    assert len(changes) == len(set(changes))
    assert sum(e.state is EpochState.OPEN for e in appender.epochs) <= 1
