"""Where a new dataset of an old topic begins, and what it goes without."""

import pytest
from builders import HOUR, partition, topic

from spike_pipelines.domain.fork import ForkLoses, check_loss, fork
from spike_pipelines.domain.offsets import OffsetRange


def r(start, end, index=0, topic_id="id-1"):
    return OffsetRange(partition(index, topic_id=topic_id), start, end)


KAFKA = topic(100, 50, starts=(20, 0))


def test_without_a_time_it_reads_all_that_kafka_has():
    found = fork(None, KAFKA, {}, [r(0, 90)])
    assert found.pieces == (r(20, 100), r(0, 50, 1))
    assert found.lost == (r(0, 20),)
    check_loss(found, accept_loss=False)


def test_from_a_time_on_it_reads_what_came_since():
    found = fork(HOUR, KAFKA, {partition(0): 60, partition(1): 50}, [r(55, 90)])
    assert (found.pieces, found.lost) == ((r(60, 100), r(50, 50, 1)), ())


def test_what_the_old_spike_has_of_that_time_and_kafka_has_not_is_refused_with_its_ranges():
    found = fork(HOUR, KAFKA, {partition(0): 20, partition(1): 0}, [r(5, 15), r(15, 90), r(0, 9, 1)])
    assert found.lost == (r(5, 20),)
    with pytest.raises(ForkLoses, match=r"since 2026-11-22T21 .* events:0\[5,20\): leave --from out"):
        check_loss(found, accept_loss=False)
    check_loss(found, accept_loss=True)


def test_a_topic_that_was_made_again_has_nothing_of_before():
    assert fork(HOUR, KAFKA, {}, [r(0, 9, 1, topic_id="id-0")]).lost == (r(0, 9, 1, topic_id="id-0"),)


def test_a_long_loss_is_told_in_short():
    found = fork(HOUR, KAFKA, {}, [r(2 * n, 2 * n + 1, topic_id="id-0") for n in range(25)])
    assert found.told_loss().endswith("and 5 more")
