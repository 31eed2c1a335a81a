"""What Spark is told of a spike: names that dashboards may rely on."""

from dataclasses import replace

from builders import spike

from spike_pipelines.spark.config import common
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
