"""The example on real parts: rows of an Iceberg table in, one object an hour in S3 out."""

import io
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR, NEXT_HOUR, spike
from test_read import put

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.examples import definitions as example
from spike_pipelines.orchestration.assets import partition_key
from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

SCHEMA = "publisher_id BIGINT, currency STRING, state STRING, amount DECIMAL(18,4)"


def rows(hour, *payouts):
    publishers, amounts = zip(*payouts, strict=True)
    count = len(payouts)
    return pa.table(
        {
            "publisher_id": pa.array(publishers, pa.int64()),
            "currency": pa.array(["EUR"] * count),
            "state": pa.array(["paid"] * count),
            "amount": pa.array(map(Decimal, amounts), pa.decimal128(18, 4)),
            "kafka_partition": pa.array([0] * count, pa.int32()),
            "kafka_offset": pa.array(range(count), pa.int64()),
            "kafka_timestamp": pa.array([hour] * count, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture
def platform(postgres, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("SPIKE_CATALOG_URL", postgres.url("iceberg"))
    monkeypatch.setenv("SPIKE_S3_ENDPOINT", s3.endpoint)
    return Platform(Settings.from_env())


@pytest.fixture
def payout(platform):
    """A spike whose table has three payouts in `HOUR` and one in `NEXT_HOUR`."""
    one = spike("payout")
    name = f"p{uuid4().hex[:10]}"
    return replace(
        one,
        schema=SCHEMA,
        dataset=replace(one.dataset, name=name),
        final=replace(one.final, bucket="spike-lake"),
    )


@pytest.fixture
def table(platform, payout, s3):
    name = payout.dataset.name
    with closing(IcebergCatalog.connect(platform.settings)) as catalog:
        catalog.ensure_table(name, payout, dead_letters=False)
        add = [
            put(s3, f"final/{name}/1", rows(HOUR, (7, "0.1"), (7, "0.2"), (1, "3")), HOUR),
            put(s3, f"final/{name}/2", rows(NEXT_HOUR, (9, "9")), NEXT_HOUR),
        ]
        catalog.publish(name, sequence=1, add=add, remove=[])
        yield catalog


def written(s3, hour):
    body = s3.client().get_object(Bucket="spike-lake", Key=example.object_key(hour))["Body"].read()
    return [
        (r["publisher_id"], r["payouts"], r["amount"]) for r in pq.read_table(io.BytesIO(body)).to_pylist()
    ]


def materialized(platform, payout, *hours):
    asset = example.payout_report(payout)
    keys = dg.PartitionKeyRange(partition_key(hours[0]), partition_key(hours[-1]))
    return dg.materialize(
        [asset],
        resources={"platform": platform},
        tags={
            "dagster/asset_partition_range_start": keys.start,
            "dagster/asset_partition_range_end": keys.end,
        },
    )


def test_a_range_of_hours_is_one_run_and_one_object_an_hour(platform, payout, table, s3):
    assert materialized(platform, payout, HOUR, NEXT_HOUR).success
    assert written(s3, HOUR) == [(1, 1, Decimal("3.0000")), (7, 2, Decimal("0.3000"))]
    assert written(s3, NEXT_HOUR) == [(9, 1, Decimal("9.0000"))]


def test_an_hour_that_changed_takes_the_place_of_what_was(platform, payout, table, s3):
    materialized(platform, payout, HOUR)
    late = put(s3, f"final/{payout.dataset.name}/3", rows(HOUR, (7, "1")), HOUR)
    table.publish(payout.dataset.name, sequence=2, add=[late], remove=[])
    materialized(platform, payout, HOUR)
    assert written(s3, HOUR)[1] == (7, 3, Decimal("1.3000"))
    found = s3.client().list_objects_v2(Bucket="spike-lake", Prefix="reports/")["Contents"]
    assert [o["Key"] for o in found if "21/" in o["Key"]] == [example.object_key(HOUR)]


def test_each_hour_of_a_run_tells_its_own_counts(platform, payout, table):
    made = materialized(platform, payout, HOUR, NEXT_HOUR).asset_materializations_for_node(
        "report__payouts_per_publisher"
    )
    told = {m.partition: m.metadata["payouts"].value for m in made}
    assert told == {partition_key(HOUR): 3, partition_key(NEXT_HOUR): 1}


def test_an_hour_without_a_payout_is_an_object_without_rows(platform, payout, table, s3):
    hour = HOUR - timedelta(hours=3)
    assert materialized(platform, payout, hour).success
    assert written(s3, hour) == []
