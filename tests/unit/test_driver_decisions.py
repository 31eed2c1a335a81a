"""The decision tables of the driver, whole: every code the API can answer with has one row."""

from typing import get_args

import pytest

from spike_pipelines.domain.exits import Exit
from spike_pipelines.driver.backoff import (
    BACK_OFF,
    GIVE_UP_FAILURES,
    GIVE_UP_SECONDS,
    QUIET_SECONDS,
    Failures,
    back_off_seconds,
)
from spike_pipelines.driver.decisions import (
    MAX_WAIT_SECONDS,
    NewEpoch,
    ReadLess,
    Refusal,
    Retry,
    Stop,
    Wait,
    after_open,
    after_register,
)
from spike_pipelines.wire import ErrorCode

CODES = set(get_args(ErrorCode))
FENCED, REFUSED, INVALID = Stop(Exit.FENCED), Stop(Exit.REFUSED), Stop(Exit.INVALID)

OPEN = {
    "held": Wait(3.0),
    "fenced": FENCED,
    "topic_changed": REFUSED,
    "lost": REFUSED,
    "spec_changed": INVALID,
    "invalid": NewEpoch(),
    "bad_key": NewEpoch(),
    "duplicate": NewEpoch(),
    "malformed": NewEpoch(),
    "unsupported_media_type": NewEpoch(),
    "too_large": NewEpoch(),
    "too_slow": Retry(),
    "topic_missing": Retry(),
    "unauthorized": Retry(),
    "unknown_spike": Retry(),
    "unavailable": Retry(),
    "conflict": Retry(),
    "gap": Retry(),
    "overlap": Retry(),
    "too_many_staged": Retry(),
}
REGISTER = {
    "too_many_staged": Wait(3.0),
    "fenced": FENCED,
    "topic_changed": REFUSED,
    "lost": REFUSED,
    "spec_changed": NewEpoch(),
    "gap": NewEpoch(),
    "overlap": NewEpoch(),
    "conflict": NewEpoch(),
    "held": NewEpoch(),
    "invalid": NewEpoch(),
    "bad_key": NewEpoch(),
    "duplicate": NewEpoch(),
    "malformed": NewEpoch(),
    "unsupported_media_type": NewEpoch(),
    "too_large": ReadLess(),
    "too_slow": Retry(),
    "topic_missing": Retry(),
    "unauthorized": Retry(),
    "unknown_spike": Retry(),
    "unavailable": Retry(),
}


def test_tables_have_every_code():
    assert OPEN.keys() == REGISTER.keys() == CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_after_open(code):
    assert after_open(Refusal(code, "why", 3.0)) == OPEN[code]


@pytest.mark.parametrize("code", sorted(CODES))
def test_after_register(code):
    assert after_register(Refusal(code, "why", 3.0)) == REGISTER[code]


def test_only_fenced_exits_as_fenced():
    """Fenced is never success, and nothing else looks like it (FLINK-7784)."""
    for table in (OPEN, REGISTER):
        assert {code for code, action in table.items() if action == FENCED} == {"fenced"}
    assert len(set(Exit)) == len(Exit)
    assert Exit.FENCED != 0


@pytest.mark.parametrize(
    ("asked", "waits"), [(None, 2.0), (0.0, 0.1), (5.0, 5.0), (10_000.0, MAX_WAIT_SECONDS)]
)
def test_retry_after_is_honoured_within_bounds(asked, waits):
    assert after_register(Refusal("too_many_staged", "", asked)) == Wait(waits)


def test_back_off_doubles_up_to_its_cap():
    assert [back_off_seconds(n, lambda: 0.0) for n in (1, 2, 3, 4, 5, 6, 60)] == [1, 2, 4, 8, 16, 30, 30]


def test_jitter_takes_away_at_most_a_half():
    assert back_off_seconds(60, lambda: 1.0) == BACK_OFF.longest.total_seconds() / 2


def in_a_row(*times: float) -> Failures:
    failures = Failures()
    for at in times:
        failures = failures.add(at)
    return failures


def test_many_failures_in_a_short_time_are_not_hopeless():
    assert not in_a_row(*range(100)).hopeless()


def test_few_failures_over_a_long_time_are_not_hopeless():
    step = QUIET_SECONDS - 1
    assert not in_a_row(*(i * step for i in range(GIVE_UP_FAILURES - 1))).hopeless()


def test_many_failures_over_a_long_time_are_hopeless():
    step = GIVE_UP_SECONDS / (GIVE_UP_FAILURES - 1) + 1
    assert in_a_row(*(i * step for i in range(GIVE_UP_FAILURES))).hopeless()


def test_a_quiet_time_begins_a_new_row():
    assert in_a_row(0, 1, 2, 2 + QUIET_SECONDS + 1).count == 1
