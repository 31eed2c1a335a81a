"""When a record arrived, by its stamps and by what looks saw: no clock but the ledger's is trusted."""

from bisect import bisect_right
from datetime import timedelta
from itertools import pairwise

import pytest
from builders import HOUR, partition, spike, topic
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.arrival import EVERY, MEMORY, Watermarks, arrived_at, kept
from spike_pipelines.domain.lag import LagFacts, LagVerdict, Life
from spike_pipelines.domain.lag_verdict import judge
from spike_pipelines.domain.offsets import Position, RecordTime


def ago(seconds):
    return HOUR - timedelta(seconds=seconds)


def look(seconds, *ends, topic_id="id-1", took=0):
    return Watermarks(ago(seconds + took), ago(seconds), topic_id, ends)


def report(looks, *, stamped, offset=90, committed=90, marks=None, **changes):
    """Of a spike that has committed all before `offset`; the log ends at 100."""
    return judge(
        LagFacts(
            spike=spike(),
            positions={partition(): Position(partition(), 0, committed, committed)},
            topic=topic(100),
            first_uncommitted={partition(): RecordTime(offset, ago(stamped))},
            first_unstaged={partition(): RecordTime(offset, ago(stamped))},
            life=Life(running=True, opened_at=ago(5 * 3600)),
            read={},
            retention=timedelta(days=7),
            last_commit_at=ago(5),
            watermarks=tuple(looks),
            high_watermarks={0: 100} if marks is None else marks,
            asked_at=HOUR,
            **changes,
        ),
        HOUR,
    )


# clock skew between broker and host


def test_a_clock_that_is_ten_minutes_behind_makes_a_healthy_spike_no_late_one():
    """It is read within seconds of its arrival; the last look, a quarter of a minute ago, ended before it."""
    seen = report([look(75, 60), look(15, 90)], stamped=600 + 5)
    assert (seen.verdict, seen.lag_seconds) == (LagVerdict.OK, 15)


def test_a_clock_that_is_ahead_does_not_hide_what_an_earlier_look_saw():
    seen = report([look(180, 60), look(120, 95), look(60, 100)], stamped=-300)
    assert seen.lag_seconds == 120


def test_without_a_look_from_before_the_stamps_are_all_there_is():
    assert report([], stamped=605).lag_seconds == 605
    assert report([look(15, 91)], stamped=605).lag_seconds == 605


def test_a_stamp_that_agrees_with_the_looks_is_exact():
    assert report([look(75, 60), look(15, 95)], stamped=40).lag_seconds == 40


def test_a_look_counts_from_when_it_began():
    """The record may have come while the broker was asked."""
    assert report([look(15, 90, took=4)], stamped=605).lag_seconds == 19


def test_a_record_that_nobody_saw_and_that_is_stamped_in_the_future_has_no_known_age():
    assert report([look(60, 90)], stamped=-40).verdict is LagVerdict.UNKNOWN


def test_retention_goes_by_the_stamps_as_kafka_does():
    """What is stamped ten minutes too old is deleted ten minutes early."""
    seen = report([look(15, 90)], stamped=605)
    assert seen.time_to_loss_seconds == timedelta(days=7).total_seconds() - 605


def test_looks_at_another_topic_of_that_name_are_no_witness():
    assert report([look(15, 90, topic_id="other")], stamped=605).lag_seconds == 605


def test_looks_from_before_a_partition_was_added_say_nothing_of_it():
    assert arrived_at(RecordTime(0, ago(605)), 1, [look(15, 90)]) == ago(605)


def test_the_first_record_behind_the_ends_of_transactions_has_an_offset_of_its_own():
    """The committed end is 90, the record stands at 95: what lies between is no record."""
    assert report([look(15, 95)], stamped=605, offset=95).lag_seconds == 15


# what is kept


def test_a_look_is_kept_with_the_report_for_the_next_one():
    assert report([look(60, 80)], stamped=5).watermarks == (look(60, 80), look(0, 100))


def test_what_belongs_to_an_open_transaction_has_arrived():
    """Three records beyond what can be read. Once the transaction has ended, they are not young."""
    assert report([], stamped=5, marks={0: 103}).watermarks == (look(0, 103),)
    assert report([look(600, 90), look(540, 93)], stamped=570, offset=92).lag_seconds == 570


def test_a_broker_that_does_not_answer_takes_no_look_away():
    seen = report([look(60, 80)], stamped=5)
    blind = LagFacts(spike(), {}, None, {}, Life(None), {}, {}, watermarks=seen.watermarks)
    assert judge(blind, HOUR).watermarks == seen.watermarks


def test_a_log_whose_end_went_back_is_no_witness():
    assert kept([look(120, 50, 9), look(60, 100, 9)], look(0, 80, 9)) == ()
    assert kept((), look(0, 85, 9)) == (look(0, 85, 9),)


@pytest.mark.parametrize(
    "gone",
    [look(60, 50, topic_id="other"), look(MEMORY.total_seconds() + 1, 50), look(-1, 50), look(0, 50)],
)
def test_looks_of_another_topic_of_long_ago_or_of_a_clock_that_went_back_are_forgotten(gone):
    assert kept([gone], look(0, 80)) == (look(0, 80),)


def test_a_partition_that_was_added_is_seen_from_the_next_look_on():
    assert kept([look(60, 50)], look(0, 80, 3)) == (look(60, 50), look(0, 80, 3))


@given(st.lists(st.floats(1, 600), min_size=1, max_size=600))
def test_few_looks_are_kept_the_newest_always_and_none_is_far_from_the_next(waits):
    looks, now, longest = (), 0.0, max(waits)
    for wait in waits:
        now += wait
        looks = kept(looks, Watermarks(HOUR, HOUR + timedelta(seconds=now), "id-1", (0,)))
    ages = [now - (x.at - HOUR).total_seconds() for x in looks][::-1]
    assert ages[0] == pytest.approx(0, abs=1e-3)
    assert len(ages) <= 40
    for newer, older in pairwise(ages):
        assert older - newer <= max(EVERY.total_seconds(), newer / 2, longest) + 1e-3


# the truth, under any skew


LOOKS_EVERY = 60.0


def watched(arrivals, until):
    """Looks at a log to which records came then, each minute, as they are kept at last."""
    looks, now = (), 0.0
    while now <= until:
        ends = (bisect_right(arrivals, now),)
        looks = kept(
            looks, Watermarks(HOUR + timedelta(seconds=now), HOUR + timedelta(seconds=now), "i", ends)
        )
        now += LOOKS_EVERY
    return looks


@given(
    st.lists(st.floats(0, 3600), min_size=1, max_size=40).map(sorted),
    st.floats(-12 * 3600, 12 * 3600),
    st.data(),
)
def test_under_any_skew_the_age_is_true_to_one_look_and_never_too_small_for_a_clock_that_is_behind(
    arrivals, skew, data
):
    now = arrivals[-1] + data.draw(st.floats(0, 3600))
    offset = data.draw(st.integers(0, len(arrivals) - 1))
    truth = now - arrivals[offset]
    stamped = HOUR + timedelta(seconds=arrivals[offset] + skew)
    arrival = arrived_at(RecordTime(offset, stamped), 0, watched(arrivals, now))
    age = now - (arrival - HOUR).total_seconds()
    one_look = max(LOOKS_EVERY, truth / 2) + 1e-3  # looks of long ago are thinned
    assert age <= truth + max(-skew, 0) + 1e-3
    if skew <= 0:
        assert age >= truth - 1e-3
    if arrivals[offset] > LOOKS_EVERY:  # there was a look before it
        assert age <= truth + one_look
    if arrival <= HOUR + timedelta(seconds=now):  # else it is called unknown
        assert age >= truth - one_look
