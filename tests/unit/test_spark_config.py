"""What Spark is told of a spike: names that dashboards may rely on."""

from dataclasses import replace

import pytest
from builders import spike

from spike_pipelines.spark.config import common, fetch_bytes, kafka_consumer
from spike_pipelines.spark.environment import SparkEnvironment


def test_the_streaming_metrics_of_a_spike_have_a_name_that_stays_the_same_over_restarts():
    """By default Spark names them by the application's id, which each start makes anew."""
    one = spike("crt-payout-v1-1.0")
    told = common(one, SparkEnvironment())
    assert told["spark.metrics.namespace"] == "crt_payout_v1_1_0"
    assert told["spark.sql.streaming.metricsEnabled"] == "true"
    assert told["spark.metrics.conf.driver.sink.prometheusServlet.path"] == "/metrics/prometheus"
    again = common(replace(one, version="v2"), SparkEnvironment())
    assert again["spark.metrics.namespace"] == told["spark.metrics.namespace"]
    assert common(spike("other"), SparkEnvironment())["spark.metrics.namespace"] == "other"


def test_connector_jars_are_those_of_a_folder_or_a_list_however_long(tmp_path):
    """A list of jars below a long home is longer than any path may be."""
    jar = tmp_path / "a.jar"
    jar.touch()
    (tmp_path / "b.txt").touch()
    assert SparkEnvironment(spark_jars=str(tmp_path)).jars() == (str(jar),)
    many = [f"/home/{'x' * 100}/{number}.jar" for number in range(50)]
    assert SparkEnvironment(spark_jars=", ".join(many)).jars() == tuple(many)
    assert SparkEnvironment(spark_jars=str(jar)).jars() == (str(jar),)
    assert SparkEnvironment().jars() == ()


MIB = 1024**2


@pytest.mark.parametrize(
    ("memory", "partitions", "fetched"),
    [
        (512 * MIB, 2, 4 * MIB),
        (512 * MIB, 8, 4 * MIB),
        (512 * MIB, 128, MIB // 4),
        (2048 * MIB, 128, MIB),
        (512 * MIB, 5_000, MIB // 16),
    ],
)
def test_what_is_fetched_ahead_of_all_partitions_is_a_part_of_the_memory(memory, partitions, fetched):
    """Up to what is measured to be quick with few of them."""
    assert fetch_bytes(memory, partitions) == fetched
    told = kafka_consumer("broker:9092", fetched)
    assert told["kafka.max.partition.fetch.bytes"] == str(fetched)
    assert int(told["kafka.max.poll.records"]) == max(100, 5_000 * fetched // (4 * MIB))


def test_no_partition_is_as_one():
    assert fetch_bytes(512 * MIB, 0) == fetch_bytes(512 * MIB, 1)
