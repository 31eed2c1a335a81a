"""The Spark engine on real Kafka and S3: what of each record becomes of it, and what is registered.

One JVM for all of them. The appender is the scripted one: what the real one makes of it is tested end to end.
"""

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_appender import TOKEN, Answer, FakeAppender
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewPartitions, NewTopic
from prometheus_client.parser import text_string_to_metric_families
from spark_jvm import own_jvm
from waiting import until

from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import FileKind, hour_of
from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.registration import check_batch
from spike_pipelines.domain.spike import Dataset, Location, Objectives, Resources, Spike, Start
from spike_pipelines.driver.client import AppenderClient
from spike_pipelines.driver.life import Driver
from spike_pipelines.driver.metrics import served
from spike_pipelines.driver.session import Session
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.spark.batch import Plan
from spike_pipelines.spark.engine import SparkEngine
from spike_pipelines.spark.environment import Environment
from spike_pipelines.spark.session import start_spark
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark]

BUCKET = "spike-lake"
NOW = datetime.now(UTC)
SCHEMA = """
    id STRING NOT NULL, n INT, at TIMESTAMP, keep BOOLEAN,
    device STRUCT<os: STRING NOT NULL, v: INT>,
    items ARRAY<STRUCT<sku: STRING NOT NULL, qty: INT>>,
    tags MAP<STRING, STRING>
"""


def spike(topic: str, **changes) -> Spike:
    base = Spike(
        name=f"spike-{topic}",
        description="",
        version="1.0",
        topic=topic,
        start=Start.EARLIEST,
        schema=SCHEMA,
        filter="keep",
        transform=None,
        trigger=timedelta(seconds=0),
        max_offsets_per_trigger=100_000,
        max_staged_batches=4,
        driver=Resources(2, "768m"),
        executor=Resources(1, "1g"),
        staging=Location(BUCKET, "staging"),
        final=Location(BUCKET, "final"),
        dataset=Dataset(topic, datetime(2026, 1, 1, tzinfo=UTC)),
        objectives=Objectives(timedelta(seconds=30), timedelta(seconds=20), timedelta(seconds=60)),
    )
    return replace(base, **changes)


@contextlib.contextmanager
def engine_parts(kafka, s3, state_dir, resources: Resources) -> Iterator[SimpleNamespace]:
    """What an engine needs: a JVM of this size, Kafka, S3, and where it keeps what."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        env = Environment(
            driver_id="driver-1",
            token=TOKEN,
            appender_url="http://127.0.0.1:1",
            kafka_bootstrap=kafka.bootstrap,
            s3_endpoint=s3.endpoint,
            spark_jars=",".join(str(jar) for jar in spark_jars()),
            state_dir=state_dir,
        )
        with own_jvm(lambda: start_spark(spike("none", driver=resources), env)) as spark:
            yield SimpleNamespace(
                env=env, spark=spark, store=S3ObjectStore(connect(s3.endpoint)), s3=s3, kafka=kafka
            )


@pytest.fixture(scope="module")
def stack(kafka, s3, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with engine_parts(kafka, s3, tmp_path_factory.mktemp("state"), Resources(2, "768m")) as parts:
        yield parts


@contextlib.contextmanager
def producer(stack, **options) -> Iterator[KafkaProducer]:
    client = KafkaProducer(bootstrap_servers=stack.kafka.bootstrap, max_request_size=2_000_000, **options)
    yield client
    client.flush()
    client.close()


@dataclass
class Run:
    appender: FakeAppender
    board: VitalsBoard
    codes: list


@contextlib.contextmanager
def driving(stack, what: Spike, ends: dict[int, int]) -> Iterator[Run]:
    """A driver at work; stopped at the end of the block, and expected to obey."""
    appender = FakeAppender(topic=what.topic, ends=ends)
    client = AppenderClient(appender.start(), what.name, TOKEN)
    board = VitalsBoard()
    session = Session(client, board, driver="driver-1", version="1.0", back_off=lambda _: 0.2)
    engine = SparkEngine(lambda: stack.spark, what, stack.env, stack.store, Plan.of(what, tasks=2))
    run = Run(appender, board, [])
    driver = Driver(session, engine, board, back_off=lambda _: 0.2)
    thread = threading.Thread(target=lambda: run.codes.append(driver.run()))
    thread.start()
    try:
        yield run
    finally:
        board.stop.set()
        thread.join(60)
        client.close()
        appender.stop()
    assert not thread.is_alive()


def rows(stack, what: Spike, batches, kind: FileKind) -> list[dict]:
    """Every row of the registered files; each file has what was said of it."""
    client, found = stack.s3.client(), []
    for batch in batches:
        check_batch(batch.as_batch())
        for file in batch.files:
            key = f"staging/{what.topic}/{batch.epoch}/{file.key}"
            answer = client.get_object(Bucket=BUCKET, Key=key)
            body = answer["Body"].read()
            table = pq.read_table(io.BytesIO(body))
            assert (len(body), answer["ETag"].strip('"'), table.num_rows) == (file.size, file.etag, file.rows)
            if file.kind is kind:
                found += [{**row, "file_hour": file.hour} for row in table.to_pylist()]
    return found


def good(name: str, **more) -> bytes:
    return json.dumps({"id": name, "keep": True, **more}).encode()


CASES = {
    # what is sent → reason and detail of its dead letter
    b'{"id": "x", "keep": tr': ("malformed_json", None),
    b"not json": ("malformed_json", None),
    b"": ("empty_value", None),
    b"  ": ("empty_value", None),
    None: ("null_value", None),
    b"[1, 2]": ("wrong_type", None),
    b"17": ("wrong_type", None),
    b"null": ("wrong_type", None),
    b'{"id": "x\xff"}': ("invalid_utf8", None),
    b'{"id": "x", "n": "many"}': ("wrong_type", "n"),
    b'{"id": "x", "n": 3000000000}': ("wrong_type", "n"),
    b'{"id": "x", "at": "yesterday"}': ("wrong_type", "at"),
    b'{"id": "x", "device": "phone", "n": 1.5}': ("wrong_type", "n, device"),
    b'{"id": "x", "at": 1763900000000}': ("value_out_of_range", "at"),  # milliseconds, where seconds are read
    b'{"id": "x", "at": "0000-01-01T00:00:00Z"}': ("value_out_of_range", "at"),
    b'{"id": "x"}{"id": "y"}': ("not_one_object", None),
    b'{"id": "x"}\n{"id": "y"}\n': ("not_one_object", None),
    b'{"id": "x"} trailing': ("not_one_object", None),
    b'{"id": "x"}}': ("not_one_object", None),
    b'{"id": "x"},{"id": "y"}': ("not_one_object", None),
    b'{"id": "x", "tags": {}},{"id": "y"}]': ("not_one_object", None),
    b'{"id": "x"}{"id": "y': ("not_one_object", None),
    b'[{"id": "x"},{"id": "y"}]': ("wrong_type", None),
    b'[{"id": "x"}]': ("wrong_type", None),
    b'{"n": 1}': ("null_in_required_column", "id"),
    b'{"id": null}': ("null_in_required_column", "id"),
    b'{"id": "x", "device": {"v": 1}}': ("null_in_required_column", "device.os"),
    b'{"id": "x", "items": [{"sku": "a"}, {"qty": 1}]}': ("null_in_required_column", "items[].sku"),
}


def test_every_kind_of_record_ends_where_it_belongs(stack):
    """Bad records become dead letters with raw bytes, reason and place; good ones rows; no record is lost."""
    what = spike("kinds")
    stack.kafka.create_topics({"kinds": 1})
    nested = good("nested", at="2026-05-01T10:00:00Z", device={"os": "ios", "v": 1, "new": 1}, more=[1],
                  items=[{"sku": "a", "qty": 2}, None], tags={"k": "v"})  # fmt: skip
    big = good("big", tags={"k": "x" * 900_000})
    braces = b" \t" + good("braces", tags={"k": "}{ } trailing ]}", "l": "},{{"}) + b"\r\n"
    unkept = [b'{"id": "f", "keep": false}', b'{"id": "f", "keep": null}', b'{"id": "f"}']
    with producer(stack) as client:
        for value in (nested, big, braces, *unkept, *CASES):
            client.send("kinds", value=value, key=b"\xff\x00key", partition=0)
    total = 6 + len(CASES)
    with driving(stack, what, {0: 0}) as run:
        run.appender.wait_for(lambda: run.appender.ends[0] == total)
    batches = run.appender.batches
    assert sum(b.read for b in batches) == total
    assert sum(h.filtered for b in batches for h in b.hours) == len(unkept)
    final = {row["id"]: row for row in rows(stack, what, batches, FileKind.FINAL)}
    assert set(final) == {"nested", "big", "braces"}
    assert len(dict(final["big"]["tags"])["k"]) == 900_000
    assert final["nested"]["device"] == {"os": "ios", "v": 1}
    assert final["nested"]["items"] == [{"sku": "a", "qty": 2}, None]
    assert final["nested"]["at"] == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert (final["nested"]["kafka_partition"], final["nested"]["kafka_offset"]) == (0, 0)
    dead = rows(stack, what, batches, FileKind.DEAD_LETTER)
    assert {row["value"]: (row["reason"], row["detail"]) for row in dead} == CASES
    assert {row["key"] for row in dead} == {b"\xff\x00key"}
    assert {row["kafka_topic"] for row in dead} == {"kinds"}
    assert {row["kafka_offset"] for row in dead} == set(range(6, total))
    assert all(row["routed_timestamp"] == row["kafka_timestamp"] for row in dead)


def test_columns_of_the_files_are_those_the_tables_have(stack):
    what = spike("columns")
    stack.kafka.create_topics({"columns": 1})
    with producer(stack) as client:
        client.send("columns", value=good("a"), partition=0)
        client.send("columns", value=b"bad", partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.wait_for(lambda: run.appender.ends[0] == 2)
    schemas = {f.kind: schema_of(stack, what, b, f) for b in run.appender.batches for f in b.files}
    final, dead = schemas[FileKind.FINAL], schemas[FileKind.DEAD_LETTER]
    kafka = ["kafka_partition", "kafka_offset", "kafka_timestamp"]
    assert final.names == ["id", "n", "at", "keep", "device", "items", "tags", *kafka]
    assert dead.names == ["kafka_topic", *kafka, "routed_timestamp", "key", "value", "reason", "detail"]
    assert [final.field(name).type for name in kafka] == [
        pa.int32(),
        pa.int64(),
        pa.timestamp("us", tz="UTC"),
    ]


def schema_of(stack, what: Spike, batch, file) -> pa.Schema:
    key = f"staging/{what.topic}/{batch.epoch}/{file.key}"
    return pq.read_schema(io.BytesIO(stack.s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()))


def create_topic_of_any_time(stack, name: str) -> None:
    """A broker of today refuses timestamps an hour ahead, unless the topic is told to take them."""
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    day = str(24 * 3600 * 1000)
    admin.create_topics([NewTopic(name, 1, 1, topic_configs={"message.timestamp.after.max.ms": day})])
    admin.close()


def test_timestamps_route_records_and_refuse_those_out_of_range(stack):
    what = spike("times", filter=None)
    create_topic_of_any_time(stack, "times")
    late = [NOW - timedelta(hours=h) for h in (0, 1, 5, 48)]
    outside = [datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), NOW + timedelta(hours=2)]
    with producer(stack) as client:
        for at in late + outside:
            client.send("times", value=good("a"), partition=0, timestamp_ms=int(at.timestamp() * 1000))
    with driving(stack, what, {0: 0}) as run:
        run.appender.wait_for(lambda: run.appender.ends[0] == 6)
    batches = run.appender.batches
    final = rows(stack, what, batches, FileKind.FINAL)
    assert [row["file_hour"] for row in sorted(final, key=lambda r: r["kafka_offset"])] == [
        hour_of(t) for t in late
    ]
    dead = rows(stack, what, batches, FileKind.DEAD_LETTER)
    assert {row["reason"] for row in dead} == {"timestamp_out_of_range"}
    assert {row["detail"] for row in dead} == {
        "before the dataset's start, 2026-01-01T00:00:00+00:00",
        "more than an hour ahead",
    }
    for row in dead:
        assert abs(row["routed_timestamp"] - datetime.now(UTC)) < timedelta(minutes=5)
        assert row["file_hour"] == hour_of(row["routed_timestamp"])
    assert {(h.final, h.dead_letter) for b in batches for h in b.hours} >= {(1, 0)}


def test_partition_that_appears_while_the_driver_runs_is_read_from_zero(stack):
    what = spike("grows", filter=None)
    stack.kafka.create_topics({"grows": 1})
    with driving(stack, what, {0: 0}) as run, producer(stack, metadata_max_age_ms=500) as client:
        client.send("grows", value=good("a"), partition=0).get(30)
        run.appender.wait_for(lambda: run.appender.ends[0] == 1)
        admin = KafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
        admin.create_partitions({"grows": NewPartitions(2)})
        admin.close()
        with producer(stack) as later:
            later.send("grows", value=good("b"), partition=1).get(30)
        run.appender.wait_for(lambda: run.appender.ends.get(1) == 1)
    final = rows(stack, what, run.appender.batches, FileKind.FINAL)
    assert {(r["id"], r["kafka_partition"], r["kafka_offset"]) for r in final} == {("a", 0, 0), ("b", 1, 0)}
    assert [(r.partition, r.start, r.end) for r in run.appender.batches[-1].ranges] == [(1, 0, 1)]


def test_ranges_of_a_transactional_topic_come_from_the_log_not_the_rows(stack):
    """Control records and aborted records are offsets without rows."""
    what = spike("transactions", filter=None)
    stack.kafka.create_topics({"transactions": 1})
    with producer(stack, transactional_id="t-1") as client:
        client.init_transactions()
        for name, commit in (("a", True), ("aborted", False), ("b", True)):
            client.begin_transaction()
            client.send("transactions", value=good(name), partition=0)
            client.flush()  # else an aborted record would never leave the client
            client.commit_transaction() if commit else client.abort_transaction()
    with driving(stack, what, {0: 0}) as run:
        run.appender.wait_for(lambda: run.appender.ends[0] == 6)
    final = rows(stack, what, run.appender.batches, FileKind.FINAL)
    assert {(r["id"], r["kafka_offset"]) for r in final} == {("a", 0), ("b", 4)}
    assert sum(b.read for b in run.appender.batches) == 2


def test_driver_goes_on_exactly_from_the_offsets_of_its_grant(stack):
    what = spike("resumes", filter=None)
    stack.kafka.create_topics({"resumes": 2})
    with producer(stack) as client:
        for i in range(10):
            client.send("resumes", value=good(str(i)), partition=i % 2)
    with driving(stack, what, {0: 3, 1: 5}) as run:
        run.appender.wait_for(lambda: run.appender.ends == {0: 5, 1: 5})
    final = rows(stack, what, run.appender.batches, FileKind.FINAL)
    assert {(r["kafka_partition"], r["kafka_offset"]) for r in final} == {(0, 3), (0, 4)}
    assert [(r.partition, r.start, r.end) for b in run.appender.batches for r in b.ranges] == [(0, 3, 5)]


def test_prometheus_sees_how_long_a_batch_took_and_how_fast_records_were_read(stack):
    what = spike("metrics", filter=None, trigger=timedelta(seconds=1))
    stack.kafka.create_topics({"metrics": 2})
    with producer(stack) as client:
        for i in range(10):
            client.send("metrics", value=good(str(i)), partition=i % 2)
    with driving(stack, what, {0: 0, 1: 0}) as run, served(run.board, what, 0) as page:
        seen = until(lambda: (found := scraped(page)).get("spike_driver_batch_records") == 10 and found)
        gauges = spark_gauges(stack.spark)
    assert 0 < seen["spike_driver_batch_step_seconds"] <= seen["spike_driver_batch_seconds"]
    assert seen["spike_driver_processed_records_per_second"] == pytest.approx(
        10 / seen["spike_driver_batch_seconds"], abs=0.06
    ), "Spark rounds"
    assert seen["spike_driver_trigger_seconds"] == 1
    assert gauges >= {"latency", "inputRate-total", "processingRate-total"}, "Spark's own, by a stable name"


def scraped(page: str) -> dict[str, float]:
    """One value a name; of the steps that of `addBatch`."""
    families = text_string_to_metric_families(httpx.get(f"http://{page}/metrics", timeout=5).text)
    samples = [sample for family in families for sample in family.samples]
    return {s.name: s.value for s in samples if s.labels.get("step", "addBatch") == "addBatch"}


def spark_gauges(spark) -> set[str]:
    """What Spark's metrics system has of the running query."""
    metrics = spark._jvm.org.apache.spark.SparkEnv.get().metricsSystem()
    sources = metrics.getSourcesByName("spark.streaming.live")
    assert sources.size() == 1
    return set(sources.head().metricRegistry().getGauges().keySet())


def test_overlap_is_answered_by_a_new_epoch_with_an_empty_checkpoint(stack):
    what = spike("overlaps", filter=None)
    stack.kafka.create_topics({"overlaps": 1})
    with producer(stack) as client:
        client.send("overlaps", value=good("a"), partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.say("batches", Answer(409, "overlap"))
        run.appender.wait_for(lambda: run.appender.ends[0] == 1)
    assert [b.epoch for b in run.appender.batches] == [2]
    assert list((stack.env.state_dir / "checkpoints" / what.name).iterdir()) == []


def test_a_batch_that_is_too_large_for_the_appender_is_read_again_in_halves(stack):
    what = spike("halves", filter=None)
    stack.kafka.create_topics({"halves": 1})
    with producer(stack) as client:
        for i in range(40):
            client.send("halves", value=good(str(i)), partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.say("batches", Answer(413, "too_large"))
        run.appender.wait_for(lambda: run.appender.ends[0] == 40)
    ranges = [(b.epoch, r.start, r.end) for b in run.appender.batches for r in b.ranges]
    assert ranges == [(2, 0, 20), (2, 20, 40)]


def test_records_deleted_under_a_running_query_end_the_driver_and_register_nothing(stack):
    """Spark is told to fail on data loss: else it would go on behind what is gone, and say it was read."""
    what = spike("deleted", filter=None)
    stack.kafka.create_topics({"deleted": 1})
    with producer(stack) as client:
        for i in range(3):
            client.send("deleted", value=good(str(i)), partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.say("batches", *[Answer(429, "too_many_staged", retry_after=0.2)] * 5_000)
        run.appender.wait_for(lambda: run.appender.posts)  # the query runs, and waits for the appender
        with producer(stack) as client:
            for i in range(10):
                client.send("deleted", value=good(str(i)), partition=0)
        admin = KafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
        admin.delete_records({TopicPartition("deleted", 0): 8})
        admin.close()
        run.appender.say("epochs", Answer(409, "lost"))
        run.appender.script["batches"].clear()
        run.appender.wait_for(lambda: len(run.appender.opens) == 2)
    assert run.codes == [Exit.REFUSED]
    assert [(r.start, r.end) for b in run.appender.posts for r in b.ranges][-1] == (0, 3)
    assert run.appender.ends == {0: 3}


def test_fenced_driver_ends_and_never_opens_again(stack):
    what = spike("fences", filter=None)
    stack.kafka.create_topics({"fences": 1})
    with producer(stack) as client:
        client.send("fences", value=good("a"), partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.say("batches", Answer(409, "fenced"))
        assert run.board.stop.wait(60)
    assert run.codes == [Exit.FENCED]
    assert len(run.appender.opens) == 1


def test_missing_bucket_is_a_problem_that_goes_away_with_its_cause(stack):
    what = spike("no-bucket", filter=None, staging=Location("not-there-yet", "staging"))
    stack.kafka.create_topics({"no-bucket": 1})
    with producer(stack) as client:
        client.send("no-bucket", value=good("a"), partition=0)
    with driving(stack, what, {0: 0}) as run:
        run.appender.wait_for(lambda: len(run.appender.opens) >= 2)
        assert "not-there-yet" in (run.board.now.problem or "")
        stack.s3.client().create_bucket(Bucket="not-there-yet")
        run.appender.wait_for(lambda: run.appender.ends[0] == 1, 120)
    assert run.board.now.problem is None
