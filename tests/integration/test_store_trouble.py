"""Trouble outside, on the real S3 and the real Kafka: told with the way out, nothing is committed meanwhile,
and the same appender run, or the same driver's question, goes on once the cause is gone."""

import http.client
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import boto3
import builders
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from builders import HOUR, NEXT_HOUR, Driver, World
from dying import expire_leases
from waiting import once_free_of

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.s3 import S3ObjectStore
from spike_pipelines.domain.batch import BatchState
from spike_pipelines.domain.errors import TopicMissing, Transient
from spike_pipelines.ports import HourReport
from spike_pipelines.services.drain import Drain, FailedTurn, Terms, needs_appender

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

DENIED = b"<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>"
FULL = b"<Error><Code>InsufficientStorage</Code><Message>no space left</Message></Error>"


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Between:
    """Stands before the real S3 and, while it has an `answer` (status, body), gives that to every copy but
    the first `spared`."""

    def __init__(self, port: int, answer: tuple[int, bytes], spared: int = 0) -> None:
        self.port, self.spared = port, spared
        self.answer: tuple[int, bytes] | None = answer
        self.copied = self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuses(self, headers) -> bool:
        if self.answer is None or "x-amz-copy-source" not in headers:
            return False
        refused = self.copied >= self.spared
        self.copied, self.refused = self.copied + 1, self.refused + refused
        return refused

    def _handler(between) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if between.refuses(self.headers):
                    self.reply(*between.answer, {})
                    return
                server = http.client.HTTPConnection("127.0.0.1", between.port, timeout=30)
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                headers = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in {"transfer-encoding", "connection", "content-length"}
                }
                length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
                self.reply(answer.status, answer.read(), headers, length)
                server.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815

            def reply(self, status, body, headers, length=None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Quiet."""

        return Handler


def store_at(endpoint: str, key: str, secret: str) -> S3ObjectStore:
    session = boto3.session.Session(key, secret, region_name="us-east-1")
    once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={})
    return S3ObjectStore(session.client("s3", endpoint_url=endpoint, config=once))


class Mended:
    """One store, until it is replaced by another."""

    def __init__(self, store: S3ObjectStore) -> None:
        self.store = store

    def __getattr__(self, name: str):
        return getattr(self.store, name)


@pytest.fixture
def good(s3) -> S3ObjectStore:
    return store_at(s3.endpoint, s3.access_key, s3.secret_key)


@pytest.fixture
def bucket(s3, monkeypatch) -> Iterator[str]:
    """Each test has its own: a name that was just given up is not always free at once."""
    name = f"lake-{secrets.token_hex(4)}"
    monkeypatch.setattr(builders, "BUCKET", name)
    s3.client().create_bucket(Bucket=name)
    yield name
    delete_bucket(s3.client(), name)


@pytest.fixture
def driver(ledger, good, bucket) -> Driver:
    world = World(ledger, store=good)
    driver = world.driver(world.spike())
    driver.stage(), driver.stage()
    return driver


def delete_bucket(client, bucket: str) -> dict[str, bytes]:
    """With what was in it."""
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", ())]
    content = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    for key in keys:
        client.delete_object(Bucket=bucket, Key=key)
    client.delete_bucket(Bucket=bucket)
    return content


def once_it_can_be(act: Callable[..., object], **named: object) -> None:
    """A bucket's name is free again, and a new bucket known, a while later only."""
    once_free_of(ClientError, lambda: act(**named))


def drained(driver: Driver, store, mend) -> list[FailedTurn]:
    """One appender run; at its first trouble nothing is committed, and the cause is mended."""
    world = driver.world
    run = Drain(
        ledger=world.ledger,
        promoter=world.promoter(store=store),
        publisher=world.publisher,
        spikes=world.spikes,
        clock=Clock(),
        terms=Terms(idle=timedelta(seconds=10), longest=timedelta(seconds=120), poll_seconds=0.05),
        holder="run",
    )
    troubles = []
    reports = []
    for item in run.run():
        if isinstance(item, HourReport):
            reports.append((item.hour, item.rows, item.dead_letters))
            continue
        troubles.append(item)
        if len(troubles) == 1:
            assert committed(driver) == [0]
            mend()
    assert sorted(reports) == [(HOUR, 4, 2), (NEXT_HOUR, 4, 0)]
    return troubles


def committed(driver: Driver) -> list[int]:
    positions = driver.world.ledger.all_positions()[driver.spike.name]
    return [position.committed_end for position in positions.values()]


def all_is_well(driver: Driver) -> None:
    world = driver.world
    assert committed(driver) == [12]
    assert {b.state for b in world.ledger.last_batches(driver.spike.name, 9)} == {BatchState.COMMITTED}
    assert needs_appender(world.ledger, world.spikes) is None
    assert world.keys("staging/") == []
    assert [finding for finding in world.audit().values() if not finding.ok] == []


def test_wrong_credentials_are_told_and_the_run_goes_on_with_right_ones(s3, good, driver):
    store = Mended(store_at(s3.endpoint, s3.access_key, "wrong"))

    def mend() -> None:
        store.store = good

    troubles = drained(driver, store, mend)
    assert not any(trouble.final for trouble in troubles)
    assert "was denied" in troubles[0].message
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in troubles[0].message
    all_is_well(driver)


def test_a_run_that_takes_over_with_wrong_credentials_loses_nothing_of_what_was_begun(s3, good, driver):
    """The one before ended after its first copy: the next has to ask what is at the final places."""
    with Between(s3.ports.s3, (507, FULL), spared=1) as between:
        before = driver.world.promoter("before", store=store_at(between.url, s3.access_key, s3.secret_key))
        with pytest.raises(Transient):
            before.promote(driver.spike, limit=1)
    assert len(driver.world.keys("final/")) == 1
    expire_leases(driver.world)
    store = Mended(store_at(s3.endpoint, "nobody", "wrong"))

    def mend() -> None:
        store.store = good

    troubles = drained(driver, store, mend)
    assert "was denied" in troubles[0].message
    all_is_well(driver)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((507, FULL), "failed: 507 InsufficientStorage no space left"),
        ((403, DENIED), "AccessDenied not yours"),
    ],
    ids=["full", "final places denied"],
)
def test_copies_that_are_refused_are_told_and_done_once_there_is_room(s3, driver, answer, told):
    with Between(s3.ports.s3, answer) as between:

        def mend() -> None:
            between.answer = None

        troubles = drained(driver, store_at(between.url, s3.access_key, s3.secret_key), mend)
        assert between.refused
    assert not any(trouble.final for trouble in troubles)
    assert told in troubles[0].message
    all_is_well(driver)


def test_a_bucket_that_is_missing_at_promotion_is_told_and_the_run_goes_on_once_it_is_there(
    s3, good, driver, bucket
):
    client = s3.client()
    content = delete_bucket(client, bucket)

    def mend() -> None:
        once_it_can_be(client.create_bucket, Bucket=bucket)
        for key, body in content.items():
            once_it_can_be(client.put_object, Bucket=bucket, Key=key, Body=body)

    troubles = drained(driver, good, mend)
    assert not any(trouble.final for trouble in troubles)
    assert f"bucket {bucket} does not exist: create it and the work goes on by itself" in troubles[0].message
    all_is_well(driver)


def test_a_topic_that_does_not_exist_in_kafka_is_told_and_read_once_it_is_there(ledger, kafka):
    broker = KafkaBroker(kafka.bootstrap)
    world = World(ledger)
    spike = world.spike(topic=f"missing-{secrets.token_hex(4)}")
    world.broker = broker
    with pytest.raises(TopicMissing, match=f"topic {spike.topic} .* does not exist: create it"):
        world.registrar.open_epoch(spike, "a", None, "1.0")
    kafka.create_topics({spike.topic: 2})
    # A new topic has no leader in its first moments.
    opened = once_free_of(Transient, lambda: world.registrar.open_epoch(spike, "a", None, "1.0"))
    broker.close()
    assert sorted((p.index, offset) for p, offset in opened.offsets.items()) == [(0, 0), (1, 0)]
