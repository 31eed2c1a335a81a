"""A topic of many partitions that is far behind, and a driver with little memory, in a JVM of its own."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from test_spark_driver import driving, engine_parts, spike

from spike_pipelines.domain.spike import Resources

pytestmark = [pytest.mark.real, pytest.mark.spark, pytest.mark.timeout(600)]

TOPIC, PARTITIONS, BEHIND, SIZE = "wide", 80, 260, 20_000
SMALL = Resources(1, "512m")  # less than 80 consumers keep that fetch 4 MiB at once


@pytest.fixture(scope="module")
def stack(kafka, s3, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with engine_parts(kafka, s3, tmp_path_factory.mktemp("state"), SMALL) as parts:
        yield parts


def test_what_is_fetched_ahead_of_every_partition_fits_into_a_small_driver(stack):
    stack.kafka.create_topics({TOPIC: PARTITIONS})
    fill(stack)
    what = spike(TOPIC, driver=SMALL, max_offsets_per_trigger=PARTITIONS * 20)
    with driving(stack, what, dict.fromkeys(range(PARTITIONS), 0)) as run:
        run.appender.wait_for(lambda: min(run.appender.ends.values()) >= 60)
    assert sum(batch.read for batch in run.appender.batches) >= PARTITIONS * 60


def fill(stack) -> None:
    """By Spark, which is ten times as fast as a client in Python."""
    value = f"""concat('{{"id": "x", "keep": true, "tags": {{"padding": "', repeat('x', {SIZE}), '"}}}}')"""
    rows = stack.spark.range(0, PARTITIONS * BEHIND, numPartitions=4)
    records = rows.selectExpr(f"CAST(id % {PARTITIONS} AS INT) AS partition", f"{value} AS value")
    options = {"kafka.bootstrap.servers": stack.kafka.bootstrap, "topic": TOPIC}
    records.write.format("kafka").options(**options).save()
