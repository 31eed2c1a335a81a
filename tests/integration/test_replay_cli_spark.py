"""`spike dlq` from end to end: PostgreSQL, S3, Iceberg, and the Spark job in a process of its own."""

import io
import json
import shutil
from pathlib import Path

import builders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR
from test_replay_spark import SCHEMA
from test_swap import breaches
from test_swap_real import BUCKET, keys, real
from typer.testing import CliRunner

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.cli.main import app
from spike_pipelines.domain.batch import FileKind, StagedFile
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark]

__all__ = ["real"]  # a fixture

NAME = "crt-payout-v1-1.0"
APPLICATION = Path(__file__).parents[2] / f"deployments/applications/{NAME}.yaml"
GOOD = {
    "payout_id": "p1",
    "event_time": "2026-11-22T21:30:00Z",
    "publisher_id": 1,
    "state": "paid",
    "amount": 1.5,
    "currency": "usd",
}


def put(driver, key, kind, hour, rows, *_):
    """Two dead letters: one that today's schema reads, and one that none will."""
    if rows == 0:
        return None
    assert (kind, rows) == (FileKind.DEAD_LETTER, 2)
    dead = [
        {"kafka_topic": "t", "kafka_partition": 0, "kafka_offset": offset, "kafka_timestamp": hour,
         "routed_timestamp": hour, "key": None, "value": value, "reason": "wrong_type", "detail": "amount"}
        for offset, value in enumerate([json.dumps(GOOD).encode(), b"{nonsense"])
    ]  # fmt: skip
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(dead, schema=SCHEMA), body)
    absolute = staging_prefix(driver.spike, driver.token.number) + key
    info = driver.world.store.put(BUCKET, absolute, body.getvalue())
    return StagedFile(key, kind, hour, rows, info.size, info.etag)


@pytest.fixture
def environment(ledger_url, postgres, s3, tmp_path, monkeypatch):
    """Of the `spike` command."""
    applications = tmp_path / "applications"
    applications.mkdir()
    shutil.copy(APPLICATION, applications)
    for name, value in {
        "LEDGER_URL": ledger_url, "CATALOG_URL": postgres.url("iceberg"), "S3_ENDPOINT": s3.endpoint,
        "APPLICATIONS_DIR": str(applications), "STATE_DIR": str(tmp_path / "state"),
        "SPARK_JARS": ",".join(str(jar) for jar in spark_jars()),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SPIKE_{name}", value)


@pytest.fixture
def ran(real, environment, monkeypatch):
    """One published batch of two dead letters."""
    monkeypatch.setattr(builders.Driver, "_put", put)
    spike = real.spikes[NAME] = load_application(APPLICATION)
    real.broker.create(spike.topic, 1)
    real.broker.append(spike.topic, 0, HOUR, HOUR)
    driver = real.driver(spike)
    driver.stage(0, 2, 0)
    real.settle(spike)
    return driver


def say(*words):
    done = CliRunner().invoke(app, ["dlq", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_mended_schema_turns_dead_letters_into_rows_that_readers_see(real, ran):
    assert "wrong_type" in say("list", NAME)
    sentence = "1 row, 0 filtered, 1 dead letter (malformed_json 1)"
    assert f"2 dead letters would become {sentence}" in say("replay", NAME, "--dry-run")
    assert sum(real.catalog.files("payout_dead_letters").values()) == 2
    assert f"2 dead letters became {sentence}" in say("replay", NAME, "--why", "amount is a number")
    (row,) = rows(real, "payout")
    assert (row["payout_id"], row["currency"], row["kafka_offset"]) == ("p1", "USD", 0)
    (dead,) = rows(real, "payout_dead_letters")
    assert (dead["value"], dead["reason"], dead["kafka_offset"]) == (b"{nonsense", "malformed_json", 1)
    # What is left are the committers' own marks; retention takes them after grace.
    assert not [key for key in keys(real, "staging/") if key.endswith(".parquet")]
    assert breaches(real) == {}
    assert "malformed_json" in say("list", NAME)


def rows(world, table):
    return world.catalog.load(table).scan().to_arrow().to_pylist()
