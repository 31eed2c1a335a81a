"""How far back a rewind goes, and what is read again."""

from datetime import UTC, datetime

import pytest
from builders import partition, topic
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import OffsetRange, Position
from spike_pipelines.domain.operations import Author, Move, check_readable, moves_to
from spike_pipelines.domain.rewind import (
    Aligned,
    Earliest,
    ToOffsets,
    Unit,
    align_down,
    align_up,
    bounded,
    joined,
    offsets_of,
    parse_target,
)

P, Q = partition(0), partition(1)


def unit(number, *ranges):
    return Unit((number,), tuple(OffsetRange(p, start, end) for p, start, end in ranges))


ONE_BY_ONE = [unit(1, (P, 0, 10)), unit(2, (P, 10, 20)), unit(3, (P, 20, 30))]


@pytest.mark.parametrize(
    ("point", "to", "superseded"),
    [
        (30, 30, ()),
        (29, 20, (3,)),
        (20, 20, (3,)),
        (19, 10, (2, 3)),
        (0, 0, (1, 2, 3)),
    ],
)
def test_a_point_within_a_batch_goes_down_to_its_start(point, to, superseded):
    assert align_down({P: point}, ONE_BY_ONE) == Aligned({P: to}, superseded)


@pytest.mark.parametrize(
    ("floor", "to", "superseded"),
    [(0, 0, (1, 2, 3)), (1, 10, (2, 3)), (10, 10, (2, 3)), (29, 30, ())],
)
def test_the_earliest_point_goes_up_to_the_next_batch_that_is_whole(floor, to, superseded):
    assert align_up({P: floor}, ONE_BY_ONE) == Aligned({P: to}, superseded)


def test_a_batch_goes_with_all_its_partitions_and_takes_along_what_lies_beyond():
    units = [unit(1, (P, 0, 10), (Q, 0, 10)), unit(2, (Q, 10, 20))]
    assert align_down({P: 5, Q: 20}, units) == Aligned({P: 0, Q: 0}, (1, 2))
    assert align_down({P: 10, Q: 15}, units) == Aligned({P: 10, Q: 10}, (2,))


def test_a_batch_that_stays_keeps_what_lies_before_it():
    units = [unit(1, (Q, 0, 10)), unit(2, (P, 0, 10), (Q, 10, 20)), unit(3, (P, 10, 20))]
    assert align_up({P: 5, Q: 0}, units) == Aligned({P: 10, Q: 20}, (3,))


def test_earliest_keeps_what_has_no_floor_because_its_topic_is_gone():
    units = [unit(1, (partition(topic_id="id-0"), 0, 10)), unit(2, (P, 0, 10))]
    assert align_up({P: 0}, units) == Aligned({P: 0}, (2,))


def test_a_file_of_a_swap_is_not_split():
    """Its unit has the ranges of all batches whose rows it holds."""
    swapped = Unit((1, 2), (OffsetRange(P, 0, 10), OffsetRange(P, 10, 20)))
    units = [swapped, ONE_BY_ONE[2]]
    assert align_down({P: 15}, units) == Aligned({P: 0}, (1, 2, 3))
    assert align_up({P: 5}, units) == Aligned({P: 20}, (3,))


def test_batches_whose_records_share_a_swaps_file_go_together_with_it():
    units = joined(ONE_BY_ONE, {9: frozenset({1, 2}), 11: frozenset({77})})
    assert [u.batches for u in units] == [(1, 2, 9), (3,)]
    assert align_down({P: 25}, units) == Aligned({P: 20}, (3,))
    assert align_down({P: 15}, units) == Aligned({P: 0}, (1, 2, 3, 9))
    assert align_up({P: 5}, units) == Aligned({P: 20}, (3,))


def test_swaps_that_share_a_batch_chain_their_batches():
    units = joined(ONE_BY_ONE, {9: frozenset({1, 3}), 8: frozenset({2, 3})})
    assert [u.batches for u in units] == [(1, 2, 3, 8, 9)]
    assert joined(ONE_BY_ONE, {}) == ONE_BY_ONE


def test_a_point_below_the_first_batch_is_kept_as_it_is():
    assert align_down({P: 3}, [unit(1, (P, 7, 10))]).points == {P: 3}


@st.composite
def histories(draw):
    """Batches over two partitions, each contiguous, in the order of their numbers."""
    ends, units = {P: 0, Q: 0}, []
    for number in range(draw(st.integers(1, 8))):
        chosen = draw(st.sets(st.sampled_from([P, Q]), min_size=1))
        ranges = []
        for p in sorted(chosen):
            size = draw(st.integers(1, 5))
            ranges.append((p, ends[p], ends[p] + size))
            ends[p] += size
        units.append(unit(number, *ranges))
    return units, ends


@given(histories(), st.data())
def test_what_stays_is_whole_contiguous_and_as_much_as_can_be(history, data):
    units, ends = history
    wanted = {p: data.draw(st.integers(0, end)) for p, end in ends.items()}
    for align in (align_down, align_up):
        aligned = align(wanted, units)
        stays = [u for u in units if u.batches[0] not in aligned.superseded]
        kept = dict.fromkeys(ends, 0)
        for u in stays:
            for r in u.ranges:
                assert r.start == kept[r.partition], "what stays has a hole"
                kept[r.partition] = r.end
        assert all(kept[p] == aligned.points[p] or kept[p] == 0 for p in ends)
        below = align is align_down
        for p in ends:
            assert aligned.points[p] <= wanted[p] if below else aligned.points[p] >= min(wanted[p], ends[p])


# targets


def test_targets_are_read_as_they_are_typed():
    assert parse_target("earliest") == Earliest()
    assert parse_target("2026-11-22T21:00:00Z") == datetime(2026, 11, 22, 21, tzinfo=UTC)
    assert parse_target("ad.payouts:0:10,ad.payouts:3:0") == ToOffsets("ad.payouts", {0: 10, 3: 0})


@pytest.mark.parametrize(
    "text", ["", "latest", "2026-11-22T21:00", "t:0", "t:0:x", "t:-1:3", "t:0:1,t:0:2", "t:0:1,u:1:2"]
)
def test_a_target_that_is_none_is_refused(text):
    with pytest.raises(InvalidSpec):
        parse_target(text)


def test_what_is_no_target_at_all_is_told_what_is_one():
    with pytest.raises(InvalidSpec, match=r"say earliest, a time as in .*, or topic:partition:offset"):
        parse_target("yesterday")


POSITIONS = {P: Position(P, 0, 40, 30)}


def test_a_rewind_goes_back_only():
    with pytest.raises(Refused, match="committed up to 30, 31 lies beyond"):
        offsets_of(ToOffsets("events", {0: 31}), POSITIONS)
    assert bounded({P: 35}, POSITIONS) == {P: 30}


def test_a_partition_that_is_not_read_is_named_with_those_that_are():
    with pytest.raises(Refused, match="events:7 is not read by this spike; it reads events:0"):
        offsets_of(ToOffsets("events", {7: 0}), POSITIONS)


def test_only_what_moves_is_a_move():
    rest = {P: Position(P, 0, 30, 30)}
    assert moves_to({P: 30}, rest) == ()
    assert moves_to({P: 30}, POSITIONS) == (Move(P, 40, 30, 30),)


# what Kafka still has

MOVE = Move(P, 40, 30, 20)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (None, "does not exist any more"),
        (topic(50, topic_id="other"), "was deleted and made again"),
        (topic(), "events:0 does not exist"),
        (topic(50, starts=[21]), "begin at 20, and Kafka's log starts at 21: 1 offset is gone"),
    ],
)
def test_what_cannot_be_read_again_is_refused_with_the_reason(seen, words):
    with pytest.raises(Refused, match=words):
        check_readable([MOVE], seen)


def test_what_kafka_has_can_be_read_again():
    check_readable([MOVE], topic(50, starts=[20]))


@pytest.mark.parametrize(("who", "why"), [("", "x"), ("x", " ")])
def test_nobody_and_no_reason_are_refused(who, why):
    with pytest.raises(InvalidSpec, match="who"):
        Author(who, why)
