"""What may be deleted, rule by rule; whatever is in doubt stays."""

from dataclasses import replace
from datetime import timedelta

import pytest

from spike_pipelines.domain.batch import BatchState
from spike_pipelines.domain.retention import (
    EpochPlace,
    OrdersPlace,
    StagedFacts,
    Staging,
    SwapPlace,
    invisible_since,
    judge_staged,
    place_of,
)

GRACE = timedelta(hours=24)
OLD, YOUNG = timedelta(days=9), timedelta(hours=1)
UUID = "0" * 32
ORPHAN = StagedFacts(EpochPlace(3, "000007-"), OLD, over=True)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        (f"00000003/000007-{UUID}/final/hour=1/part-0.parquet", EpochPlace(3, "000007-")),
        (f"00000003/1234567-{UUID}/_SUCCESS", EpochPlace(3, "1234567-")),
        ("00000003/__magic_job-1/x", EpochPlace(3, None)),
        (f"replay-12/000000-{UUID}/final/x", SwapPlace(12)),
        ("backfill-4/x", SwapPlace(4)),
        ("earlier-5/x", SwapPlace(5)),
        ("orders/payouts-bf-1/order-1.json", OrdersPlace()),
        ("notes.txt", None),
        ("3/000007-x", None),
        ("replay-x/000000", None),
    ],
)
def test_a_key_tells_its_place(key, place):
    assert place_of(key) == place


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, Staging.REMOVE_OVER),
        ({"age": YOUNG}, Staging.KEEP_YOUNG),
        ({"age": None}, Staging.KEEP_YOUNG),
        ({"place": None}, Staging.KEEP_UNKNOWN),
        ({"over": False}, Staging.KEEP_OPEN),
        ({"over": False, "other_attempt": True}, Staging.REMOVE_OTHER),
        ({"over": False, "other_attempt": True, "age": YOUNG}, Staging.KEEP_YOUNG),
        *(({"state": s}, Staging.KEEP_WAITING) for s in (BatchState.STAGED, BatchState.INTENDED)),
        ({"state": BatchState.HELD}, Staging.KEEP_WAITING),
        ({"state": BatchState.COMMITTED}, Staging.KEEP_WAITING),
        ({"state": BatchState.COMMITTED, "cleaned": True}, Staging.REMOVE_CLEANED),
        ({"state": BatchState.ABORTED}, Staging.REMOVE_ABORTED),
        ({"state": BatchState.ABORTED, "age": YOUNG}, Staging.KEEP_YOUNG),
    ],
)
def test_staged_objects_go_by_these_rules(changes, verdict):
    assert judge_staged(replace(ORPHAN, **changes), GRACE) is verdict


def test_only_removals_remove():
    assert {v for v in Staging if v.removes} == {
        Staging.REMOVE_OVER, Staging.REMOVE_OTHER, Staging.REMOVE_ABORTED, Staging.REMOVE_CLEANED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("published", "readable", "shown", "until"),
    [(9, 9, 9, 9), (9, 4, 9, 4), (4, 9, 9, 4), (9, 0, 9, 0), (9, 9, 3, 3)],
)
def test_a_file_is_invisible_once_published_as_gone_and_out_of_every_snapshot(
    published, readable, shown, until
):
    assert invisible_since(published, readable, shown) == until
