"""What staging a batch costs with each committer, and with no protocol at all.

    python bench/bench_committer.py [--records 200000] [--batches 6] [--hours 1] [--latency-ms 0]

Starts a Kafka and an S3 of its own. Reads the same records from Kafka in the same batches, and prints
for each way seconds a batch (the first one, which compiles, apart), CPU seconds for a million records of
the whole process tree, and S3 requests a batch by kind, counted by a proxy in front of the store, which
can also delay each of them (`--latency-ms`): a store on loopback answers in less time than one far away.

`bare` is Spark's own in-place writer of parsed records: no dead letters, no counts, no routing by hour.
"""

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from kafka import KafkaProducer
from pyspark import SparkConf
from pyspark.sql import DataFrame, SparkSession

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import running

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.domain import ddl
from spike_pipelines.spark import config
from spike_pipelines.spark.batch import Plan, classified, counted, write
from spike_pipelines.spark.environment import Environment
from spike_pipelines.stack.jars import spark_jars
from spike_pipelines.stack.parts.kafka import PORTS as KAFKA_PORTS
from spike_pipelines.stack.parts.kafka import Kafka
from spike_pipelines.stack.parts.s3 import PORTS as S3_PORTS
from spike_pipelines.stack.parts.s3 import S3, S3Ports
from spike_pipelines.stack.ports import remembered

APPLICATION = Path(__file__).parents[1] / "deployments/applications/crt-session-v1-1.0.yaml"
PARTITIONS = 2


@dataclass
class Proxy:
    """Passes requests on to the store, counts them by kind, and delays each."""

    endpoint: str
    latency_seconds: float

    def __post_init__(self) -> None:
        self.requests: Counter[str] = Counter()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        kind = request.command
        kind = "COPY" if "x-amz-copy-source" in request.headers else kind
        kind = "LIST" if kind == "GET" and "list-type" in request.path else kind
        self.requests[kind] += 1
        threading.Event().wait(self.latency_seconds)
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        upstream = HTTPConnection(self.endpoint.removeprefix("http://"), timeout=60)
        upstream.request(request.command, request.path, body, dict(request.headers))
        answer = upstream.getresponse()
        content = answer.read()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "date", "server"} and not (
                name.lower() == "content-length" and request.command != "HEAD"
            ):
                request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
        upstream.close()


def session(proxy: Proxy, s3: S3, committer: dict[str, str]) -> SparkSession:
    spike = load_application(APPLICATION)
    env = Environment(
        driver_id="bench",
        token="none",
        appender_url="none",
        kafka_bootstrap="none",
        s3_endpoint=proxy.url,
        spark_jars=",".join(str(jar) for jar in spark_jars()),
        state_dir=Path(tempfile.mkdtemp(prefix="spike-bench-")),
    )
    settings = {
        **config.local(spike, env),
        **config.common(spike, env),
        "spark.sql.sources.commitProtocolClass": (
            "org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol"
        ),
        "spark.sql.parquet.output.committer.class": "org.apache.parquet.hadoop.ParquetOutputCommitter",
        **committer,
        "spark.driver.memory": "768m",
        "spark.master": f"local[{PARTITIONS}]",
        "spark.hadoop.fs.s3a.access.key": s3.access_key,
        "spark.hadoop.fs.s3a.secret.key": s3.secret_key,
    }
    return SparkSession.builder.config(conf=SparkConf().setAll(list(settings.items()))).getOrCreate()


def records(spark: SparkSession, kafka: Kafka, start: int, end: int) -> DataFrame:
    def at(offset: int) -> str:
        return '{"bench": {' + ", ".join(f'"{p}": {offset}' for p in range(PARTITIONS)) + "}}"

    options = {
        "kafka.bootstrap.servers": kafka.bootstrap,
        "subscribe": "bench",
        "startingOffsets": at(start),
        "endingOffsets": at(end),
        "kafka.max.poll.records": "5000",
        "kafka.max.partition.fetch.bytes": str(4 * 1024**2),
        "kafka.fetch.max.bytes": str(100 * 1024**2),
    }
    return spark.read.format("kafka").options(**options).load()


def bare(source: DataFrame, path: str) -> None:
    schema = ddl.render(ddl.parse(load_application(APPLICATION).schema)).replace(" NOT NULL", "")
    parsed = source.selectExpr(
        f'from_json(cast(value AS string), "{schema}") AS r', "partition", "offset", "timestamp"
    )
    parsed.selectExpr("r.*", "partition", "offset", "timestamp").write.parquet(path)


def staged(source: DataFrame, path: str) -> None:
    plan = Plan.of(load_application(APPLICATION), tasks=PARTITIONS)
    with classified(source, plan, datetime.now(UTC)) as batch:
        _, hours = counted(batch)
        write(batch, plan, hours, path)


Way = Callable[[DataFrame, str], None]
WAYS: dict[str, tuple[Way, dict[str, str]]] = {
    "bare, algorithm 2": (bare, {"spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2"}),
    "staged, rename (algorithm 1)": (staged, config.RENAME),
    "staged, magic": (staged, config.MAGIC),
}


def main() -> None:
    options = arguments()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options}")
    print(f"{'way':<30} {'first s':>8} {'then s':>8} {'CPU s/1M':>9}  requests a batch")
    with parts() as (kafka, s3):
        produce(kafka, options.records * options.batches // PARTITIONS, options.hours)
        proxy = Proxy(
            s3.endpoint, options.latency_ms / 1000
        )  # one: Hadoop keeps a store by its bucket's name
        for name, (way, committer) in WAYS.items():
            measure(name, way, dict(committer), kafka, s3=s3, proxy=proxy, options=options)


def measure(
    name: str,
    way: Way,
    committer: dict[str, str],
    kafka: Kafka,
    *,
    s3: S3,
    proxy: Proxy,
    options: argparse.Namespace,
) -> None:
    spark = session(proxy, s3, committer)
    spark.sparkContext.setLogLevel("ERROR")
    step, seconds, cpu = options.records // PARTITIONS, [], []
    for n in range(options.batches):
        before, requests, used = time.perf_counter(), Counter(proxy.requests), cpu_seconds()
        way(
            records(spark, kafka, n * step, (n + 1) * step),
            f"s3a://spike-lake/bench/{abs(hash(name))}-{time.time_ns()}",
        )
        seconds.append(time.perf_counter() - before)
        cpu.append(cpu_seconds() - used)
        requests = proxy.requests - requests
    spark.stop()
    later = seconds[1:]
    million = sum(cpu[1:]) / len(later) / options.records * 1e6
    counts = " ".join(f"{kind} {n}" for kind, n in sorted(requests.items()))
    print(
        f"{name:<30} {seconds[0]:>8.1f} {sum(later) / len(later):>8.2f} {million:>9.1f}  {counts}", flush=True
    )


def cpu_seconds() -> float:
    """Of the Spark JVM alone: the proxy and the servers are not what is measured."""
    jvms = [p for p in psutil.Process().children(recursive=True) if "SparkSubmit" in " ".join(p.cmdline())]
    return sum(sum(p.cpu_times()[:2]) for p in jvms)


@contextmanager
def parts() -> Iterator[tuple[Kafka, S3]]:
    with tempfile.TemporaryDirectory(prefix="spike-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ports = remembered(folder / "ports.json", [*KAFKA_PORTS, *S3_PORTS])
        kafka = Kafka(data=folder / "kafka", port=ports["kafka"], controller_port=ports["kafka.controller"])
        s3 = S3(folder / "s3", S3Ports.of(ports), "bench-key", "bench-secret-key", ("spike-lake",))
        with running(kafka.part(), folder), running(s3.part(), folder):
            kafka.create_topics({"bench": PARTITIONS})
            yield kafka, s3


def produce(kafka: Kafka, per_partition: int, hours: int) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50, batch_size=262144)
    now = int(time.time() * 1000)
    for i in range(per_partition):
        value = (
            f'{{"session_id": "s-{i}", "event_time": "2026-05-01T10:11:12.123Z", "user_id": "u-{i % 5000}", '
            f'"started_at": "2026-05-01T10:00:00Z", "duration_ms": {i}, "consent": true, "referrer": '
            f'"https://example.org/landing", "device": {{"os": "ios", "model": "x", "language": "en"}}, '
            f'"geo": {{"country": "DE", "city": "Berlin", "lat": 52.5, "lon": 13.4}}}}'
        ).encode()
        for partition in range(PARTITIONS):
            producer.send("bench", value, partition=partition, timestamp_ms=now - i % hours * 3_600_000)
    producer.flush()
    producer.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=50_000, help="of one batch")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--hours", type=int, default=1, help="that the records of a batch fall into")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every S3 request")
    return parser.parse_args()


if __name__ == "__main__":
    main()
