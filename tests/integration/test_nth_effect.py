"""Whatever fails, at whichever effect: on real PostgreSQL and S3, the next run ends in the same state.

Each test fails the first effect of a whole way (register, promote, publish, report, clean up), then the
second, and so on, until the way has fewer effects than that.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

import pytest
import sqlalchemy as sa
from builders import BUCKET, HOUR, Driver, SameThread, World, empty
from processes import Fault, Port, Process, SteppedDrain
from test_swap_real import put
from wire_faults import (
    CuttingProxy,
    S3Answers,
    error_after_success,
    status,
    timeout_after_success,
)

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.adapters.ledger import SqlLedger
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.errors import Conflict, SpikeError, Transient
from spike_pipelines.ports import HourReport
from spike_pipelines.services.drain import FailedTurn, Terms
from spike_pipelines.services.publish import Publisher
from spike_pipelines.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

TERMS = Terms(idle=timedelta(0), poll_seconds=0, report_every=timedelta(0))
MOST = 200  # effects of one way, by far


@dataclass
class Way:
    """One spike with two batches, from the first POST to the last clean-up, in one process."""

    world: World
    spike: object = None
    told: list[HourReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        empty(self.world.ledger)
        self.world.store.delete(BUCKET, [i.key for i in self.world.store.list(BUCKET, "")])
        self.spike = self.world.spike()

    def body(self, process: Process) -> None:
        """All of it. What did not answer is left as it is, for the next one."""
        direct = World(
            Port(process, "ledger", self.world.ledger),
            Port(process, "broker", self.world.broker),
            self.world.store,
        )
        with suppress(Transient, Conflict):
            self.stage_both(direct.driver(self.spike))
        with suppress(Transient, Conflict), closing(self.drain(process).run()) as items:
            for item in items:
                assert not (isinstance(item, FailedTurn) and item.final), item
                if isinstance(item, HourReport):
                    process.effect("events.report", lambda item=item: self.told.append(item))

    def stage_both(self, driver: Driver) -> None:
        """Offsets [0, 6) and [6, 10): what is there already, the epoch's offsets say."""
        (at,) = driver.ends.values()
        if at == 0:
            driver.stage(4, 1, 1)
        if at < 10:
            driver.stage(0, 0, 4)

    def drain(self, process: Process) -> SteppedDrain:
        ledger = Port(process, "ledger", self.world.ledger)
        store = Port(process, "store", self.world.store)
        return SteppedDrain(
            ledger=ledger,
            promoter=self.world.promoter("run", ledger=ledger, store=store, pool=SameThread),
            publisher=Publisher(ledger, Port(process, "catalog", self.world.catalog), store),
            spikes=self.world.spikes,
            clock=Steps(),
            terms=TERMS,
            holder="run",
            pause=lambda: None,
        )

    def go(self) -> None:
        Process("way", self.body).finish()

    def recover(self) -> None:
        """Nobody is alive: leases run out, and everything is done once more."""
        with self.world.ledger.begin() as tx:
            tx._db.execute(sa.text("UPDATE leases SET expires_at = clock_timestamp() - interval '1 ms'"))
        self.go()

    def visible(self) -> tuple[int, ...]:
        """Rows that a reader sees in each of the tables."""
        return tuple(
            sum(self.world.catalog.files(t).values()) if self.world.catalog.sequence(t) else 0
            for t in self.spike.dataset.tables.values()
        )

    def check(self, where: str) -> None:
        (position,) = self.world.ledger.all_positions()[self.spike.name].values()
        assert (position.staged_end, position.committed_end) == (10, 10), where
        state = self.world.dataset(self.spike)
        assert (state.sequence, state.published, state.reported) == (2, 2, 2), where
        assert self.visible() == (4, 1), where
        assert self.world.keys("staging/payouts/") == self.left_over(), where
        assert len(self.world.keys("final/")) == 3, where
        assert {number for report in self.told for number in report.batches} == self.with_files(), where
        breached = {k: f.breaches for k, f in self.world.audit().items() if not f.ok}
        assert not breached, where

    def with_files(self) -> set[int]:
        state = self.world.dataset(self.spike)
        return {f.batch for f in self.world.ledger.live_files(state.name, state.sequence)}

    def left_over(self) -> list[str]:
        """Files of an attempt whose registration never came are not for the clean-up of batches."""
        with self.world.ledger.begin() as tx:
            known = set(tx._db.execute(sa.text("SELECT staging_key FROM files")).scalars())
        return [key for key in self.world.keys("staging/payouts/") if key not in known]


class Steps:
    def __init__(self) -> None:
        self._ticks = count()

    def now(self):
        return HOUR + next(self._ticks) * timedelta(milliseconds=1)


def lake(client, **limits: int) -> S3ObjectStore:
    """The store, with its bucket."""
    with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket=BUCKET)
    return S3ObjectStore(client, **limits)


@pytest.fixture
def store(s3) -> S3ObjectStore:
    return lake(s3.client())


def ways(ledger, store) -> Iterator[tuple[int, Way]]:
    for nth in range(1, MOST):
        yield nth, Way(World(ledger, store=store))
    pytest.fail("a way has no bound")


def seen_whole(way: Way) -> None:
    """All of a commit, or none of it: the first batch has four rows and a dead letter, the other none."""
    final, dead = way.visible()
    assert final in {0, 4}
    assert dead in {0, 1}


@pytest.mark.parametrize(
    "fault", [Fault.BEFORE, Fault.LATE, Fault.FAILED, Fault.UNANSWERED], ids=lambda f: f.value
)
def test_whatever_effect_fails_the_next_run_ends_in_the_same_state(ledger, store, fault):
    for nth, way in ways(ledger, store):
        process = Process("way", way.body)
        for _ in range(nth - 1):
            process.step()
        where = f"effect {nth}, {process.waits_for}: {fault}"
        if process.waits_for is None:
            assert nth > 40
            way.check("nothing failed")
            return
        process.step(fault)
        seen_whole(way)
        process.finish()
        way.recover()
        for late in process.late:
            with suppress(SpikeError):
                late()
        seen_whole(way)
        way.recover()
        way.check(where)


ANSWERS = {
    "503": status(503, "SlowDown"),
    "403": status(403, "AccessDenied"),
    "412": status(412, "PreconditionFailed"),
    "200 with an error": status(200, "InternalError"),
    "timeout after success": timeout_after_success,
    "503 after success": error_after_success,
}


@pytest.fixture
def retrying(s3, monkeypatch):
    """The platform's own client: it sends a request again by itself."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return connect(s3.endpoint)


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_request_s3_answers_badly_the_next_run_ends_in_the_same_state(ledger, s3, store, answer):
    fail_each_request(ledger, s3.client(), answer)


@pytest.mark.usefixtures("store")
def test_whatever_request_is_sent_twice_by_the_sdk_the_state_is_the_same(ledger, retrying):
    fail_each_request(ledger, retrying, "503 after success")


@pytest.mark.parametrize("answer", ["503", "200 with an error", "timeout after success"])
def test_whatever_request_of_copies_in_parts_fails_the_next_run_ends_in_the_same_state(ledger, s3, answer):
    """Every file is too large for one request: an upload, its part, its completion."""
    client = s3.client()
    fail_each_request(ledger, client, answer, lake(client, max_copy=100))


def fail_each_request(ledger, client, answer, store=None) -> None:
    answers = S3Answers(client)
    for nth, way in ways(ledger, store or S3ObjectStore(client)):
        answers.arm(nth, ANSWERS[answer])
        with suppress(SpikeError):
            way.go()
        where = f"request {nth}, {answers.failed}: {answer}"
        failed = answers.failed
        answers.arm(0, ANSWERS[answer])
        seen_whole(way)
        way.recover()
        way.check(where)
        if failed is None:
            assert nth > 10
            return


@pytest.mark.parametrize("answered", [False, True], ids=["lost", "done and not answered"])
def test_whatever_commit_loses_its_connection_the_next_run_ends_in_the_same_state(
    ledger, postgres, ledger_url, store, answered
):
    proxy = CuttingProxy(postgres.port)
    through = SqlLedger(sa.make_url(ledger_url).set(host="127.0.0.1", port=proxy.port))
    try:
        for nth, way in ways(ledger, store):
            way.world.ledger = through
            proxy.arm(nth, answered=answered)
            way.go()
            was_cut = proxy.cut
            proxy.arm(0, answered=False)
            seen_whole(way)
            way.recover()
            way.check(f"commit {nth}")
            if not was_cut:
                assert nth > 15
                return
    finally:
        through.close()
        proxy.close()


@pytest.fixture
def iceberg(s3, postgres, monkeypatch) -> Iterator[IcebergCatalog]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setattr(Driver, "_put", put)
    settings = Settings(
        catalog_url=postgres.url("iceberg"), warehouse=f"s3://{BUCKET}/warehouse", s3_endpoint=s3.endpoint
    )
    with closing(IcebergCatalog.connect(settings)) as catalog:
        yield catalog


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.LATE, Fault.UNANSWERED], ids=lambda f: f.value)
def test_whatever_happens_to_a_real_snapshot_the_next_run_ends_in_the_same_state(
    ledger, store, iceberg, fault
):
    for nth, way in ways(ledger, store):
        way.world.catalog = iceberg
        way.spike = way.world.spike(f"nth-{fault.name.lower()}-{nth}")
        process = Process("way", way.body)
        fired = process.reach("catalog.publish", nth)
        process.step(fault)
        seen_whole(way)
        process.finish()
        for late in process.late:
            with suppress(SpikeError):
                late()
        seen_whole(way)
        way.recover()
        assert way.visible() == (4, 1)
        assert all(f.ok for f in way.world.audit().values())
        if not fired:
            assert nth == 3
            return
