"""Hours older than the ledger: which there are, where they may lie, and when they may not be read."""

from datetime import timedelta

import pytest
from builders import HOUR, NEXT_HOUR, partition, topic

from spike_pipelines.domain.earlier import (
    EarlierFacts,
    Place,
    Survey,
    below,
    check_still_below,
    cut_off,
    deleted_from,
    older_hours,
)
from spike_pipelines.domain.errors import Refused
from spike_pipelines.domain.offsets import OffsetRange

P, Q = partition(0), partition(1)
BEGAN = HOUR + timedelta(minutes=30)


def place(start, end, records=1, hour=HOUR, p=P):
    return Place(hour, OffsetRange(p, start, end), records)


def test_hours_are_older_that_begin_before_the_spike_did_and_those_of_clocks_that_are_ahead():
    hours = [HOUR + timedelta(hours=n) for n in (2, 1, 0, -5)]
    facts = EarlierFacts(BEGAN, {P: 9})
    assert older_hours(hours, facts) == (HOUR - timedelta(hours=5), HOUR, NEXT_HOUR)
    assert older_hours(hours, EarlierFacts(BEGAN, {P: 9}, frozenset({HOUR}))) == (hours[3], NEXT_HOUR)
    assert older_hours(hours, EarlierFacts(None, {P: 9})) == ()


def test_what_lies_below_ends_where_the_spike_began():
    assert below({P: 4, Q: 12, partition(2): 0}, {P: 9, Q: 12}) == (OffsetRange(P, 4, 9),)
    assert below({P: 40}, {P: 9}) == (), "the lookup found a record of the live stream"


def test_a_place_that_the_live_stream_reads_is_refused():
    check_still_below([place(2, 9)], EarlierFacts(BEGAN, {P: 9}))
    for baselines in ({P: 8}, {Q: 9}):
        with pytest.raises(Refused, match=r"events:0\[2,9\) was taken into the live stream"):
            check_still_below([place(2, 9)], EarlierFacts(BEGAN, baselines))


def test_an_hour_is_cut_off_where_the_log_has_nothing_that_is_older():
    since, first = {P: 3, Q: 9}, {P: 3, Q: 4}
    assert cut_off(since, first) == (P,)
    assert cut_off({P: 3}, {P: 5}) == (P,), "deleted between the lookups"


def test_only_logs_that_were_deleted_from_below_the_begin_can_have_lost_of_it():
    facts = EarlierFacts(BEGAN, {P: 9, Q: 0})
    assert deleted_from(facts, topic(20, 20, starts=(3, 3))) == (P,)
    assert deleted_from(facts, topic(20, 20)) == ()
    assert deleted_from(facts, None) == ()


def test_a_survey_tells_each_hour_its_own():
    mine, other = place(0, 3), place(1, 5, hour=NEXT_HOUR)
    assert Survey(frozenset({HOUR, NEXT_HOUR}), (mine, other)).of(HOUR) == (mine,)
