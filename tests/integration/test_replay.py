"""`spike dlq replay` without Spark: what is chosen, finished first, kept apart, and told."""

import sys
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from builders import HOUR, NEXT_HOUR, parquet, stage_file
from dying import Trap, expire_leases
from test_swap import dying, new_swap, planned, producing, rows, swapper

from spike_pipelines.adapters.replay_files import AnswerFile, OrderFile
from spike_pipelines.adapters.replay_job import SparkReparser
from spike_pipelines.cli.dlq import scope
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.errors import InvalidSpec, LeaseLost, Transient
from spike_pipelines.domain.swap import Scope, SwapBusy, SwapState
from spike_pipelines.ports import ReasonCount, Reparsed, ReplayOrder
from spike_pipelines.services import replay
from spike_pipelines.services.replay import Replayer
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real


@dataclass
class Job:
    """Every second record now parses; each file has two dead letters."""

    world: object
    orders: list = field(default_factory=list)

    def reparse(self, order, keep_alive):
        keep_alive()
        self.orders.append(order)
        n = len(order.keys)
        files = ()
        if order.prefix:
            files = tuple(self._put(order.prefix, kind, n) for kind in FileKind)
        return Reparsed(NewBatch((), files, 2 * n, (HourCounts(HOUR, n, n, 0),), "2.0"), {"wrong_type": n})

    def _put(self, prefix, kind, count):
        return stage_file(self.world.store, prefix, f"a/{kind}/x.parquet", kind, HOUR, count, parquet(count))


class Reader:
    def reasons(self, bucket, key):
        reason = "malformed_json" if "hour=2026-11-22T21" in key else "wrong_type"
        return (ReasonCount(reason, 2, b"{", "n"),)


@pytest.fixture
def ran(world):
    """Dead letters: two in one hour, two in the next."""
    driver = world.driver(world.spike())
    driver.stage(4, 2, 0)
    driver.stage(4, 2, 0)
    world.promoter().promote(driver.spike, limit=9)
    world.execute(
        f"UPDATE files SET hour = '{NEXT_HOUR.isoformat()}', final_key = replace(final_key, 'T21', 'T22')"
        " WHERE id = (SELECT max(id) FROM files WHERE kind = 'dead_letter')"
    )
    world.settle(driver.spike)
    return driver


def replayer(world, job=None):
    return Replayer(world.ledger, swapper(world, "me"), Reader(), job or Job(world))


def replayed(world, spike, chosen=None, job=None):
    return replayer(world, job).replay(spike, chosen or Scope(), who="ada", why="schema mended")


def test_dead_letters_are_listed_by_hour_and_reason_the_newest_first(world, ran):
    groups = replayer(world).groups(ran.spike, Scope())
    assert [(g.hour, g.reason, g.records) for g in groups] == [
        (NEXT_HOUR, "wrong_type", 2),
        (HOUR, "malformed_json", 2),
    ]
    (one,) = replayer(world).groups(ran.spike, Scope(reason="wrong_type"))
    assert one.sample.sample == b"{"


def test_a_replay_says_what_became_of_every_record_and_who_asked_why(world, ran):
    done = replayed(world, ran.spike)
    assert (done.read, done.final, done.filtered, done.still) == (4, 2, 0, {"wrong_type": 2})
    (swap,) = world.ledger.swaps("payouts", 9)
    assert swap == done.swap
    assert (swap.state, swap.who, swap.why) == (SwapState.SWAPPED, "ada", "schema mended")


def test_only_the_chosen_hours_and_reasons_are_replayed(world, ran):
    job = Job(world)
    replayed(world, ran.spike, Scope(since=HOUR, until=NEXT_HOUR), job)
    replayed(world, ran.spike, Scope(reason="wrong_type"), job)
    first, second = job.orders
    assert all("T21" in key for key in first.keys)
    assert (len(first.keys), first.reason, second.reason) == (1, None, "wrong_type")
    assert all("T22" in key for key in second.keys)


def test_a_rehearsal_changes_nothing(world, ran):
    job = Job(world)
    assert replayer(world, job).rehearse(ran.spike, Scope()).final == 2
    assert job.orders[0].prefix is None
    assert world.ledger.swaps("payouts", 9) == ()


def test_without_dead_letters_there_is_nothing_to_do(world):
    spike = world.driver(world.spike()).spike
    assert replayer(world).rehearse(spike, Scope()) is None
    assert replayed(world, spike) is None


def test_too_many_files_are_refused_with_the_way_out(world, ran, monkeypatch):
    monkeypatch.setattr(replay, "MOST_FILES", 1)
    with pytest.raises(InvalidSpec, match="choose fewer with --hour and --to"):
        replayed(world, ran.spike)


def test_a_replay_that_died_before_it_registered_is_given_up_and_made_anew(world, ran):
    def dies(order, keep_alive):
        raise Transient("killed")

    job = Job(world)
    job.reparse = dies
    with pytest.raises(Transient):
        replayed(world, ran.spike, job=job)
    expire_leases(world)
    done = replayed(world, ran.spike)
    assert [s.state for s in done.resumed] == [SwapState.ABORTED]
    assert done.swap.state is SwapState.SWAPPED
    world.settle(ran.spike)
    assert rows(world, ran.spike)["payouts"] == 10


def test_a_replay_that_died_among_its_copies_is_finished_first(world, ran):
    swap = planned(world, ran.spike)
    with pytest.raises(Transient):
        dying(world, Trap("store.copy", 1, after=True)).finish(
            ran.spike, swap.number, producing(world, ran.spike, final=4)
        )
    expire_leases(world)
    done = replayed(world, ran.spike)
    assert [(s.number, s.state) for s in done.resumed] == [(swap.number, SwapState.SWAPPED)]
    assert (done.read, done.swap) == (0, None)


def test_a_replay_beside_one_at_work_is_told_whose_it_is(world, ran):
    swap = planned(world, ran.spike)
    world.ledger.acquire(f"swap:{swap.number}", "somebody", 30)
    with pytest.raises(SwapBusy, match=f"swap {swap.number} is replacing 2"):
        replayed(world, ran.spike)


def test_a_replay_leaves_alone_one_that_has_only_just_planned(world, ran):
    swap, lease = swapper(world, "first").plan(ran.spike, new_swap(world, ran.spike))
    with pytest.raises(SwapBusy, match=f"swap {swap.number} is replacing 2"):
        replayed(world, ran.spike)
    end = swapper(world, "first").finish(ran.spike, swap.number, producing(world, ran.spike), lease)
    assert end.state is SwapState.SWAPPED


def test_hours_may_be_one_or_from_to_both_included():
    assert scope(None, None, "r") == Scope(reason="r")
    assert scope(HOUR, None, None) == Scope(HOUR, NEXT_HOUR)
    assert scope(HOUR, NEXT_HOUR, None) == Scope(HOUR, NEXT_HOUR + timedelta(hours=1))
    with pytest.raises(InvalidSpec, match="is before"):
        scope(NEXT_HOUR, HOUR, None)


# the job's process

ORDER = ReplayOrder("payouts", ("a", "b"), "wrong_type", HOUR, "staging/payouts/replay-1/")


def job(tmp_path, code, **options):
    return SparkReparser(
        Settings(state_dir=tmp_path), {}, (sys.executable, "-c", code), look_seconds=0.05, **options
    )


def test_order_and_answer_survive_their_files(tmp_path):
    assert OrderFile.model_validate_json(OrderFile.of(ORDER).model_dump_json()).order() == ORDER
    batch = NewBatch(
        (), (StagedFile("k", FileKind.FINAL, HOUR, 1, 2, "e"),), 1, (HourCounts(HOUR, 1, 0, 0),), "v"
    )
    done = Reparsed(batch, {"wrong_type": 3})
    assert AnswerFile.model_validate_json(AnswerFile.of(done).model_dump_json()).reparsed() == done
    answer = AnswerFile.of(done).model_dump_json()
    code = f"import sys; open(sys.argv[3], 'w').write({answer!r})"
    assert job(tmp_path, code).reparse(ORDER, lambda: None) == done


@pytest.mark.parametrize(("status", "error"), [(1, Transient), (2, InvalidSpec)])
def test_a_job_that_fails_says_why_and_where_its_log_is(tmp_path, status, error):
    code = f"import sys; print('no such bucket'); sys.exit({status})"
    with pytest.raises(error, match=r"no such bucket.*logs/replay/payouts\.log"):
        job(tmp_path, code).reparse(ORDER, lambda: None)


def test_a_job_whose_lease_is_lost_is_ended(tmp_path):
    def lost():
        raise LeaseLost("over")

    with pytest.raises(LeaseLost):
        job(tmp_path, "import time; time.sleep(60)").reparse(ORDER, lost)


def test_a_job_has_a_bound(tmp_path):
    with pytest.raises(Transient, match="choose fewer hours"):
        job(tmp_path, "import time; time.sleep(60)", longest_seconds=0.1).reparse(ORDER, lambda: None)
