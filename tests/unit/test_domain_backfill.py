"""What the backfill of an hour reads again and replaces: a function of what the ledger and Kafka know."""

from datetime import timedelta

import pytest
from builders import HOUR, NEXT_HOUR, partition, topic

from spike_pipelines.domain import backfill
from spike_pipelines.domain.backfill import (
    Dead,
    Expired,
    Feed,
    HourFacts,
    Moved,
    check_hours,
    plan_hour,
    rounds,
    scan_problem,
)
from spike_pipelines.domain.batch import FileKind, FileState
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import LedgerFile


def r(start, end, index=0, topic_id="id-1"):
    return OffsetRange(partition(index, topic_id=topic_id), start, end)


def file(number, batch, rows=4):
    return LedgerFile(
        number,
        batch,
        FileKind.FINAL,
        HOUR,
        rows,
        9,
        FileState.LIVE,
        f"s/{number}",
        "e",
        f"f/{number}",
        "e",
        1,
    )


def facts(*feeds, files=(), moved=(), dead=()):
    return HourFacts(HOUR, tuple(files), feeds, tuple(moved), tuple(dead))


def plan(found, *, starts=(), ends=(100, 100), accept_loss=False, topic_id="id-1"):
    return plan_hour(found, topic(*ends, starts=starts, topic_id=topic_id), accept_loss=accept_loss)


def ids(files):
    return [f.id for f in files]


def test_an_hour_that_nothing_was_read_for_has_no_plan():
    assert plan(facts()) is None


def test_exactly_the_ranges_of_the_batches_that_fed_the_hour_are_read_again():
    found = plan(facts(Feed(1, (r(0, 10), r(0, 5, 1)), 8), Feed(4, (r(10, 20),), 3), files=[file(7, 1)]))
    assert found.pieces == (r(0, 20), r(0, 5, 1))
    assert (found.sources, ids(found.replaces), found.expected) == ((1, 4), [7], 11)


def test_a_batch_between_them_that_did_not_feed_the_hour_is_not_read():
    found = plan(facts(Feed(1, (r(0, 10),), 8), Feed(3, (r(20, 30),), 3)))
    assert found.pieces == (r(0, 10), r(20, 30))


def test_a_batch_of_filtered_records_only_is_read_again_too():
    found = plan(facts(Feed(1, (r(0, 10),), 8)))
    assert (found.sources, found.replaces, found.expected) == ((1,), (), 8)


def test_the_file_of_an_earlier_swap_is_replaced_with_all_it_was_made_of():
    earlier = Moved(9, frozenset({1, 2}), 0)
    found = plan(
        facts(Feed(1, (r(0, 10),), 8), Feed(2, (r(10, 20),), 3), files=[file(7, 9)], moved=[earlier])
    )
    assert (ids(found.replaces), found.expected) == ([7], 11)


def test_what_a_replay_moved_into_the_hour_is_expected_there():
    replay = Moved(9, frozenset({1, 2}), 2)
    feeds = (Feed(1, (r(0, 10),), 8), Feed(2, (r(10, 20),), 0))
    assert plan(facts(*feeds, files=[file(7, 9)], moved=[replay])).expected == 10


def test_what_kafka_no_longer_has_is_an_error_that_names_the_ranges_and_the_way_out():
    with pytest.raises(Expired, match=r"2026-11-22T21: .*events:0\[0,4\).*--accept-loss --why"):
        plan(facts(Feed(1, (r(0, 10),), 8), Feed(2, (r(10, 20),), 3)), starts=(4,))


@pytest.mark.parametrize("gone", ["topic", "incarnation", "partition"])
def test_a_topic_that_is_gone_or_another_one_has_nothing_of_it(gone):
    now = {"topic": None, "incarnation": topic(9, topic_id="id-2"), "partition": topic(9)}[gone]
    with pytest.raises(Expired, match=r"events:1\[0,10\)"):
        plan_hour(facts(Feed(1, (r(0, 10, 1),), 8)), now, accept_loss=False)


def test_with_accepted_loss_files_of_what_is_gone_stay_and_the_others_are_replaced():
    feeds = (Feed(1, (r(0, 10), r(0, 5, 1)), 8), Feed(2, (r(10, 20),), 3))
    found = plan(facts(*feeds, files=[file(6, 1), file(7, 2)]), starts=(4,), accept_loss=True)
    assert (ids(found.replaces), ids(found.kept)) == ([7], [6])
    assert (found.sources, found.pieces, found.expected) == ((2,), (r(10, 20),), 3)
    assert found.lost == (r(0, 4),)


def test_a_file_of_what_is_gone_and_what_is_not_is_refused_with_its_name():
    feeds = (Feed(1, (r(0, 10),), 8), Feed(2, (r(10, 20),), 3))
    made = Moved(9, frozenset({1, 2}), 0)
    with pytest.raises(
        Refused, match=r"f/7 holds records of batches 1, which Kafka no longer has, beside .* 2"
    ):
        plan(facts(*feeds, files=[file(7, 9)], moved=[made]), starts=(4,), accept_loss=True)


def test_where_nothing_can_be_read_again_accepting_the_loss_changes_nothing():
    with pytest.raises(Expired, match="its files stay as they are"):
        plan(facts(Feed(1, (r(0, 10),), 8), files=[file(6, 1)]), starts=(4,), accept_loss=True)


def test_a_released_batch_cannot_be_counted():
    with pytest.raises(Refused, match="batch 1 was released"):
        plan(facts(Feed(1, (r(0, 10),), 8, unaccounted=1)))


def test_dead_letters_of_batches_that_are_not_read_say_nothing():
    feeds = (Feed(1, (r(0, 10),), 8), Feed(2, (r(10, 20),), 3))
    dead = [Dead("a", frozenset({1})), Dead("b", frozenset({2}))]
    assert plan(facts(*feeds, dead=dead), starts=(4,), accept_loss=True).dead == ("b",)


def test_one_read_takes_one_piece_of_each_partition():
    pieces = (r(0, 1), r(5, 6), r(0, 3, 1), r(9, 10))
    assert rounds(pieces) == ((r(0, 1), r(0, 3, 1)), (r(5, 6),), (r(9, 10),))
    assert rounds(()) == ()


def test_too_many_places_of_a_partition_are_refused(monkeypatch):
    monkeypatch.setattr(backfill, "MOST_PIECES", 2)
    with pytest.raises(Refused, match="3 places of one partition"):
        rounds((r(0, 1), r(5, 6), r(9, 10)))


def test_hours_are_both_included():
    assert check_hours(HOUR, NEXT_HOUR, HOUR, NEXT_HOUR) == (HOUR, NEXT_HOUR)


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (HOUR, HOUR + timedelta(hours=3), "2026-11-23T00 has not begun: it is 2026-11-22T22:00 UTC"),
        (HOUR - timedelta(hours=2), HOUR, "before the dataset's start"),
        (NEXT_HOUR, HOUR, "is before --from"),
    ],
)
def test_hours_that_cannot_be_are_refused_clearly(first, last, said):
    with pytest.raises(InvalidSpec, match=said):
        check_hours(first, last, HOUR, NEXT_HOUR)


def test_more_hours_than_a_month_are_too_many():
    with pytest.raises(InvalidSpec, match="745 hours are too many"):
        check_hours(HOUR, HOUR + timedelta(hours=744), HOUR, HOUR + timedelta(days=99))


def test_every_offset_of_an_exact_topic_must_have_been_read():
    assert scan_problem([r(0, 10)], 10, exact_topic=True) is None
    assert scan_problem([r(0, 10)], 9, exact_topic=False) is None
    assert scan_problem([r(0, 10)], 9, exact_topic=True) == "read 9 records from 10 offsets"
    assert scan_problem([r(0, 10)], 11, exact_topic=False) == "read 11 records from 10 offsets"
