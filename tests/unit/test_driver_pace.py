"""How much a batch reads after one that the appender could not take."""

from spike_pipelines.domain.errors import BatchTooLarge, Transient
from spike_pipelines.driver.pace import Pace

TOO_LARGE = BatchTooLarge("10,001 files")
WHOLE = Pace(100_000)


def test_a_batch_that_is_too_large_is_halved_until_it_fits_and_the_whole_is_restored_after_a_success():
    pace, read = WHOLE, 9_000  # what was there to be read
    seen = []
    while read > 1_500:
        pace = pace.after(TOO_LARGE, registered=False, offsets=read)
        read = min(read, pace.max_offsets(4))
        seen.append(read)
    assert seen == [4_500, 2_250, 1_125]
    assert pace.after(Transient("S3"), registered=False, offsets=0) == pace
    assert pace.after(Transient("S3"), registered=True, offsets=1_125) == WHOLE


def test_each_partition_may_always_read_one_record():
    pace = WHOLE
    for _ in range(99):
        pace = pace.after(TOO_LARGE, registered=True, offsets=pace.max_offsets(7))
    assert pace.max_offsets(7) == 7


def test_nothing_too_large_changes_nothing():
    assert WHOLE.after(None, registered=True, offsets=5) == WHOLE
    assert WHOLE.max_offsets(3) == 100_000
