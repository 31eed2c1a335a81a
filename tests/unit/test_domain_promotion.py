"""Names of final files, conservation of records, and what to publish."""

import pytest
from builders import HOUR, NEXT_HOUR, partition, spike
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.batch import Batch, BatchState, Counts, FileKind, FileState
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import (
    LedgerFile,
    conservation_problem,
    final_key,
    plan_intents,
    publication,
)
from spike_pipelines.domain.spike import Location


def file(number=1, *, batch=7, kind=FileKind.FINAL, hour=HOUR, rows=6, added=None, removed=None):
    state = FileState.STAGED if added is None else FileState.LIVE
    return LedgerFile(
        number, batch, kind, hour, rows, 100, state, f"s/{number}", "e", added=added, removed=removed
    )


def batch(read=10, final=6, dead=3, filtered=1, offsets=10):
    return Batch(
        number=7, spike="s", lane="live", epoch=1, state=BatchState.STAGED,
        ranges=(OffsetRange(partition(), 0, offsets),), counts=Counts(read, final, dead, filtered),
        staged_at=HOUR,
    )  # fmt: skip


FILES = [file(1, rows=4), file(2, rows=2), file(3, kind=FileKind.DEAD_LETTER, rows=3)]


def problem(of=None, files=FILES, footers=None, exact=True):
    return conservation_problem(
        of or batch(), files, footers or {f.id: f.rows for f in files}, exact_topic=exact
    )


def test_counts_that_agree_are_no_problem():
    assert problem() is None


def test_a_batch_that_was_all_filtered_has_no_files_and_no_problem():
    assert problem(batch(10, 0, 0, 10), files=[]) is None


def test_the_footer_is_believed_and_not_the_driver():
    assert "s/2 has 1 row, the driver said 2" in problem(footers={1: 4, 2: 1, 3: 3})


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (batch(10, 7, 2, 1), "6 final rows, the driver said 7"),
        (batch(10, 6, 4, 0), "3 dead_letter rows, the driver said 4"),
        (batch(10, 6, 3, 2), "read 10 is not"),
        (batch(9, 6, 3, 1), "read 9 is not"),
    ],
)
def test_counts_that_do_not_agree_are_told(counts, sentence):
    assert sentence in problem(counts)


def test_more_records_than_offsets_is_a_problem_on_every_topic():
    for exact in (True, False):
        assert "read 10 records from 9 offsets" in problem(batch(offsets=9), exact=exact)


def test_fewer_records_than_offsets_is_a_problem_only_where_offsets_have_no_gaps():
    assert "topicHasGaps" in problem(batch(offsets=11))
    assert problem(batch(offsets=11), exact=False) is None


def test_a_missing_file_is_a_problem():
    assert problem(files=FILES[:2]) is not None


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 40), st.integers(0, 40))
def test_only_conserved_batches_pass(final, dead, filtered, read, offsets):
    """I8, restated: read = final + dead-letter + filtered = Σ(end - start)."""
    files = [file(1, rows=final), file(2, kind=FileKind.DEAD_LETTER, rows=dead)]
    found = problem(batch(read, final, dead, filtered, offsets), files=files)
    assert (found is None) == (read == final + dead + filtered == offsets)


def test_final_keys_have_table_hour_and_batch_number():
    made = file(batch=42, hour=NEXT_HOUR)
    assert final_key(spike("t"), made, 3) == "final/t/hour=2026-11-22T22/000000000042-0003.parquet"
    dead, top = file(batch=42, kind=FileKind.DEAD_LETTER), spike("t", final=Location("lake", ""))
    assert final_key(top, dead, 0) == "t_dead_letters/hour=2026-11-22T21/000000000042-0000.parquet"


def test_every_run_plans_the_same_keys_and_no_two_files_share_one():
    plan = plan_intents(spike(), FILES)
    assert plan == plan_intents(spike(), reversed(FILES))
    assert len({i.final_key for i in plan}) == len(FILES)
    other = plan_intents(spike(), [file(9, batch=8)])
    assert not {i.final_key for i in plan} & {i.final_key for i in other}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(0, 9)), max_size=12),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_a_publication_brings_any_sequence_number_to_any_later_one(spans, a, b):
    current, target = sorted((a, b))
    files = [
        file(i, added=added, removed=None if later is None else added + later + 1)
        for i, (added, later) in enumerate(spans)
    ]

    def live(at):
        return {f.id for f in files if f.added <= at and (f.removed is None or f.removed > at)}

    plan = publication(files, current=current, target=target)
    add, remove = {f.id for f in plan.add}, {f.id for f in plan.remove}
    assert (live(current) | add) - remove == live(target)
    assert not add & live(current)
    assert remove <= live(current)


def test_files_that_are_not_committed_are_never_published():
    assert publication([file()], current=0, target=99).add == ()
