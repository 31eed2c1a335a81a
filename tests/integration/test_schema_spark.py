"""Our reading of schemas, and the producer's events, against Spark's own parsers."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as sql
from pyspark.sql import types as spark_types
from spark_jvm import own_jvm

from spike_pipelines.adapters.applications import load_applications
from spike_pipelines.domain.ddl import (
    Array,
    Column,
    DdlError,
    Decimal,
    Map,
    Primitive,
    Struct,
    Type,
    parse,
    render,
)
from spike_pipelines.producer.records import Flaw, Shares, make
from spike_pipelines.transforms.payout import normalise

pytestmark = pytest.mark.spark
SPIKES = load_applications(Path(__file__).parents[2] / "deployments" / "applications")
AT = datetime(2026, 6, 15, 12, tzinfo=UTC)
EVENTS = 1_000
NOT_A_RECORD = (Flaw.TRUNCATED, Flaw.NOT_JSON, Flaw.NOT_UTF8, Flaw.WRONG_TYPE)


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    settings = {
        "spark.driver.memory": "512m",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
    }
    with own_jvm(SparkSession.builder.master("local[1]").config(map=settings).getOrCreate) as session:
        yield session


PRIMITIVES: dict[type[spark_types.DataType], Primitive] = {
    spark_types.BooleanType: Primitive.BOOLEAN,
    spark_types.ByteType: Primitive.TINYINT,
    spark_types.ShortType: Primitive.SMALLINT,
    spark_types.IntegerType: Primitive.INT,
    spark_types.LongType: Primitive.BIGINT,
    spark_types.FloatType: Primitive.FLOAT,
    spark_types.DoubleType: Primitive.DOUBLE,
    spark_types.DateType: Primitive.DATE,
    spark_types.TimestampType: Primitive.TIMESTAMP,
    spark_types.TimestampNTZType: Primitive.TIMESTAMP_NTZ,
    spark_types.StringType: Primitive.STRING,
    spark_types.BinaryType: Primitive.BINARY,
}


def ours(kind: spark_types.DataType) -> Type:
    match kind:
        case spark_types.StructType():
            return Struct(columns(kind))
        case spark_types.ArrayType():
            return Array(ours(kind.elementType))
        case spark_types.MapType():
            return Map(ours(kind.keyType), ours(kind.valueType))
        case spark_types.DecimalType():
            return Decimal(kind.precision, kind.scale)
    return PRIMITIVES[type(kind)]


def columns(kind: spark_types.StructType) -> tuple[Column, ...]:
    return tuple(Column(f.name, ours(f.dataType), f.nullable, f.metadata.get("comment")) for f in kind.fields)


ACCEPTED = [
    *(spike.schema for spike in SPIKES),
    *(f"a {name}" for name in ("BOOLEAN", "byte", "SHORT", "tinyint", "smallint", "INTEGER", "LONG", "real")),
    "a FLOAT, b DOUBLE, c DATE, d TIMESTAMP_NTZ, e TIMESTAMP_LTZ, f BINARY, g DEC, h NUMERIC(7)",
    "a DECIMAL(38, 38), b DECIMAL(38)",
    "a STRUCT<b: STRUCT<c ARRAY<MAP<STRING, DECIMAL(4,2)>>>, `d-e` INT NOT NULL COMMENT 'x, \\'y\\''>",
    '`odd-name` INT COMMENT "it\'s", -- a comment\n /* another */ 2nd STRING NOT NULL, date DATE, map STRING',
]
REFUSED = [
    "", "a", "a INT,", "a INT b INT", "a STIRNG", "a STRUCT<b: INT", "a ARRAY INT", "a DECIMAL(39,2)",
    "a DECIMAL(5,6)", "a INT NOT", "a INT COMMENT b", "a-b INT", "a MAP<STRING>", "a INT)",
]  # fmt: skip


@pytest.mark.parametrize("schema", ACCEPTED)
def test_spark_reads_a_schema_as_we_do(spark, schema):
    assert parse(schema) == columns(spark_types.StructType.fromDDL(schema))


@pytest.mark.parametrize("schema", ACCEPTED)
def test_spark_reads_what_we_render(spark, schema):
    assert columns(spark_types.StructType.fromDDL(render(parse(schema)))) == parse(schema)


@pytest.mark.parametrize("schema", REFUSED)
def test_what_spark_refuses_we_refuse(spark, schema):
    with pytest.raises(DdlError):
        parse(schema)
    with pytest.raises((PySparkException, ValueError)):
        columns(_from_ddl(schema))


def _from_ddl(schema: str) -> spark_types.StructType:
    found = spark_types.StructType.fromDDL(schema)
    if not found.fields:
        raise ValueError("no columns")
    return found


@pytest.mark.parametrize("spike", SPIKES, ids=lambda spike: spike.topic)
def test_spark_parses_every_good_event_and_no_broken_one(spark, spike):
    records = [make(spike.topic, 3, n, AT, Shares(malformed=0.2)) for n in range(EVENTS)]
    rows = [(bytearray(r.value), r.flaw in NOT_A_RECORD) for r in records if r.value]
    schema = f"{spike.schema}, _corrupt STRING"
    parsed = sql.from_json(
        sql.col("value").cast("string"),
        schema,
        {"columnNameOfCorruptRecord": "_corrupt", "mode": "PERMISSIVE"},
    )
    frame = spark.createDataFrame(rows, "value BINARY, broken BOOLEAN").select("broken", parsed.alias("row"))
    told = frame.select("broken", sql.col("row._corrupt").isNotNull().alias("corrupt"))
    wrong = told.where("broken <> corrupt").count()
    assert wrong == 0
    assert told.where("broken").count() > 0


@pytest.mark.parametrize("spike", [s for s in SPIKES if s.filter], ids=lambda spike: spike.topic)
def test_filter_is_sql_on_the_schemas_columns_and_keeps_most(spark, spike):
    values = [(make(spike.topic, 3, n, AT, Shares(0, 0)).value.decode(),) for n in range(EVENTS)]
    row = sql.from_json("value", spike.schema).alias("row")
    kept = (
        spark.createDataFrame(values, "value STRING").select(row).select("row.*").where(spike.filter).count()
    )
    assert EVENTS * 0.9 < kept < EVENTS


def test_payout_transform_keeps_rows_and_columns_and_makes_currencies_one(spark):
    rows = spark.createDataFrame([(" EUR", 1), ("eur", 2), (None, 3)], "currency STRING, kafka_offset BIGINT")
    assert [tuple(r) for r in normalise(rows).collect()] == [("EUR", 1), ("EUR", 2), (None, 3)]
    assert normalise(rows).columns == rows.columns
