import re
from datetime import UTC, datetime

import pytest

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.registration import check_key
from spike_pipelines.driver.staging import new_attempt, staged_files
from spike_pipelines.ports import ObjectInfo, ParquetFooter

PREFIX = "staging/spike/7/"


class Listing:
    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def list(self, bucket, prefix):
        return iter([ObjectInfo(k, 10, "e") for k in self.keys if k.startswith(prefix)])

    def footer(self, bucket, key, *, size, etag):
        return ParquetFooter(rows=3)


def files(*keys: str):
    return staged_files(Listing(*(f"{PREFIX}{k}" for k in keys)), "bucket", PREFIX, "a1")


def test_files_have_key_kind_hour_and_rows():
    (found,) = files("a1/final/hour=491000/part-00000-x.c000.snappy.parquet")
    assert (found.kind, found.rows) == (FileKind.FINAL, 3)
    assert found.hour == datetime(2026, 1, 5, 8, tzinfo=UTC)
    assert found.key == "a1/final/hour=491000/part-00000-x.c000.snappy.parquet"


def test_other_attempts_are_not_listed():
    assert files("a2/final/hour=1/part-0.parquet", "a10/final/hour=1/part-0.parquet") == ()


def test_the_committers_own_objects_are_left_out():
    assert files("a1/final/_SUCCESS", "a1/final/", "a1/dead_letter/_SUCCESS") == ()


@pytest.mark.parametrize(
    "key", ["a1/final/part-0.parquet", "a1/other/hour=1/part-0.parquet", "a1/final/hour=1/x.csv"]
)
def test_object_that_no_task_writes_is_refused(key):
    with pytest.raises(InvariantBroken, match=re.escape(key)):
        files(key)


def test_no_two_attempts_at_a_batch_share_a_directory():
    assert new_attempt(3) != new_attempt(3)


def test_keys_are_such_as_the_appender_takes():
    check_key(f"{new_attempt(12)}/final/hour=491000/part-00000-a-b.c000.snappy.parquet", field="key")
