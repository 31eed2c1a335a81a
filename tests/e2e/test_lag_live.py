"""Lag tells the truth on the whole stack: what goes wrong turns the right check red in Dagster, with the
right sentence, also in `spike lag`, and a real Prometheus fires the alert that the runbook is for.

    SPIKE_PICTURES=docs/images .venv/bin/pytest tests/e2e/test_lag_live.py

also makes the pictures of docs/lag.md.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from dagster_ui import Dagster
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from watching import Prometheus, picture, prometheus

from spike_pipelines.domain.errors import Transient
from spike_pipelines.stack import faults, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt-get install prometheus"),
]

log = logging.getLogger(__name__)

PAYOUT, SESSION = "crt-payout-v1-1.0", "crt-session-v1-1.0"
RED_SECONDS = 120  # from what goes wrong to the red check
FIRES_SECONDS = 200  # to the alert, which waits a minute by its `for`
WORSE_SECONDS = 60  # a look later: what comes suddenly is a risk before it is seen to be a loss that nears
ALERTS = {
    "STOPPED": "SpikeStopped", "BACKPRESSURED": "SpikeBackpressured", "WILL_LOSE": "SpikeWillLose",
    "RETENTION_RISK": "SpikeRetentionRisk", "TOPIC_CHANGED": "SpikeTopicChanged", "LOST": "SpikeLost",
}  # fmt: skip


@dataclass
class Watch:
    """What all who look at the stack are told."""

    stack: object
    dagster: Dagster
    prometheus: Prometheus
    seconds: dict[str, float] = field(default_factory=dict)

    def shown(self, spike: str) -> dict:
        return json.loads(self.stack.run("lag", spike, "-o", "json"))[spike]

    def red(self, spike: str, check: str, words: str, since: float, done: float | None = None) -> None:
        """The newest evaluation of the check is an error that says these words, of `since` or later, and
        there two minutes after what was done then (`done`, where that is later than `since`)."""

        def told() -> bool:
            said = self.dagster.history(asset(spike), check, limit=1)
            return bool(said) and said[0].red and said[0].at > since and words in said[0].sentence

        left = (done or since) + RED_SECONDS - time.time()
        self.stack.await_(f"{check} of {spike} red: {words}", told, left)
        self.seconds[f"{check} of {spike}: {words}"] = time.time() - since

    def fires(self, spike: str, *verdicts: str, since: float, within: float = FIRES_SECONDS) -> None:
        """The alert of one of the verdicts."""
        alerts = [ALERTS[verdict] for verdict in verdicts]
        left = since + within - time.time()
        one = f"{' or '.join(alerts)} of {spike}"
        self.stack.await_(one, lambda: any(self.prometheus.fires(alert, spike) for alert in alerts), left)
        self.seconds[one] = time.time() - since

    def green(self, spike: str, check: str) -> None:
        def passes() -> bool:
            said = self.dagster.history(asset(spike), check, limit=1)
            return bool(said) and said[0].passed

        self.stack.await_(f"{check} of {spike} passes", passes)


def asset(spike: str) -> str:
    return f"spike/{spike.replace('-', '_').replace('.', '_')}"


@pytest.fixture
def watch(stack, tmp_path: Path) -> Iterator[Watch]:
    """Both spikes commit, all checks of both were told, and Prometheus scrapes both drivers."""
    for spike in (PAYOUT, SESSION):
        stack.await_commit(spike)
    with prometheus(tmp_path, stack.run("prometheus")) as beside:
        watch = Watch(stack, Dagster(running.find(stack.folder).link), beside)
        for spike in (PAYOUT, SESSION):
            watch.green(spike, "lag")
        both = "count(spike_driver_batch_seconds > 0)"
        stack.await_("both drivers are scraped", lambda: beside.value(both) == len((PAYOUT, SESSION)))
        yield watch
    for sensor in ("supervisor_sensor", "appender_sensor"):
        watch.dagster.start(sensor)


@pytest.fixture
def admin(stack) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=stack.platform.settings.require("kafka_bootstrap"))
    yield admin
    admin.close()


def test_what_goes_wrong_is_told_by_the_right_check_sentence_and_alert(stack, watch, admin):
    """One story, since waiting is what it costs: each spike is troubled twice, and then mended."""
    spikes = stack.platform.spikes
    assert watch.prometheus.value(f'spike_driver_trigger_seconds{{spike="{PAYOUT}"}}') == 10

    since = time.time()
    stop_driver_for_good(stack, watch, PAYOUT)
    pause_appender(stack, watch)
    paused = time.time()
    watch.red(PAYOUT, "lag", "STOPPED: no driver runs", since)
    watch.red(PAYOUT, "progress", "no driver runs", since)
    watch.red(SESSION, "lag", "BACKPRESSURED: ", paused)
    assert watch.shown(PAYOUT)["verdict"] == "STOPPED"
    assert "batches wait for the appender" in watch.shown(SESSION)["sentence"]
    assert watch.shown(SESSION)["unacknowledged_loss"] == 0, "what is staged is safe"
    watch.fires(PAYOUT, "STOPPED", since=since)
    watch.fires(SESSION, "BACKPRESSURED", since=paused)
    assert watch.prometheus.value('count(up{job="spike-driver"} == 0)') == 1

    since = time.time()
    watch.dagster.start("appender_sensor")
    keep(admin, spikes[PAYOUT].topic, timedelta(minutes=1))
    recreate(stack, admin, spikes[SESSION].topic)
    watch.red(PAYOUT, "retention", f"raise retention.ms of {spikes[PAYOUT].topic}", since)
    watch.red(SESSION, "topic_identity", "was deleted and made again", since)
    watch.red(SESSION, "lag", "TOPIC_CHANGED: ", since)
    worse = ("RETENTION_RISK", "WILL_LOSE", "LOST")  # Kafka deletes every five minutes, whenever that is
    assert watch.shown(PAYOUT)["verdict"] in worse
    watch.fires(PAYOUT, *worse, since=since, within=FIRES_SECONDS + WORSE_SECONDS)
    watch.fires(SESSION, "TOPIC_CHANGED", since=since)

    deleted = time.time()
    lose_what_is_unread(admin, spikes[PAYOUT].topic)
    watch.red(PAYOUT, "lag", "records were deleted by Kafka before they were read", since, deleted)
    watch.fires(PAYOUT, "LOST", since=deleted)

    keep(admin, spikes[PAYOUT].topic, timedelta(days=7))
    mend(stack, watch)
    for what, seconds in watch.seconds.items():
        log.info("%s after %.0f s", what, seconds)
    take_pictures(watch)


def stop_driver_for_good(stack, watch, spike: str) -> None:
    """As a person does it: supervision is stopped in Dagster's UI, then the driver."""
    watch.dagster.stop("supervisor_sensor")
    (driver,) = stack.drivers(spike)
    stack.platform.cluster.stop(driver.driver)


def pause_appender(stack, watch) -> None:
    watch.dagster.stop("appender_sensor")

    def killed() -> bool:
        try:
            faults.kill_appender_run(stack.platform)
        except (Transient, psutil.NoSuchProcess):
            return stack.platform.ledger.backlog() != ()  # no run is at work, and batches wait
        return False

    stack.await_("no appender run is at work", killed)


def keep(admin: KafkaAdminClient, topic: str, kept: timedelta) -> None:
    configs = {"retention.ms": str(int(kept.total_seconds() * 1000))}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


def recreate(stack, admin: KafkaAdminClient, topic: str) -> None:
    admin.delete_topics([topic])
    stack.await_("the topic is gone", lambda: topic not in admin.list_topics(), 30)
    admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}})


def lose_what_is_unread(admin: KafkaAdminClient, topic: str) -> None:
    """What a short retention does once a whole segment is old; the log's start moves at once."""
    places = [TopicPartition(topic, index) for index in (0, 1)]
    ends = admin.list_partition_offsets(dict.fromkeys(places, -1))
    admin.delete_records({place: ends[place].offset for place in places})


def mend(stack, watch) -> None:
    """By the runbooks: go on behind what is lost, acknowledge it, let supervision start the drivers."""
    for spike in (PAYOUT, SESSION):
        stack.run("resume", spike, "--accept-loss", "--why", "a test", "--who", "ann")
    assert watch.shown(PAYOUT)["verdict"] == "LOST", "until it is acknowledged"
    stack.run("ack", PAYOUT, "--why", "a test", "--who", "ann")
    watch.dagster.start("supervisor_sensor")
    for spike in (PAYOUT, SESSION):
        stack.await_commit(spike)
    for check in ("lag", "retention", "topic_identity", "progress"):
        watch.green(PAYOUT, check)
        watch.green(SESSION, check)


def take_pictures(watch) -> None:
    checks = f"{watch.dagster.url}/assets/{asset(PAYOUT)}?view=checks&checkDetail="
    picture("lag-history", f"{checks}lag", height=1500)
    lags = f'spike_lag_seconds{{spike="{PAYOUT}"}}'
    records = f'spike_lag_records{{spike="{PAYOUT}"}}'
    verdicts = f'spike_verdict{{spike="{PAYOUT}"}} == 1'
    batches = f'{{__name__=~"spike_driver_(batch|trigger)_seconds",spike="{SESSION}"}}'
    picture("prometheus-lag", watch.prometheus.graph(lags, verdicts), height=1500)
    picture("prometheus-batches", watch.prometheus.graph(batches, records), height=1500)
