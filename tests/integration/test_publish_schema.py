"""A table gets the columns that its files were written with, whatever file the publishing process has."""

from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pytest
from builders import BUCKET, HOUR, parquet
from rereading import backfilled
from test_nth_effect import lake as bucket_of
from test_project import project

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.domain.batch import BatchState, FileKind, HourCounts, StagedFile
from spike_pipelines.domain.binding import Written
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

OLD, NEW, NEVER_USED = "id BIGINT", "id BIGINT, note STRING", "id BIGINT, note BIGINT, more DATE"


@pytest.fixture
def lake(world, monkeypatch, postgres, s3):
    """The world with a real store and real Iceberg tables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    settings = Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)
    with closing(IcebergCatalog.connect(settings)) as catalog:
        world.catalog = catalog
        world.store = bucket_of(s3.client())
        yield world


@pytest.fixture
def spike(lake):
    """A dataset that no other test has, as its drivers' file describes it."""
    return lake.spike(f"t{uuid4().hex[:12]}", schema=NEW, version="2.0")


def of(spike, schema, version):
    """The file as a process has it that was started earlier, or later."""
    return replace(spike, schema=schema, version=version)


def staged(world, spike, *, note: str | None, after: int | None = None):
    """A driver of the file's version registers two rows."""
    driver = world.driver(spike, "a", after)
    batch = driver.write(2, 0, 0)
    column = {} if note is None else {"note": pa.array([note] * 2)}
    (r,) = batch.ranges
    body = parquet.__wrapped__(2, start=r.start, **column)
    key = f"{staging_prefix(spike, driver.token.number)}x.parquet"
    info = world.store.put(BUCKET, key, body)
    file = StagedFile("x.parquet", FileKind.FINAL, HOUR, 2, info.size, info.etag)
    hours = (HourCounts(HOUR, 2, 0, 0),)
    driver.register(replace(batch, files=(file,), hours=hours, application_version=spike.version))
    return driver


def columns(world, spike):
    names = [f.name for f in world.catalog.load(spike.dataset.name).schema().fields]
    return [name for name in names if not name.startswith("kafka_")]


def notes(world, spike):
    return sorted(world.catalog.load(spike.dataset.name).scan().to_pandas()["note"])


def test_a_process_with_the_file_of_before_commits_and_shows_a_column_that_is_new(lake, spike):
    staged(lake, spike, note="seen")
    lake.settle(of(spike, OLD, "1.0"))
    assert lake.ledger.last_batches(spike.name, 1)[0].state is BatchState.COMMITTED
    assert (columns(lake, spike), notes(lake, spike)) == (["id", "note"], ["seen", "seen"])


def test_a_process_with_a_later_file_gives_the_table_no_column_that_nobody_wrote(lake, spike):
    """By its file the table would have a column of a type that the drivers' may never follow."""
    staged(lake, spike, note="seen")
    lake.settle(of(spike, "id BIGINT, more DATE", "3.0"))
    assert columns(lake, spike) == ["id", "note"]
    lake.settle(of(spike, NEVER_USED, "3.1"))
    staged(lake, spike, note="again", after=1)
    lake.settle(of(spike, NEVER_USED, "3.1"))
    assert (columns(lake, spike), notes(lake, spike)) == (["id", "note"], ["again"] * 2 + ["seen"] * 2)


def test_batches_of_several_schemas_are_published_at_once(lake, spike):
    staged(lake, of(spike, OLD, "1.0"), note=None)
    staged(lake, spike, note="seen", after=1)
    lake.settle(of(spike, NEVER_USED, "3.1"))
    assert columns(lake, spike) == ["id", "note"]
    assert lake.catalog.load(spike.dataset.name).scan("note = 'seen'").to_arrow().num_rows == 2


def test_a_file_of_the_batchs_own_version_is_asked_before_what_the_appender_had_read(lake, spike):
    """The appender had the file of before when the epoch was opened: the driver wrote by its own."""
    late = of(spike, OLD, "2.0")
    staged(lake, late, note="seen")
    lake.settle(spike)
    assert (columns(lake, spike), notes(lake, spike)) == (["id", "note"], ["seen", "seen"])


def test_a_table_that_is_redone_has_the_columns_that_were_written(lake, spike):
    staged(lake, spike, note="seen")
    lake.promoter().promote(spike, limit=1)
    project(lake, of(spike, NEVER_USED, "3.1"))
    assert (columns(lake, spike), notes(lake, spike)) == (["id", "note"], ["seen", "seen"])


def test_the_ledger_tells_what_each_batch_was_written_with(world):
    spike = world.spike(schema=NEW, version="2.0")
    driver = world.driver(of(spike, OLD, "1.0"))
    for _ in range(2):
        driver.stage(4, 2, 1)
    world.settle(spike)
    backfilled(world, spike)
    world.driver(spike, "a", 1).stage()
    world.settle(spike)
    old, swap, new = Written("1.0", OLD), Written("2.0", NEW), Written("1.0", NEW)
    between = world.ledger.written_between
    assert between("payouts", current=0, target=9) == (old, swap, new)
    assert between("payouts", current=0, target=2) == (old,)
    assert between("payouts", current=2, target=3) == (swap,)
    assert between("payouts", current=4, target=9) == ()
    world.execute("DELETE FROM bindings")
    assert between("payouts", current=0, target=1) == (Written("1.0", None),)
