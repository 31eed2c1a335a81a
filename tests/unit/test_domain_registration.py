"""What a driver may register."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from builders import HOUR, NEXT_HOUR, new_batch, partition, staged_file, topic

from spike_pipelines.domain.batch import FileKind, HourCounts
from spike_pipelines.domain.errors import Refused, TopicChanged
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.registration import check_against_broker, check_batch, check_key

HOSTILE_KEYS = [
    "", "/", "/etc/passwd", "a//b", "a/", "//a", "..", "../a", "a/../b", "a/..", "./a", "a/./b", ".",
    "%2e%2e/a", "a%2Fb", "a\\b", "a\x00b", "a\nb", "a\n", "a\r", "a\tb", "a b", " a", "ä.parquet",
    "a\u2028b", "a\u202eb", "\uff0e\uff0e/a", "s3://bucket/a", "http://x/a", "a?versionId=1", "a#b",
    "a&b", "a+b", "a:b", "a*b", "~/a", "$(a)", "'a'", '"a"', "a;b", "<a>", "a|b", "..\\a", "a\u200b",
]  # fmt: skip
PLAIN_KEYS = [
    "a",
    "a/b",
    "attempt_1/hour=2026-11-22T21/part-0.c000.snappy.parquet".replace("T", "-"),
    "..a",
    "a..",
]


@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=ascii)
def test_a_key_that_leaves_its_prefix_or_needs_escaping_is_refused(key):
    with pytest.raises(Refused) as refused:
        check_key(key, field="files[0].key")
    assert refused.value.field == "files[0].key"


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_a_plain_relative_key_is_accepted(key):
    check_key(key, field="")


def refused_field(batch) -> str | None:
    with pytest.raises(Refused) as refused:
        check_batch(batch)
    return refused.value.field


def counted(hour=HOUR):
    return [HourCounts(hour, 10, 0, 0)]


def test_a_batch_that_agrees_with_itself_is_accepted():
    check_batch(new_batch(files=[staged_file()], hours=counted()))
    check_batch(new_batch())


def test_a_partition_listed_twice_is_refused():
    r = OffsetRange(partition(), 0, 5), OffsetRange(partition(), 5, 9)
    assert refused_field(new_batch(*r)) == "ranges[1]"


def test_a_partition_listed_under_two_topic_ids_is_refused():
    r = OffsetRange(partition(), 0, 5), OffsetRange(partition(topic_id="other"), 0, 5)
    assert refused_field(new_batch(*r)) == "ranges[1]"


def test_an_empty_batch_is_refused():
    assert refused_field(new_batch(OffsetRange(partition(), 5, 5))) == "ranges"


def test_a_key_listed_twice_is_refused():
    batch = new_batch(files=[staged_file("a"), staged_file("b"), staged_file("a")], hours=counted())
    assert refused_field(batch) == "files[2].key"


def test_every_key_is_looked_at():
    batch = new_batch(files=[staged_file("a"), staged_file("../b")], hours=counted())
    assert refused_field(batch) == "files[1].key"


def test_a_file_of_half_an_hour_is_refused():
    odd = HOUR + timedelta(minutes=30)
    batch = new_batch(files=[staged_file(hour=odd)], hours=counted())
    assert refused_field(batch) == "files[0].hour"


@pytest.mark.parametrize("hours", [[HOUR, HOUR], [HOUR + timedelta(microseconds=1)]])
def test_hours_are_full_hours_each_once(hours):
    assert refused_field(new_batch(hours=[HourCounts(h, 0, 0, 5) for h in hours])) == "hours"


@pytest.mark.parametrize(
    ("counts", "field"),
    [
        (HourCounts(HOUR, 15, 3, 7), None),
        (HourCounts(HOUR, 14, 3, 7), "hours[1].final"),
        (HourCounts(HOUR, 16, 3, 7), "hours[1].final"),
        (HourCounts(HOUR, 15, 4, 7), "hours[1].dead_letter"),
        (HourCounts(HOUR, 15, 0, 10), "hours[1].dead_letter"),
    ],
)
def test_counts_of_each_hour_and_kind_are_the_rows_of_its_files(counts, field):
    files = [
        staged_file("a"),
        staged_file("b", rows=5),
        staged_file("c", kind=FileKind.DEAD_LETTER, rows=3),
        staged_file("d", hour=NEXT_HOUR, rows=1),
    ]
    made = new_batch(files=files, hours=[HourCounts(NEXT_HOUR, 1, 0, 0), counts])
    assert (refused_field(made) if field else check_batch(made)) == field


def test_an_hour_with_rows_counted_and_no_file_is_refused():
    assert refused_field(new_batch(hours=[HourCounts(HOUR, 1, 0, 9)])) == "hours[0].final"


def test_a_file_of_an_hour_without_counts_is_refused():
    batch = new_batch(files=[staged_file(hour=NEXT_HOUR)], hours=counted())
    assert refused_field(batch) == "files[0].hour"


def test_an_hour_outside_the_calendar_is_refused():
    first = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert refused_field(new_batch(files=[staged_file(hour=first)], hours=counted())) == "files[0].hour"
    assert refused_field(new_batch(hours=[HourCounts(first, 0, 0, 10)])) == "hours"


def test_counts_whose_sum_the_ledger_cannot_hold_are_refused():
    hours = [HourCounts(datetime(2026, 1, 1, h, tzinfo=UTC), 2**62, 0, 0) for h in range(4)]
    assert refused_field(new_batch(hours=hours)) == "hours"


def test_a_batch_up_to_the_brokers_end_is_accepted():
    check_against_broker(new_batch(OffsetRange(partition(), 0, 10)), topic(10))


def test_an_end_beyond_the_brokers_end_is_refused():
    with pytest.raises(Refused, match="ends beyond the broker's end offset 10") as refused:
        check_against_broker(new_batch(OffsetRange(partition(), 0, 11)), topic(10))
    assert refused.value.field == "ranges[0].end"


def test_a_partition_the_broker_does_not_have_is_refused():
    with pytest.raises(Refused) as refused:
        check_against_broker(
            new_batch(OffsetRange(partition(), 0, 5), OffsetRange(partition(1), 0, 5)), topic(10)
        )
    assert refused.value.field == "ranges[1].partition"


def test_another_spikes_topic_is_refused():
    with pytest.raises(Refused) as refused:
        check_against_broker(new_batch(OffsetRange(partition(topic="secret"), 0, 5)), topic(10))
    assert refused.value.field == "ranges[0].topic"


def test_another_incarnation_of_the_topic_is_topic_changed():
    with pytest.raises(TopicChanged):
        check_against_broker(new_batch(OffsetRange(partition(topic_id="old"), 0, 5)), topic(10))


def test_dead_letters_need_counts_too():
    dead = staged_file(kind=FileKind.DEAD_LETTER, hour=NEXT_HOUR)
    assert refused_field(new_batch(files=[dead], hours=counted())) == "files[0].hour"
