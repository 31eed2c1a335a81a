"""Whatever fails on the wire while something is decided or deleted: once more, it ends in the same state.

As `test_nth_effect.py`, for what people and schedules do: the first request to S3, or the first COMMIT, of a
rewind, a release, a discard, a run of retention or a projection fails, then the second, and so on.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from builders import BUCKET, World, empty
from test_nth_effect import ANSWERS, MOST, lake
from test_operate import ask, hold, operator
from test_project import project
from test_swap import planned, producing, swapper
from wire_faults import CuttingProxy, S3Answers

from spike_pipelines.adapters.ledger import SqlLedger
from spike_pipelines.adapters.s3 import S3ObjectStore
from spike_pipelines.domain.errors import Refused, SpikeError, Transient
from spike_pipelines.domain.retention import RetentionTerms
from spike_pipelines.domain.rewind import Earliest
from spike_pipelines.services.retain import Retainer

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

SOON = timedelta(microseconds=1)
TERMS = RetentionTerms(grace=SOON, snapshots=SOON, keep_snapshots=1)


@dataclass
class Desk:
    """A world in which something is to be decided. All that is asked for has one request's name."""

    world: World
    number: int = 0  # of a held batch

    def __post_init__(self) -> None:
        empty(self.world.ledger)
        self.world.store.delete(BUCKET, [i.key for i in self.world.store.list(BUCKET, "")])
        for upload in self.world.store.uploads(BUCKET, ""):
            self.world.store.abort(BUCKET, upload)
        self.spike = self.world.spike()
        self.request = ask("the one")

    # what there is before

    def settled(self) -> None:
        driver = self.world.driver(self.spike)
        driver.stage(4, 1, 1), driver.stage(0, 0, 4)
        self.world.settle(self.spike)

    def held(self) -> None:
        driver = self.world.driver(self.spike)
        self.number = hold(self.world, driver)
        driver.stage(2, 0, 1)

    def untidy(self) -> None:
        """Superseded files, copies of an aborted intent, orphaned staging, an unfinished upload."""
        self.settled()
        self.rewound()
        swap = planned(self.world, self.spike)
        deaf = replace(swapper(self.world), promoter=self.world.promoter(store=Deaf(self.world.store)))
        with pytest.raises(Transient):
            deaf.finish(self.spike, swap.number, producing(self.world, self.spike))
        swapper(self.world).abort(swap.number, "enough")
        self.world.store.put(BUCKET, "staging/payouts/00000001/orphan.parquet", b"x")
        client = self.world.store._s3
        client.create_multipart_upload(Bucket=BUCKET, Key="staging/payouts/00000001/killed.parquet")

    def rewound(self) -> None:
        operator(self.world).rewind(self.spike, Earliest(), ask())
        self.read_again()

    def dropped(self) -> None:
        """The table is gone, and staging was never cleaned up."""
        driver = self.world.driver(self.spike)
        driver.stage(4, 1, 1), driver.stage(0, 0, 4)
        self.world.promoter().promote(self.spike, limit=9)
        self.world.publisher.publish(self.spike, self.world.dataset(self.spike))
        self.world.catalog._tables.clear()

    # what is done

    def rewind(self) -> None:
        operator(self.world).rewind(self.spike, Earliest(), self.request)

    def release(self) -> None:
        operator(self.world).release(self.spike, self.number, self.request)

    def discard(self) -> None:
        operator(self.world).discard(self.spike, self.number, self.request)

    def retain(self) -> None:
        world = self.world
        tuple(Retainer(world.ledger, world.store, world.catalog, world.spikes, TERMS).run())

    def project(self) -> None:
        project(self.world, self.spike, name=self.request.name)

    # what comes of it

    def read_again(self) -> None:
        """A new driver goes on from where the ledger is, to offset 10."""
        driver = self.world.driver(self.spike, f"after {self.world.ledger.epochs()['payouts'].number}")
        (at,) = driver.ends.values()
        for shape in ((4, 1, 1), (0, 0, 4))[0 if at == 0 else 1 :]:
            driver.stage(*shape)
        self.world.settle(self.spike)

    def once(self, kind: str) -> None:
        done = [o.kind for o in self.world.ledger.operations("payouts", 99) if o.request == "the one"]
        assert done == [kind]

    def rewound_once(self) -> None:
        assert self.end() == (0, 0)
        self.once("rewind")
        self.read_again()
        self.whole((4, 1))

    def released_once(self) -> None:
        self.once("release")
        self.world.settle(self.spike)
        assert self.end() == (10, 10)
        self.whole((6, 1))

    def discarded_once(self) -> None:
        assert self.end() == (0, 0)
        self.once("discard")
        self.read_again()
        self.whole((4, 1))

    def tidy(self) -> None:
        for _ in range(3):  # snapshots go before the files that only they show; all is swept twice
            self.retain()
        state = self.world.dataset(self.spike)
        live = {f.final_key for f in self.world.ledger.live_files("payouts", state.sequence)}
        assert set(self.world.keys("final/")) == live
        assert self.world.keys("staging/") == []
        assert list(self.world.store.uploads(BUCKET, "")) == []
        self.whole((4, 1))

    def projected(self) -> None:
        assert self.world.keys("staging/") == []
        self.whole((4, 1))

    def end(self) -> tuple[int, int]:
        (position,) = self.world.ledger.all_positions()["payouts"].values()
        return position.staged_end, position.committed_end

    def whole(self, rows: tuple[int, int]) -> None:
        tables = (self.spike.dataset.name, self.spike.dataset.dead_letters)
        assert tuple(sum(self.world.catalog.files(t).values()) for t in tables) == rows
        assert not {k: f.breaches for k, f in self.world.audit().items() if not f.ok}


@dataclass
class Deaf:
    """A store whose copies are made, and whose answers are lost."""

    inner: S3ObjectStore

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def copy(self, *arguments: object, **named: object) -> None:
        self.inner.copy(*arguments, **named)
        raise Transient("no answer")


@dataclass(frozen=True)
class Act:
    """`least` are the commits and requests to S3 that it has at least."""

    before: Callable[[Desk], None]
    act: Callable[[Desk], None]
    after: Callable[[Desk], None]
    commits: int
    requests: int = 0

    def again(self, desk: Desk) -> None:
        """What was done is refused now; that it was done, and once, is what comes after."""
        with suppress(Refused):
            self.act(desk)
        self.after(desk)


ACTS = {
    "rewind": Act(Desk.settled, Desk.rewind, Desk.rewound_once, 1),
    "release": Act(Desk.held, Desk.release, Desk.released_once, 1, 3),
    "discard": Act(Desk.held, Desk.discard, Desk.discarded_once, 1),
    "retention": Act(Desk.untidy, Desk.retain, Desk.tidy, 3, 8),
    "project": Act(Desk.dropped, Desk.project, Desk.projected, 2, 1),
}


def desks(act: Act, ledger: SqlLedger, store: S3ObjectStore) -> Iterator[tuple[int, Desk]]:
    for nth in range(1, MOST):
        desk = Desk(World(ledger, store=store))
        act.before(desk)
        yield nth, desk
    pytest.fail("an act has no bound")


@pytest.fixture
def store(s3) -> S3ObjectStore:
    return lake(s3.client())


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", [name for name, act in ACTS.items() if act.requests])
def test_whatever_request_s3_answers_badly_the_same_again_ends_in_the_same_state(ledger, store, name, answer):
    act, answers = ACTS[name], S3Answers(store._s3)
    for nth, desk in desks(act, ledger, store):
        answers.arm(nth, ANSWERS[answer])
        with suppress(SpikeError):
            act.act(desk)
        failed = answers.failed
        answers.arm(0, ANSWERS[answer])
        act.again(desk)
        if failed is None:
            assert nth > act.requests
            return


@pytest.mark.parametrize("answered", [False, True], ids=["lost", "done and not answered"])
@pytest.mark.parametrize("name", ACTS)
def test_whatever_commit_loses_its_connection_the_same_again_ends_in_the_same_state(  # noqa: PLR0917
    ledger, postgres, ledger_url, store, name, answered
):
    act, proxy = ACTS[name], CuttingProxy(postgres.port)
    through = SqlLedger(sa.make_url(ledger_url).set(host="127.0.0.1", port=proxy.port))
    try:
        for nth, desk in desks(act, ledger, store):
            desk.world.ledger = through
            proxy.arm(nth, answered=answered)
            with suppress(SpikeError):
                act.act(desk)
            was_cut = proxy.cut
            proxy.arm(0, answered=False)
            act.again(desk)
            if not was_cut:
                assert nth > act.commits
                return
    finally:
        through.close()
        proxy.close()
