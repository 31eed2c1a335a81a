"""What may be asked of offsets, and the answer to what may not."""

import pytest
from builders import partition

from spike_pipelines.domain.asked_offsets import check_offsets, parse_offsets
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.offsets import OffsetRange, Position

POSITIONS = {
    partition(0): Position(partition(0), 10, 100, 90),
    partition(1): Position(partition(1), 0, 0, 0),
    partition(2, topic_id="old"): Position(partition(2, topic_id="old"), 0, 50, 50, closed=True),
}


def asked(text):
    return check_offsets(parse_offsets(text), "events", POSITIONS)


def test_ranges_are_half_open_and_of_the_topic_as_it_is():
    assert asked("events:0:10-20, events:0:80-90") == (
        OffsetRange(partition(0), 10, 20),
        OffsetRange(partition(0), 80, 90),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("events:0", "'events:0' is not topic:partition:start-end"),
        ("events:0:5", "is not topic:partition:start-end"),
        ("events:0:20-10", "no offset is from 20 up to 10"),
        ("events:0:20-20", "no offset is from 20 up to 20"),
        ("events:0:10-20,", "'' is not topic:partition:start-end"),
        ("others:0:10-20", "others: the spike reads topic events"),
        ("events:7:10-20", "no partition 7 that the spike reads: there are 0, 1"),
        ("events:2:10-20", "no partition 2 that the spike reads"),
        ("events:0:80-91", "91 is beyond 90, which the spike has committed"),
        ("events:0:9-20", "9 is below 10, where the spike began: ask for its hours"),
        (",".join(["events:0:10-20"] * 101), "101 ranges are too many"),
    ],
)
def test_what_was_not_read_is_refused_with_what_was(text, told):
    with pytest.raises(InvalidSpec, match=told):
        asked(text)


def test_a_spike_that_has_read_nothing_says_so():
    with pytest.raises(InvalidSpec, match="there are none yet"):
        check_offsets(parse_offsets("events:0:1-2"), "events", {})
