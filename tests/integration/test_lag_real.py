"""What lag says on a real Kafka and a real ledger, in Dagster's checks and in `spike lag`, and what ends it.

The driver and its cluster are scripted; tests/e2e/test_lag_live.py does the same on the whole stack.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import typer
from builders import World, spike
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from topics import create_topic
from typer.testing import CliRunner
from waiting import until

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.kafka_mirror import KafkaMirror
from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.cli import lag as lag_cli
from spike_pipelines.cli import operations as operations_cli
from spike_pipelines.cli.main import app
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.orchestration.checks import check_events, lag_checks
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.services.close import Closer
from spike_pipelines.services.observe import Observer
from spike_pipelines.services.operate import Operator

pytestmark = pytest.mark.real


class Cluster:
    """`live`: whether the driver runs."""

    def __init__(self, name: str) -> None:
        self.name, self.live = name, True

    def drivers(self):
        state = DriverState.RUNNING if self.live else DriverState.EXITED
        return (ObservedDriver(self.name, "a", state, datetime.now(UTC), None if self.live else 1),)


class Scene:
    """One spike on a topic of a real broker, and what checks, commands and an administrator do about it."""

    def __init__(self, ledger, bootstrap: str) -> None:
        name = f"lag-{secrets.token_hex(4)}"
        self.bootstrap, self.name = bootstrap, name
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        self.broker, self.surveyor = KafkaBroker(bootstrap), KafkaSurveyor(bootstrap)
        self.mirror = KafkaMirror(bootstrap)
        self.spike = spike(name)
        self.create()
        self.world = World(ledger, broker=self.broker, spikes={name: self.spike})
        self.cluster = Cluster(name)
        self.ledger, self.spikes = ledger, self.world.spikes
        self.observer = Observer(ledger, self.surveyor, self.cluster, self.spikes, self.mirror)
        self.closer = Closer(ledger, self.broker, self.surveyor, self.spikes)
        self.operator = Operator(ledger, self.broker, self.world.store)
        self.cursor: str | None = None

    # what an administrator and producers do

    def create(self, partitions: int = 1) -> None:
        create_topic(self.admin, self.spike.topic, partitions)

    def recreate(self) -> None:
        self.admin.delete_topics([self.spike.topic])
        until(lambda: self.spike.topic not in self.admin.list_topics())
        self.create()

    def produce(self, records: int, index: int = 0) -> None:
        for _ in range(records):
            self.producer.send(self.spike.topic, value=b"x", partition=index)
        self.producer.flush(timeout=10)

    def keep(self, kept: timedelta) -> None:
        configs = {"retention.ms": str(int(kept.total_seconds() * 1000))}
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.spike.topic, configs)])

    def delete_records(self, before: int) -> None:
        self.admin.delete_records({TopicPartition(self.spike.topic, 0): before})

    # what is seen

    def told(self) -> dict[str, dg.AssetCheckEvaluation]:
        """What the sensor tells now: only what changed since it was asked last."""
        result = check_events(self, self.cursor, datetime.now(UTC))
        self.cursor = result.cursor
        return {event.check_name: event for event in result.asset_events}

    def executed(self, *names: str) -> dict[str, dg.AssetCheckEvaluation]:
        """What "Execute" in Dagster's UI gives."""
        checks = lag_checks(self.spikes.values())
        chosen = [key for key in checks.check_keys if key.name in names]
        done = dg.materialize(
            [checks], selection=dg.AssetSelection.checks(*chosen), resources={"platform": self}
        )
        return {found.check_name: found for found in done.get_asset_check_evaluations()}

    def run(self, *arguments: str) -> str:
        plain = typer.Typer()
        plain.registered_commands, plain.registered_groups = app.registered_commands, app.registered_groups
        result = CliRunner().invoke(plain, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    def shown(self) -> dict:
        return json.loads(self.run("lag", self.name, "-o", "json"))[self.name]

    def close(self) -> None:
        for part in (self.surveyor, self.mirror, self.broker, self.producer, self.admin):
            part.close()


@pytest.fixture
def scene(ledger, kafka, monkeypatch) -> Iterator[Scene]:
    with closing(Scene(ledger, kafka.bootstrap)) as scene:
        for module in (lag_cli, operations_cli):
            monkeypatch.setattr(module, "Platform", lambda: scene)
        yield scene


@pytest.fixture
def driver(scene):
    """It has committed 6 of 30 records, and all checks pass."""
    scene.produce(30)
    driver = scene.world.driver(scene.spike)
    driver.stage()
    scene.world.settle(scene.spike)
    assert {name: event.passed for name, event in scene.told().items() if not event.passed} == {}
    return driver


def red(events, name: str) -> str:
    event = events[name]
    assert (event.passed, event.severity) == (False, dg.AssetCheckSeverity.ERROR)
    return event.description


# what turns a check red, and the sentence


def test_a_driver_that_stopped_turns_lag_and_progress_red(scene, driver):
    scene.cluster.live = False
    events = scene.told()
    assert "STOPPED: no driver runs, 24 records" in red(events, "lag")
    assert "no driver runs" in red(events, "progress")
    assert scene.shown()["verdict"] == "STOPPED"
    assert scene.told() == {}, "told once, not at every tick"
    scene.cluster.live = True
    assert {name: event.passed for name, event in scene.told().items()} == {"lag": True, "progress": True}


def test_an_appender_that_pauses_is_backpressure_and_turns_lag_red_beyond_the_objective(scene, driver):
    for _ in range(4):
        driver.stage(final=2)
    assert "lag" not in scene.told(), "a burst: another batch is not due yet"
    scene.world.execute("UPDATE batches SET staged_at = staged_at - interval '21 s' WHERE state = 'staged'")
    assert "lag" not in scene.told(), "at the next look it may be over"
    assert scene.told()["lag"].severity is dg.AssetCheckSeverity.WARN
    scene.world.spikes[scene.name] = spike(scene.name, objectives=short_objectives())
    assert "BACKPRESSURED: 4 batches wait for the appender" in red(scene.told(), "lag")
    assert scene.shown()["verdict"] == "BACKPRESSURED"


def short_objectives():
    plain = spike().objectives
    return type(plain)(lag=timedelta(milliseconds=1), warn=timedelta(milliseconds=1), hang=plain.hang)


def test_retention_that_is_shortened_turns_retention_red_before_anything_is_lost(scene, driver):
    scene.keep(timedelta(seconds=8))
    until(lambda: scene.shown()["verdict"] == "RETENTION_RISK")
    events = scene.told()
    assert f"raise retention.ms of {scene.spike.topic}" in red(events, "retention")
    assert events["lag"].description.startswith("RETENTION_RISK: Kafka deletes the oldest unread records in")
    assert scene.shown()["partitions"][0]["lost"] == 0


def test_a_topic_made_again_turns_topic_identity_red_until_a_person_begins_with_it(scene, driver):
    scene.recreate()
    scene.produce(5)
    until(lambda: scene.shown()["verdict"] == "TOPIC_CHANGED")
    events = scene.told()
    assert "was deleted and made again" in red(events, "topic_identity")
    assert "TOPIC_CHANGED" in red(events, "lag")
    scene.run("resume", scene.name, "--accept-loss", "--why", "the topic was rebuilt", "--who", "ann")
    assert scene.told()["topic_identity"].passed
    assert scene.shown()["lag"] == 5


def test_records_deleted_unread_are_lost_until_the_loss_is_accepted_and_acknowledged(scene, driver):
    """The whole way out, as the runbook of SpikeLost has it."""
    scene.delete_records(10)
    events = scene.told()
    assert "4 records were deleted by Kafka before they were read" in red(events, "lag")
    assert red(events, "retention") == "4 records were deleted unread, or cut off"
    said = scene.run("ack", scene.name, "--why", "known", "--who", "ann")
    assert "acknowledged the loss of 4 records" in said
    assert "it is LOST until `spike resume`" in said
    assert scene.shown()["verdict"] == "LOST"
    scene.told()  # what is still missing is a loss that stands open again
    scene.run("resume", scene.name, "--accept-loss", "--why", "INC-42", "--who", "ann")
    assert scene.shown()["verdict"] == "LOST", "going on does not end the alarm"
    assert "4 records were lost at" in scene.shown()["sentence"]
    scene.run("ack", scene.name, "--why", "INC-42", "--who", "ann")
    assert scene.shown()["verdict"] == "OK"
    events = scene.told()
    assert (events["lag"].passed, events["retention"].passed) == (True, True)
    assert "no loss stands open" in scene.run("ack", scene.name, "--why", "again")


def test_what_is_staged_is_safe_however_much_kafka_deletes_meanwhile(scene, driver):
    """The appender pauses, the retention is short: staged, not committed, and gone from Kafka."""
    driver.stage()
    scene.delete_records(12)
    seen = scene.shown()
    assert (seen["verdict"], seen["partitions"][0]["lost"]) == ("OK", 0)
    scene.delete_records(13)
    assert (scene.shown()["verdict"], scene.shown()["partitions"][0]["lost"]) == ("LOST", 1)


# what is no lag, and what is


def test_behind_the_last_record_of_a_transaction_there_is_nothing_to_commit(scene):
    producer = KafkaProducer(bootstrap_servers=scene.bootstrap, transactional_id=secrets.token_hex(4))
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(6):
        producer.send(scene.spike.topic, value=b"x", partition=0)
    producer.commit_transaction()
    producer.close()
    until(lambda: scene.shown()["lag"] == 7)
    scene.world.driver(scene.spike).stage()
    scene.world.settle(scene.spike)
    seen = scene.shown()
    assert (seen["verdict"], seen["partitions"][0]["log_end"], seen["lag"]) == ("IDLE", 7, 0)


def test_partitions_that_are_added_lag_from_their_first_record(scene, driver):
    scene.admin.create_partitions({scene.spike.topic: 2})
    until(lambda: len(scene.broker.topics([scene.spike.topic])[scene.spike.topic].log_end) == 2)
    with closing(KafkaProducer(bootstrap_servers=scene.bootstrap, acks="all")) as producer:
        for _ in range(3):
            producer.send(scene.spike.topic, value=b"x", partition=1).get(10)
    seen = scene.shown()
    assert {p["partition"]["index"]: p["lag"] for p in seen["partitions"]} == {0: 24, 1: 3}
    assert seen["verdict"] == "OK"


# the UI


def test_execute_looks_now_whatever_the_sensor_told_last(scene, driver):
    assert scene.executed("lag", "progress")["lag"].passed
    scene.cluster.live = False
    done = scene.executed("lag")
    assert list(done) == ["lag"], "only what was chosen"
    assert "no driver runs" in red(done, "lag")
    assert "STOPPED" in red(scene.told(), "lag"), "and takes nothing from the sensor"


def test_no_verdict_ever_restarts_a_driver(scene, driver):
    """Looking is reading: the epoch, and what was done to the spike, stay as they are."""
    scene.cluster.live = False
    before = scene.ledger.epochs()
    scene.told(), scene.executed("lag"), scene.shown()
    assert scene.ledger.epochs() == before
    assert before[scene.name].state is EpochState.OPEN
    assert scene.ledger.recoveries(datetime.now(UTC) - timedelta(hours=1)) == {}
