"""Files that a table could not take, or that hold other records than registered: held before the commit."""

from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pytest
from builders import BUCKET, HOUR, NEXT_HOUR, Driver, parquet, parquet_of, stage_file

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.domain.batch import BatchState, FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

YEAR_57865_US = 1_763_900_000_000 * 1_000_000


def put(driver: Driver, key: str, body: bytes, rows: int, *, kind=FileKind.FINAL, hour=HOUR) -> StagedFile:
    prefix = staging_prefix(driver.spike, driver.token.number)
    return stage_file(driver.world.store, prefix, key, kind, hour, rows, body)


def held(world, driver) -> str:
    """The reason; nothing was committed, and nothing lies in the final place."""
    assert world.promoter().promote(driver.spike, limit=9) == ()
    (newest,) = world.ledger.last_batches(driver.spike.name, 1)
    assert newest.state is BatchState.HELD
    assert world.keys("final/") == []
    return newest.held_reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (parquet(2, NEXT_HOUR), "has rows of 2026-11-22T22"),
        (parquet(2, HOUR, 1), "has records of partition 1, "),
        (parquet(2, HOUR, 0, 5), "has offsets 5 to 6 of partition 0"),
    ],
)
@pytest.mark.parametrize("kind", list(FileKind))
def test_a_file_with_other_records_than_registered_is_held(world, kind, body, reason):
    driver = world.driver(world.spike())
    batch = driver.write(2 if kind is FileKind.FINAL else 0, 2 if kind is FileKind.DEAD_LETTER else 0, 0)
    (hour, _) = batch.hours
    number = {"final": 2} if kind is FileKind.FINAL else {"dead_letter": 2}
    hours = (replace(hour, **({"final": 0, "dead_letter": 0} | number)),)
    driver.register(replace(batch, files=(put(driver, "x.parquet", body, 2, kind=kind),), hours=hours))
    assert reason in held(world, driver)


def test_files_copied_under_another_name_do_not_double_their_records(world):
    driver = world.driver(world.spike())
    first = driver.write(4, 1, 1)
    driver.register(first)
    (r,) = first.ranges
    again = tuple(
        put(driver, f"again/{i}.parquet", body, f.rows, kind=f.kind, hour=f.hour)
        for i, f in enumerate(first.files)
        for body in [world.store._source(BUCKET, staging_prefix(driver.spike, 1) + f.key).body]
    )
    driver.register(replace(first, ranges=(OffsetRange(r.partition, r.end, r.end + 6),), files=again))
    assert len(world.promoter().promote(driver.spike, limit=9)) == 1
    assert "its batch read" in world.ledger.last_batches("payouts", 1)[0].held_reason


def of_two_partitions(driver: Driver, places) -> None:
    """A batch of 3 offsets of partition 0 and 6 of partition 1, in one file with records of `places`."""
    by_index = {p.index: p for p in driver.ends}
    file = put(driver, "both.parquet", parquet_of(places), 9)
    driver.register(
        NewBatch(
            (OffsetRange(by_index[0], 0, 3), OffsetRange(by_index[1], 0, 6)),
            (file,),
            9,
            (HourCounts(HOUR, 9, 0, 0),),
            "1.0",
        )
    )


SECOND = [(1, i) for i in range(6)]


def test_a_file_of_several_partitions_with_the_records_of_each_is_committed(world):
    driver = world.driver(world.spike(partitions=2))
    of_two_partitions(driver, [(0, 0), (0, 1), *SECOND, (0, 2)])
    assert len(world.promoter().promote(driver.spike, limit=9)) == 1


def test_a_record_that_only_another_partitions_range_has_is_seen_before_the_commit(world):
    """The footer says: partitions 0 to 1, offsets 0 to 5, nine rows. So it is of the batch, too."""
    driver = world.driver(world.spike(partitions=2))
    of_two_partitions(driver, [(0, 0), (0, 1), *SECOND, (0, 3)])
    assert "has offsets 0 to 3 of partition 0, its batch read" in held(world, driver)


def test_a_partition_between_those_of_the_batch_is_seen_before_the_commit(world):
    driver = world.driver(world.spike(partitions=3))
    by_index = {p.index: p for p in driver.ends}
    file = put(driver, "both.parquet", parquet_of([(0, 0), (1, 1), (2, 0)]), 3)
    ranges = (OffsetRange(by_index[0], 0, 2), OffsetRange(by_index[2], 0, 1))
    driver.register(NewBatch(ranges, (file,), 3, (HourCounts(HOUR, 3, 0, 0),), "1.0"))
    assert "has records of partition 1, its batch read [0, 2]" in held(world, driver)


@pytest.fixture
def lake(world, monkeypatch, postgres, s3):
    """The world with a real store and real Iceberg tables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    settings = Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)
    with closing(IcebergCatalog.connect(settings)) as catalog:
        world.catalog = catalog
        yield world


def spike_of(world, schema):
    """A dataset that no other test has."""
    name = f"t{uuid4().hex[:12]}"
    return world.spike(name, schema=schema)


def register(driver: Driver, column: pa.Array) -> None:
    batch = driver.write(2, 0, 0)
    (hour, _) = batch.hours
    body = parquet.__wrapped__(2, x=column)
    driver.register(
        replace(batch, files=(put(driver, "x.parquet", body, 2),), hours=(replace(hour, final=2),))
    )


def instants(*micros: int) -> pa.Array:
    return pa.array(micros, pa.int64()).cast(pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    ("schema", "column", "reason"),
    [
        ("id BIGINT, x TIMESTAMP", instants(0, YEAR_57865_US), "out of range"),
        ("id BIGINT, x DATE", pa.array([0, 6_585_000], pa.int32()).cast(pa.date32()), "out of range"),
        ("id BIGINT, x DECIMAL(18,4)", pa.array(["1", "2"]), "x: optional decimal(18, 4)"),
        ("id BIGINT", pa.array([1, 2], pa.int64()), "x"),
    ],
)
def test_a_file_that_the_table_could_not_take_is_held_with_the_reason(lake, schema, column, reason):
    driver = lake.driver(spike_of(lake, schema))
    register(driver, column)
    assert reason in held(lake, driver)
