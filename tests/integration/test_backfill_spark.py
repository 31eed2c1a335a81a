"""An hour read again by Spark from a real Kafka: exactly the pieces and the hour; also by the real job."""

import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import builders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR
from builders import spike as plain_spike
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from spark_jvm import own_jvm
from test_operate import ask
from test_replay_spark import SCHEMA
from test_swap import breaches
from test_swap_real import real

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import FileKind, StagedFile
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.domain.spike import Dataset, Location, Resources, Start
from spike_pipelines.platform import Platform
from spike_pipelines.ports import BackfillOrder, SurveyOrder
from spike_pipelines.services.backfill import Ask
from spike_pipelines.services.deep_audit import DeepAuditor
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.spark.backfill import SoFar, _read, reread, session, survey
from spike_pipelines.spark.batch import Plan
from spike_pipelines.spark.config import BOUNDED_READS
from spike_pipelines.spark.environment import SparkEnvironment
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark]

__all__ = ["real"]  # a fixture

BUCKET = "spike-lake"
AT = HOUR + timedelta(minutes=30)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def stack(kafka, s3, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        env = SparkEnvironment(
            s3_endpoint=s3.endpoint,
            spark_jars=",".join(str(jar) for jar in spark_jars()),
            state_dir=tmp_path_factory.mktemp("state"),
        )
        with own_jvm(lambda: session(what("none"), env)) as spark:
            store = S3ObjectStore(connect(s3.endpoint))
            yield SimpleNamespace(spark=spark, store=store, s3=s3, bootstrap=kafka.bootstrap)


def what(topic, **changes):
    base = plain_spike(
        topic,
        topic=topic,
        schema="id STRING NOT NULL, keep BOOLEAN",
        filter="keep IS NULL OR keep",
        staging=Location(BUCKET, "staging"),
        final=Location(BUCKET, "final"),
        driver=Resources(2, "768m"),
        dataset=Dataset(topic.replace("-", "_"), datetime(2026, 1, 1, tzinfo=UTC)),
    )
    return replace(base, **changes)


def produce(bootstrap, topic, partitions, records):
    """`records`: (partition, timestamp, value), in order; Kafka keeps them however old they are."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, partitions, 1, topic_configs={"retention.ms": "-1"})])
    admin.close()
    append(bootstrap, topic, records)


def append(bootstrap, topic, records):
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for index, at, value in records:
        producer.send(topic, value, partition=index, timestamp_ms=int(at.timestamp() * 1000))
    producer.flush()
    producer.close()


def good(name, **more):
    return json.dumps({"id": name, **more}).encode()


def dead_letters(stack, topic, *rows):
    """A dead-letter file: (partition, offset, timestamp, routed timestamp) each."""
    table = pa.Table.from_pylist(
        [
            {"kafka_topic": topic, "kafka_partition": p, "kafka_offset": o, "kafka_timestamp": at,
             "routed_timestamp": routed, "value": b"?", "reason": "timestamp_out_of_range"}
            for p, o, at, routed in rows
        ],
        schema=SCHEMA,
    )  # fmt: skip
    body = io.BytesIO()
    pq.write_table(table, body)
    key = f"final/{topic}_dead_letters/x.parquet"
    stack.store.put(BUCKET, key, body.getvalue())
    return key


def pieces(topic, *found):
    return tuple(OffsetRange(Partition(topic, "id", index), start, end) for index, start, end in found)


def rows_of(stack, prefix, batch, kind):
    found = []
    for file in batch.files:
        if file.kind is kind:
            body = stack.s3.client().get_object(Bucket=BUCKET, Key=prefix + file.key)["Body"].read()
            assert file.hour == HOUR
            found += pq.read_table(io.BytesIO(body)).to_pylist()
    return sorted((row["kafka_partition"], row["kafka_offset"], row.get("id")) for row in found)


def again(stack, topic, found, dead=(), *, write=True):
    spike = what(topic)
    prefix = f"staging/{topic}/backfill-1/"
    order = BackfillOrder(topic, HOUR, found, dead, AT + timedelta(days=1), prefix if write else None)
    plan = Plan.of(spike, tasks=2)
    return reread(stack.spark, spike, plan, order, stack.store, bootstrap=stack.bootstrap), prefix


def test_exactly_the_pieces_are_read_and_exactly_the_hour_is_kept(stack):
    topic = "backfill-pieces"
    later = AT + timedelta(hours=1)
    produce(stack.bootstrap, topic, 2, [
        (0, AT, good("a")), (0, later, good("other hour")), (0, AT, b"{nonsense"), (0, AT, good("not read")),
        (0, AT, good("b")), (0, AT, good("c", keep=False)), (1, AT, good("d")),
        (1, later, good("other hour")),
    ])  # fmt: skip
    batch, prefix = again(stack, topic, pieces(topic, (0, 0, 3), (0, 4, 6), (1, 0, 2)))
    counts = batch.counts
    assert (counts.read, counts.final, counts.dead_letter, counts.filtered) == (5, 3, 1, 1)
    assert batch.elsewhere == 2
    assert rows_of(stack, prefix, batch, FileKind.FINAL) == [(0, 0, "a"), (0, 4, "b"), (1, 0, "d")]
    assert rows_of(stack, prefix, batch, FileKind.DEAD_LETTER) == [(0, 2, None)]
    assert {h.hour for h in batch.hours} == {HOUR}
    assert batch.ranges == ()


def test_a_dead_letter_belongs_to_the_hour_it_was_routed_to(stack):
    """Of long ago it stays dead, in this hour; one of this hour that lies with another is not taken twice."""
    topic = "backfill-dead"
    produce(stack.bootstrap, topic, 1, [
        (0, AT, good("a")), (0, LONG_AGO, good("long ago")), (0, AT, good("of the future then")),
        (0, LONG_AGO, good("long ago too")),
    ])  # fmt: skip
    elsewhere = AT - timedelta(hours=5)
    key = dead_letters(stack, topic, (0, 1, LONG_AGO, AT), (0, 2, AT, elsewhere), (0, 3, LONG_AGO, elsewhere))
    batch, prefix = again(stack, topic, pieces(topic, (0, 0, 4)), (key,))
    assert (batch.read, batch.elsewhere) == (2, 2)
    assert rows_of(stack, prefix, batch, FileKind.FINAL) == [(0, 0, "a")]
    assert rows_of(stack, prefix, batch, FileKind.DEAD_LETTER) == [(0, 1, None)]


def test_where_older_hours_lie_is_told_by_partition_and_counted(stack):
    topic, hours = "backfill-survey", [HOUR - timedelta(hours=n) for n in (2, 1, 0)]
    first, second, third = hours
    produce(stack.bootstrap, topic, 2, [
        (0, first, b"x"), (0, second, b"x"), (0, LONG_AGO, b"x"), (0, first, b"x"), (0, third, b"x"),
        (0, second, b"x"), (1, second, b"x"), (1, second, b"x"), (1, first, b"not looked at"),
    ])  # fmt: skip
    looked = pieces(topic, (0, 0, 6), (1, 0, 2))
    order = SurveyOrder(topic, looked, first, third)
    found = survey(stack.spark, what(topic), order, bootstrap=stack.bootstrap)
    assert found.scanned == 8
    places = [(p.hour, p.range, p.records) for p in found.places]
    one, two, three = pieces(topic, (0, 0, 4), (0, 1, 6), (1, 0, 2))
    assert places == [(first, one, 2), (second, two, 2), (second, three, 2)]


def test_how_many_records_were_read_is_known_while_they_are(stack):
    topic = "backfill-so-far"
    produce(stack.bootstrap, topic, 1, [(0, AT, good("a"))] * 50)
    so_far = SoFar(stack.spark)
    so_far.begin()
    slow = "reflect('java.lang.Thread', 'sleep', 400L + offset - offset) IS NOT NULL"
    found = _read(stack.spark, what(topic), pieces(topic, (0, 0, 50)), stack.bootstrap)
    job = Thread(target=found.where(slow).count)
    job.start()
    until(lambda: so_far() == 50)
    assert job.is_alive(), "Spark itself knows at the end only"
    job.join(120)
    assert so_far() == 50
    so_far.begin()
    assert so_far() == 0


def until(holds):
    pause, deadline = Event(), time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.1)


def test_consumers_of_pieces_that_were_read_are_not_kept(stack):
    """Each keeps what it fetched ahead: those of a day's hours were more than a heap."""
    topic, kept = "backfill-consumers", int(BOUNDED_READS["spark.kafka.consumer.cache.capacity"])
    produce(stack.bootstrap, topic, 1, [(0, AT, good("a"))] * 60)
    batch, _ = again(stack, topic, pieces(topic, *((0, n, n + 1) for n in range(0, 60, 2))), write=False)
    assert batch.read == 30
    mbeans = SoFar(stack.spark)
    assert len(list(mbeans._ask("queryNames", mbeans._consumers, None))) <= kept


def test_an_hour_of_which_nothing_is_left_has_counts_and_no_file(stack):
    topic = "backfill-nothing"
    produce(stack.bootstrap, topic, 1, [(0, AT, good("a", keep=False)), (0, LONG_AGO, good("b"))])
    batch, _ = again(stack, topic, pieces(topic, (0, 0, 2)))
    assert (batch.files, batch.read, batch.elsewhere, batch.counts.filtered) == ((), 1, 1, 1)
    batch, _ = again(stack, topic, pieces(topic, (0, 1, 2)), write=False)
    assert (batch.files, batch.read, batch.elsewhere, batch.hours) == ((), 0, 1, ())


# the whole way: PostgreSQL, Kafka, S3, Iceberg, and Spark in a process of its own

NAME = "crt-payout-v1-1.0"
APPLICATION = Path(__file__).parents[2] / f"deployments/applications/{NAME}.yaml"
PAYOUT = {
    "payout_id": "p1", "event_time": "2026-11-22T21:30:00Z", "publisher_id": 1, "state": "paid",
    "amount": 1.5, "currency": "usd",
}  # fmt: skip


def put(driver, key, kind, hour, rows, *_):
    """What an older application made of two records: dead letters."""
    if rows == 0:
        return None
    assert kind is FileKind.DEAD_LETTER
    dead = [
        {"kafka_topic": "t", "kafka_partition": 0, "kafka_offset": offset, "kafka_timestamp": AT,
         "routed_timestamp": AT, "value": b"?", "reason": "wrong_type", "detail": "amount"}
        for offset in range(2, 2 + rows)
    ]  # fmt: skip
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(dead, schema=SCHEMA), body)
    info = driver.world.store.put(
        BUCKET, staging_prefix(driver.spike, driver.token.number) + key, body.getvalue()
    )
    return StagedFile(key, kind, hour, rows, info.size, info.etag)


@pytest.fixture
def ran(real, kafka, ledger_url, postgres, s3, tmp_path, monkeypatch):  # noqa: PLR0917 - fixtures
    """One published batch of three records: two dead letters, one filtered. Two of the hour before lie in
    Kafka below where the spike began."""
    applications = tmp_path / "applications"
    applications.mkdir()
    shutil.copy(APPLICATION, applications)
    for name, value in {
        "LEDGER_URL": ledger_url, "CATALOG_URL": postgres.url("iceberg"), "S3_ENDPOINT": s3.endpoint,
        "APPLICATIONS_DIR": str(applications), "STATE_DIR": str(tmp_path / "state"),
        "KAFKA_BOOTSTRAP": kafka.bootstrap, "SPARK_JARS": ",".join(str(jar) for jar in spark_jars()),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SPIKE_{name}", value)
    monkeypatch.setattr(builders.Driver, "_put", put)
    spike = real.spikes[NAME] = load_application(APPLICATION)
    p0, p1, p2 = (json.dumps(PAYOUT | {"payout_id": name}).encode() for name in ("p0", "p1", "p2"))
    before = AT - timedelta(hours=1)
    produce(kafka.bootstrap, spike.topic, 1, [(0, before, p0), (0, before, b"{nonsense")])
    real.broker = KafkaBroker(kafka.bootstrap)
    driver = real.driver(replace(spike, start=Start.LATEST))
    append(kafka.bootstrap, spike.topic, [(0, AT, p1), (0, AT, b"{nonsense"), (0, AT, p2)])
    driver.stage(0, 2, 1)
    real.settle(spike)
    yield driver
    real.broker.close()


def test_a_backfill_turns_dead_letters_and_filtered_records_into_rows_that_readers_see(real, ran):
    platform = Platform()
    done = platform.backfiller.backfill(ran.spike, HOUR, Ask(ask()))
    assert (done.final, done.dead_letter, done.filtered, done.scanned) == (2, 1, 0, 3)
    real.settle(ran.spike)
    rows = real.catalog.load("payout").scan().to_arrow().to_pylist()
    assert sorted((row["payout_id"], row["kafka_offset"]) for row in rows) == [("p1", 2), ("p2", 4)]
    (dead,) = real.catalog.load("payout_dead_letters").scan().to_arrow().to_pylist()
    assert (dead["value"], dead["reason"], dead["kafka_offset"]) == (b"{nonsense", "malformed_json", 3)
    assert breaches(real) == {}
    (deep,) = DeepAuditor(real.ledger, platform.deep_auditor.reader, real.spikes).run()
    assert deep.ok, deep.breaches
    worker = platform.backfiller.rereader._worker._running.process
    again = platform.backfiller.backfill(ran.spike, HOUR, Ask(ask()))
    assert (again.final, again.dead_letter) == (2, 1)
    assert platform.backfiller.rereader._worker._running.process is worker, "one session for all hours"
    older = platform.backfiller.backfill(ran.spike, HOUR - timedelta(hours=1), Ask(ask()))
    assert (older.swap, older.final, older.dead_letter, older.scanned) == (None, 1, 1, 2)
    real.settle(ran.spike)
    rows = real.catalog.load("payout").scan().to_arrow().to_pylist()
    assert sorted(row["payout_id"] for row in rows) == ["p0", "p1", "p2"]
    assert breaches(real) == {}
    (deep,) = DeepAuditor(real.ledger, platform.deep_auditor.reader, real.spikes).run()
    assert deep.ok, deep.breaches
    platform.close()
    assert worker.poll() is not None
