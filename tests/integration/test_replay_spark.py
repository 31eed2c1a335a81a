"""Dead letters parsed again by Spark: the live path's rules on raw bytes, through the real job."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import spike as plain_spike
from spark_jvm import own_jvm

from spike_pipelines.adapters.dead_letters import S3DeadLetterReader
from spike_pipelines.adapters.replay_files import AnswerFile, OrderFile
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.adapters.spark_job import INVALID
from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.spike import Dataset, Location, Resources
from spike_pipelines.ports import ReplayOrder
from spike_pipelines.spark.batch import Plan
from spike_pipelines.spark.environment import SparkEnvironment
from spike_pipelines.spark.replay import main, reparse
from spike_pipelines.spark.session import start_spark
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark]

BUCKET = "spike-lake"
AT = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)
ROUTED = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)  # when the batch of a record out of range was planned
FAR = AT + timedelta(days=300)

SCHEMA = pa.schema(
    [
        ("kafka_topic", pa.string()),
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_timestamp", pa.timestamp("us", tz="UTC")),
        ("routed_timestamp", pa.timestamp("us", tz="UTC")),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

# value → reason it was dead for
LETTERS = [
    (b'{"id": "x1", "n": "7"}', "wrong_type"),  # parses with the mended schema
    (b'{"id": "x2", "n": "8", "keep": false}', "wrong_type"),  # parses now, and is filtered
    (b"not json \xf0", "malformed_json"),  # stays dead, for the reason it has by today's rules
    (b'{"id": "x3", "n": "9"}', "out_of_range"),  # of far in the future: stays dead, and where it was
]


@pytest.fixture(scope="module")
def stack(s3, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        env = SparkEnvironment(
            s3_endpoint=s3.endpoint,
            spark_jars=",".join(str(jar) for jar in spark_jars()),
            state_dir=tmp_path_factory.mktemp("state"),
        )
        with own_jvm(lambda: start_spark(mended(), env)) as spark:
            yield SimpleNamespace(env=env, spark=spark, store=S3ObjectStore(connect(s3.endpoint)), s3=s3)


def mended(**changes):
    base = plain_spike(
        schema="id STRING NOT NULL, n STRING, keep BOOLEAN",
        filter="keep IS NULL OR keep",
        staging=Location(BUCKET, "staging"),
        final=Location(BUCKET, "final"),
        driver=Resources(2, "768m"),
        dataset=Dataset("payouts", datetime(2026, 1, 1, tzinfo=UTC)),
    )
    return replace(base, **changes)


def dead_letter_file(stack, name: str) -> str:
    rows = [
        {
            "kafka_topic": "payouts-topic",
            "kafka_partition": 0,
            "kafka_offset": offset,
            "kafka_timestamp": FAR if reason == "out_of_range" else AT,
            "routed_timestamp": ROUTED if reason == "out_of_range" else AT,
            "key": b"\xff\x00",
            "value": value,
            "reason": "timestamp_out_of_range" if reason == "out_of_range" else reason,
            "detail": "n",
        }
        for offset, (value, reason) in enumerate(LETTERS)
    ]
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), body)
    key = f"final/payouts_dead_letters/hour=2026-11-22T21/{name}.parquet"
    stack.store.put(BUCKET, key, body.getvalue())
    return key


def rows(stack, prefix, files, kind):
    found = []
    for file in files:
        if file.kind is kind:
            body = stack.s3.client().get_object(Bucket=BUCKET, Key=prefix + file.key)["Body"].read()
            found += [{**row, "hour": file.hour} for row in pq.read_table(io.BytesIO(body)).to_pylist()]
    return sorted(found, key=lambda row: row["kafka_offset"])


def again(stack, name, reason=None, *, write=True, **changes):
    what = mended(**changes)
    prefix = f"staging/payouts/replay-{name}/" if write else None
    order = ReplayOrder(what.name, (dead_letter_file(stack, name),), reason, AT + timedelta(hours=2), prefix)
    done = reparse(stack.spark, what, Plan.of(what, tasks=2), order, stack.store)
    return done, prefix


def test_mended_records_become_rows_and_all_others_keep_bytes_place_and_hour(stack):
    done, prefix = again(stack, "1")
    counts = done.batch.counts
    assert (counts.read, counts.final, counts.dead_letter, counts.filtered) == (4, 1, 2, 1)
    assert done.still == {"invalid_utf8": 1, "timestamp_out_of_range": 1}
    (final,) = rows(stack, prefix, done.batch.files, FileKind.FINAL)
    assert (final["id"], final["n"], final["kafka_offset"], final["kafka_timestamp"]) == ("x1", "7", 0, AT)
    assert final["hour"] == AT.replace(minute=0)
    dead = rows(stack, prefix, done.batch.files, FileKind.DEAD_LETTER)
    assert [row["value"] for row in dead] == [LETTERS[2][0], LETTERS[3][0]]
    assert {row["key"] for row in dead} == {b"\xff\x00"}
    assert [row["routed_timestamp"] for row in dead] == [AT, ROUTED]
    assert [row["hour"] for row in dead] == [AT.replace(minute=0), ROUTED]
    assert [row["kafka_timestamp"] for row in dead] == [AT, FAR]


def test_records_of_other_reasons_are_not_touched(stack):
    done, prefix = again(stack, "2", "malformed_json")
    counts = done.batch.counts
    assert (counts.read, counts.final, counts.dead_letter, counts.filtered) == (4, 0, 4, 0)
    dead = rows(stack, prefix, done.batch.files, FileKind.DEAD_LETTER)
    assert [(row["value"], row["reason"]) for row in dead] == [
        (LETTERS[0][0], "wrong_type"),
        (LETTERS[1][0], "wrong_type"),
        (LETTERS[2][0], "invalid_utf8"),
        (LETTERS[3][0], "timestamp_out_of_range"),
    ]
    assert [row["detail"] for row in dead] == ["n", "n", None, "n"]


def test_a_rehearsal_counts_the_same_and_writes_nothing(stack):
    done, _ = again(stack, "3", write=False)
    assert (done.batch.counts.final, done.batch.files) == (1, ())
    assert list(stack.store.list(BUCKET, "staging/payouts/replay-3/")) == []


def test_a_transform_has_its_say_as_in_the_live_path(stack):
    done, prefix = again(stack, "4", transform="test_replay_spark:shout", filter=None)
    final = rows(stack, prefix, done.batch.files, FileKind.FINAL)
    assert [row["id"] for row in final] == ["X1", "X2"]


def shout(frame):
    from pyspark.sql.functions import upper  # noqa: PLC0415

    return frame.withColumn("id", upper("id"))


def test_the_reader_counts_dead_letters_by_reason(stack):
    key = dead_letter_file(stack, "5")
    found = {one.reason: one for one in S3DeadLetterReader(stack.s3.endpoint).reasons(BUCKET, key)}
    assert {reason: one.records for reason, one in found.items()} == {
        "wrong_type": 2, "malformed_json": 1, "timestamp_out_of_range": 1,
    }  # fmt: skip
    assert json.loads(found["wrong_type"].sample)["id"] == "x1"


APPLICATION = Path(__file__).parents[2] / "deployments/applications/crt-payout-v1-1.0.yaml"


def test_the_job_reads_its_order_and_writes_its_answer(stack, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKE_S3_ENDPOINT", stack.s3.endpoint)
    order = ReplayOrder("crt-payout-v1-1.0", (dead_letter_file(stack, "6"),), None, AT, None)
    told, answer = tmp_path / "order.json", tmp_path / "answer.json"
    told.write_text(OrderFile.of(order).model_dump_json())
    assert main([str(APPLICATION), str(told), str(answer)]) == 0
    done = AnswerFile.model_validate_json(answer.read_bytes()).reparsed()
    assert done.batch.counts.read == done.batch.counts.dead_letter == 4
    assert sum(done.still.values()) == 4


def test_a_job_without_its_application_or_its_files_says_so(stack, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPIKE_S3_ENDPOINT", stack.s3.endpoint)
    told, answer = tmp_path / "order.json", tmp_path / "answer.json"
    assert main([str(tmp_path / "none.yaml"), str(told), str(answer)]) == INVALID
    order = ReplayOrder("crt-payout-v1-1.0", ("final/none.parquet",), None, AT, None)
    told.write_text(OrderFile.of(order).model_dump_json())
    assert main([str(APPLICATION), str(told), str(answer)]) == 1
    assert "final/none.parquet" in caplog.text
    assert not answer.exists()
