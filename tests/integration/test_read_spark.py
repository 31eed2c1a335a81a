"""Parquet that a real Spark wrote, with a column of every type, goes into an Iceberg table and comes back."""

from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from pyspark.sql import SparkSession
from spark_jvm import own_jvm

from spike_pipelines import read
from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.adapters.iceberg_schema import DEAD_LETTER_COLUMNS
from spike_pipelines.adapters.s3 import S3ObjectStore
from spike_pipelines.domain.ddl import render
from spike_pipelines.ports import LiveFile
from spike_pipelines.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.spark]

HOUR = datetime(2026, 11, 22, 21, tzinfo=UTC)
KAFKA = "kafka_partition INT, kafka_offset BIGINT, kafka_timestamp TIMESTAMP"
DDL = (
    "b BOOLEAN, i8 TINYINT, i16 SMALLINT, i32 INT, i64 BIGINT, f FLOAT, d DOUBLE, day DATE, at TIMESTAMP, "
    "wall TIMESTAMP_NTZ, s STRING NOT NULL, raw BINARY, price DECIMAL(10,2), small DECIMAL(38,18), "
    "geo STRUCT<country: STRING, at: STRUCT<lat: DOUBLE, lon: DOUBLE>>, tags ARRAY<STRING>, "
    "items ARRAY<STRUCT<sku: STRING, n: INT>>, attributes MAP<STRING, ARRAY<INT>>"
)
ROW = f"""
    SELECT true b, 1Y i8, 2S i16, 3 i32, 4L i64, 1.5F f, 2.5D d, DATE'2026-01-02' day,
           TIMESTAMP'2026-11-22 21:00:00.123456Z' at, TIMESTAMP_NTZ'2026-11-22 21:00:00' wall, 'text' s,
           X'FF00' raw, CAST(9.99 AS DECIMAL(10,2)) price, CAST(0.5 AS DECIMAL(38,18)) small,
           struct('de' country, struct(1.0D lat, 2.0D lon) at) geo, array('x', NULL) tags,
           array(struct('sku' sku, 1 n)) items, map('k', array(1, 2)) attributes,
           CAST(0 AS INT) kafka_partition, CAST(id AS BIGINT) kafka_offset,
           timestamp_seconds({int(HOUR.timestamp())} + id % 3600) kafka_timestamp
    FROM range(1000)
"""


@pytest.fixture(scope="module")
def session():
    builder = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "512m")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    )
    with own_jvm(builder.getOrCreate) as session:
        yield session


@pytest.fixture
def settings(monkeypatch, postgres, s3):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)


def upload(s3, folder, table):
    """The one file Spark wrote, as the ledger would know it."""
    (path,) = folder.glob("*.parquet")
    key, body = f"final/{table}/{path.name}", path.read_bytes()
    store = S3ObjectStore(s3.client())
    info = store.put("spike-lake", key, body)
    rows = store.footer("spike-lake", key, size=len(body), etag=info.etag).rows
    return LiveFile(f"s3://spike-lake/{key}", rows, len(body), HOUR)


class Ddl:
    """As much of a spike as a catalog looks at."""

    schema = DDL


def test_every_type_that_spark_writes_is_read_back(session, settings, s3, tmp_path):
    schema = session.createDataFrame([], f"{DDL}, {KAFKA}").schema
    frame = session.sql(ROW).to(schema).coalesce(1)
    frame.write.parquet(str(tmp_path / "final"))
    table = f"spark_{uuid4().hex[:8]}"
    file = upload(s3, tmp_path / "final", table)
    assert file.rows == 1000
    with closing(IcebergCatalog.connect(settings)) as catalog:
        catalog.ensure_table(table, Ddl(), dead_letters=False)
        assert catalog.publish(table, sequence=1, add=[file], remove=[], base=0)
    found = read.read(table, HOUR, settings=settings).sort_values("kafka_offset")
    assert found["kafka_offset"].tolist() == list(range(1000))
    first = found.iloc[0]
    assert (first["price"], first["small"], first["raw"]) == (Decimal("9.99"), Decimal("0.5"), b"\xff\x00")
    assert first["geo"] == {"country": "de", "at": {"lat": 1.0, "lon": 2.0}}
    assert list(first["tags"]) == ["x", None]
    assert [dict(item) for item in first["items"]] == [{"sku": "sku", "n": 1}]
    assert [(key, list(value)) for key, value in first["attributes"]] == [("k", [1, 2])]
    assert first["at"].isoformat() == "2026-11-22T21:00:00.123456+00:00"
    assert read.hours(table, settings=settings)["rows"].tolist() == [1000]


def test_dead_letters_that_spark_writes_are_read_back(session, settings, s3, tmp_path):
    row = {
        "kafka_topic": "t",
        "kafka_partition": 0,
        "kafka_offset": 7,
        "kafka_timestamp": datetime(1970, 1, 1, tzinfo=UTC),
        "routed_timestamp": HOUR,
        "key": None,
        "value": bytearray(b"\xffno json"),
        "reason": "malformed",
        "detail": "not JSON",
    }
    frame = session.createDataFrame([row], render(DEAD_LETTER_COLUMNS)).coalesce(1)
    frame.write.parquet(str(tmp_path / "dead"))
    name = f"spark_{uuid4().hex[:8]}"
    table = f"{name}_dead_letters"
    with closing(IcebergCatalog.connect(settings)) as catalog:
        catalog.ensure_table(table, Ddl(), dead_letters=True)
        file = upload(s3, tmp_path / "dead", table)
        assert catalog.publish(table, sequence=1, add=[file], remove=[], base=0)
    found = read.dead_letters(name, HOUR, settings=settings)
    assert found[["kafka_offset", "value"]].to_numpy().tolist() == [[7, b"\xffno json"]]
