"""Swaps over a real ledger: one commit point, whoever dies, rewinds, or works beside it."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from builders import HOUR, empty, parquet, stage_file
from dying import Dead, Trap, Trapped, expire_leases
from waiting import until_it_waits_for_a_lock

from spike_pipelines.domain.batch import BatchState, FileKind, FileState, HourCounts, NewBatch
from spike_pipelines.domain.errors import Conflict, InvalidSpec, LeaseLost, NothingStaged, Transient
from spike_pipelines.domain.swap import NewSwap, NotLive, Scope, SwapBusy, SwapKind, SwapState
from spike_pipelines.services.swap import Swapper, SwapRefused, swap_prefix

pytestmark = pytest.mark.real


def new_swap(world, spike, **changes):
    files = world.ledger.dead_letter_files(spike.dataset.name, None, None, 100)
    plain = NewSwap(
        spike.name, spike.dataset.name, SwapKind.REPLAY, "ada", "schema fixed", "2.0", Scope(),
        tuple(f.id for f in files),
    )  # fmt: skip
    return replace(plain, **changes)


def producing(world, spike, *, final=1, filtered=0, lie=0, attempt="a"):
    """Of the replaced records, `final` now parse, `filtered` are filtered, the others stay dead."""

    def produce(swap, replaced, keep_alive):
        keep_alive()
        total = sum(f.rows for f in replaced)
        dead = total - final - filtered
        counts = {FileKind.FINAL: final, FileKind.DEAD_LETTER: dead}
        prefix = swap_prefix(spike, swap)
        files = tuple(
            stage_file(world.store, prefix, f"{attempt}/{kind}/part.parquet", kind, HOUR, n, parquet(n))
            for kind, n in counts.items()
            if n
        )
        hours = (HourCounts(HOUR, final, dead, filtered),)
        return NewBatch((), files, total + lie, hours, "2.0")

    return produce


def swapper(world, holder="test", **parts):
    return Swapper(parts.get("ledger", world.ledger), world.promoter(holder, **parts))


def planned(world, spike):
    """A plan whose process is gone, and its lease with it."""
    swap, lease = swapper(world).plan(spike, new_swap(world, spike))
    world.ledger.release(lease)
    return swap


def swapped(world, spike, **how):
    swap = planned(world, spike)
    return swapper(world).finish(spike, swap.number, producing(world, spike, **how))


@pytest.fixture
def ran(world):
    """Two published batches, each with 4 final rows and 2 dead letters."""
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    return driver


def rows(world, spike):
    return {t: sum(world.catalog.files(t).values()) for t in (spike.dataset.name, spike.dataset.dead_letters)}


def breaches(world):
    return {k: f.breaches or f.figure for k, f in world.audit().items() if not f.ok}


# the way of one swap


def test_a_swap_replaces_exactly_what_was_frozen_at_one_sequence_number(world, ran):
    before = world.ledger.dead_letter_files("payouts", None, None, 9)
    swap = swapped(world, ran.spike, final=3)
    assert swap.state is SwapState.SWAPPED
    assert world.dataset(ran.spike).sequence == 3
    with world.ledger.begin() as tx:
        old, new = tx.replaced(swap.number), tx.files(swap.batch)
    assert {f.id for f in old} == {f.id for f in before}
    assert {(f.state, f.removed) for f in old} == {(FileState.SUPERSEDED, 3)}
    assert {(f.state, f.added) for f in new} == {(FileState.LIVE, 3)}
    assert breaches(world) == {}


def test_readers_see_all_of_a_swap_or_none_of_it(world, ran):
    swapped(world, ran.spike, final=3)
    assert rows(world, ran.spike) == {"payouts": 8, "payouts_dead_letters": 4}
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 11, "payouts_dead_letters": 1}
    assert world.keys("staging/") == []
    assert breaches(world) == {}


def test_final_keys_of_a_swap_are_unique_and_name_it(world, ran):
    swap = swapped(world, ran.spike)
    keys = [k for k in world.keys("final/") if swap.mark in k]
    assert len(keys) == 2
    assert all(f"{swap.batch:012d}-swap{swap.number}-" in k for k in keys)


def test_records_that_the_filter_rejects_now_are_counted(world, ran):
    swapped(world, ran.spike, final=0, filtered=4)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 8, "payouts_dead_letters": 0}
    assert breaches(world) == {}


def test_what_a_live_batch_adds_to_the_hour_meanwhile_stays(world, ran):
    swap = planned(world, ran.spike)
    ran.stage(4, 2, 1)
    world.settle(ran.spike)
    swapper(world).finish(ran.spike, swap.number, producing(world, ran.spike, final=4))
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 16, "payouts_dead_letters": 2}
    assert breaches(world) == {}


def test_a_swap_whose_file_is_no_longer_live_is_refused_and_leaves_nothing(world, ran):
    swap = planned(world, ran.spike)
    produce = producing(world, ran.spike)

    def rewound(*arguments):
        batch = produce(*arguments)
        world.execute("UPDATE datasets SET sequence = sequence + 1")
        world.execute("UPDATE files SET state = 'superseded', removed = 3 WHERE kind = 'dead_letter'")
        return batch

    with pytest.raises(SwapRefused, match="superseded by now"):
        swapper(world).finish(ran.spike, swap.number, rewound)
    assert world.ledger.swaps("payouts", 1)[0].state is SwapState.ABORTED
    assert world.keys("final/payouts/") == [k for k in world.keys("final/payouts/") if "swap" not in k]


def test_a_file_that_goes_between_the_check_and_the_commit_refuses_the_swap(world, ran):
    swap = planned(world, ran.spike)
    copy = world.store.copy

    def racing(*arguments, **named):
        world.execute("UPDATE files SET state = 'superseded', removed = 2 WHERE state = 'live'"
                      " AND id = (SELECT min(file) FROM swap_files)")  # fmt: skip
        return copy(*arguments, **named)

    world.store.copy = racing
    with pytest.raises(SwapRefused, match="of which 1 is no longer live"):
        swapper(world).finish(ran.spike, swap.number, producing(world, ran.spike))
    assert world.dataset(ran.spike).sequence == 2
    assert [f.state for f in world.ledger.dead_letter_files("payouts", None, None, 9)] == [FileState.LIVE]


@pytest.mark.parametrize("lie", [-1, 1])
def test_a_swap_that_would_lose_or_double_a_record_is_refused(world, ran, lie):
    swap = planned(world, ran.spike)
    with pytest.raises(SwapRefused, match=r"is not\s+final"):
        swapper(world).finish(ran.spike, swap.number, producing(world, ran.spike, lie=lie))
    assert breaches(world) == {}


def test_two_swaps_cannot_freeze_the_same_file(world, ran):
    planned(world, ran.spike)
    with pytest.raises(SwapBusy, match="is replacing 2 of these 2 files"):
        planned(world, ran.spike)


def test_of_two_replays_at_once_one_is_refused(world, ran):
    together = Barrier(2)

    def one(i):
        new = new_swap(world, ran.spike)
        together.wait()
        try:
            swap, lease = swapper(world, str(i)).plan(ran.spike, new)
            done = swapper(world, str(i)).finish(ran.spike, swap.number, producing(world, ran.spike), lease)
            return done.state
        except Conflict as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        done = set(pool.map(one, range(2)))
    assert SwapState.SWAPPED in done
    assert done - {SwapState.SWAPPED} <= {SwapBusy, NotLive}
    assert len(done) == 2
    world.settle(ran.spike)
    assert breaches(world) == {}


def test_a_plan_is_at_work_from_the_moment_that_it_is_there(world, ran):
    swap, lease = swapper(world, "first").plan(ran.spike, new_swap(world, ran.spike))
    assert list(swapper(world, "second").finish_left([ran.spike])) == []
    with pytest.raises(SwapBusy, match="first has it"):
        swapper(world, "second").abort(swap.number, "taken for dead")
    done = swapper(world, "first").finish(ran.spike, swap.number, producing(world, ran.spike), lease)
    assert done.state is SwapState.SWAPPED


def test_a_file_that_no_table_takes_keeps_no_other_spikes_swap_open(world, ran, monkeypatch):
    other = world.driver(world.spike("sessions"))
    other.stage(4, 2, 1)
    world.settle(other.spike)
    for spike in (ran.spike, other.spike):
        planned(world, spike)
    finish = Swapper.finish

    def refusing(self, spike, *rest):
        if spike.name == ran.spike.name:
            raise InvalidSpec("column id was BIGINT and is STRING")
        return finish(self, spike, *rest)

    monkeypatch.setattr(Swapper, "finish", refusing)
    ended = []
    with pytest.raises(Conflict, match="payouts: column id was BIGINT"):
        ended.extend(swapper(world).finish_left([ran.spike, other.spike]))
    assert [(swap.spike, swap.state) for swap in ended] == [("sessions", SwapState.ABORTED)]


def test_an_aborted_swap_stays_aborted(world, ran):
    swap = planned(world, ran.spike)
    swapper(world).abort(swap.number, "taken for dead")
    with pytest.raises(SwapRefused, match="aborted before: taken for dead"):
        swapper(world).finish(ran.spike, swap.number, producing(world, ran.spike))


def test_an_aborted_swap_lets_the_next_one_have_its_files(world, ran):
    first = planned(world, ran.spike)
    assert swapper(world).abort(first.number, "no longer wanted").problem == "no longer wanted"
    assert swapped(world, ran.spike).state is SwapState.SWAPPED


def test_dead_letters_that_stay_dead_can_be_replayed_again(world, ran):
    driver_batches = {b.number for b in world.ledger.last_batches("payouts", 9)}
    first = swapped(world, ran.spike, final=1)
    second = swapped(world, ran.spike, final=2)
    world.settle(ran.spike)
    assert rows(world, ran.spike) == {"payouts": 11, "payouts_dead_letters": 1}
    assert world.ledger.sources("payouts") == {first.batch: driver_batches, second.batch: driver_batches}
    assert breaches(world) == {}


def test_a_swap_is_no_backlog_of_the_appender(world, ran):
    swap = planned(world, ran.spike)
    trap = Trap("store.copy", 1, after=False)
    with pytest.raises(Transient):
        dying(world, trap).finish(ran.spike, swap.number, producing(world, ran.spike))
    assert world.ledger.backlog() == ()
    assert world.promoter().promote(ran.spike, limit=9) == ()


def test_a_holder_whose_lease_is_over_swaps_nothing(world, ran):
    swap = planned(world, ran.spike)
    produce = producing(world, ran.spike)

    def slow(*arguments):
        batch = produce(*arguments)
        expire_leases(world)
        world.ledger.acquire(f"swap:{swap.number}", "other", 30)
        return batch

    with pytest.raises(LeaseLost):
        swapper(world).finish(ran.spike, swap.number, slow)
    assert world.ledger.open_swaps("payouts")[0].state is SwapState.PLANNED
    with pytest.raises(SwapBusy, match="other has it"):
        swapper(world).finish(ran.spike, swap.number, produce)


def test_a_holder_whose_lease_is_over_writes_no_final_keys_down(world, ran, monkeypatch):
    swap = planned(world, ran.spike)

    def slow(*_, **__):
        """The last that is asked before the keys are written down."""
        expire_leases(world)
        world.ledger.acquire(f"swap:{swap.number}", "other", 30)

    monkeypatch.setattr(world.catalog, "misfit", slow)
    with pytest.raises(LeaseLost):
        swapper(world).finish(ran.spike, swap.number, producing(world, ran.spike))
    (open_,) = world.ledger.open_swaps("payouts")
    with world.ledger.begin() as tx:
        assert tx.batch(open_.batch).state is BatchState.STAGED


def test_a_swap_waits_with_its_commit_for_a_decision_about_the_spike(world, ran):
    """A rewind may have looked for swaps already: what this one replaces would be superseded by it alone."""
    swap = planned(world, ran.spike)
    produce = producing(world, ran.spike)

    class Counting:
        copied = 0

        def __getattr__(self, name):
            return getattr(world.store, name)

        def copy(self, *arguments, **named):
            self.copied += 1
            if self.copied == 1:
                decision.enter_context(world.ledger.begin()).lock_spike("payouts", "payouts")
            return world.store.copy(*arguments, **named)

    with contextlib.ExitStack() as decision, ThreadPoolExecutor(1) as pool:
        done = pool.submit(swapper(world, store=Counting()).finish, ran.spike, swap.number, produce)
        until_it_waits_for_a_lock(world.ledger, done)
        assert world.dataset(ran.spike).sequence == 2
        decision.close()
        assert done.result().state is SwapState.SWAPPED
    assert breaches(world) == {}


def test_a_holder_whose_lease_is_over_gives_nothing_up(world, ran):
    swap = planned(world, ran.spike)
    produce = producing(world, ran.spike)

    def hopeless(*arguments):
        expire_leases(world)
        assert swapper(world, "other").finish(ran.spike, swap.number, produce).state is SwapState.SWAPPED
        raise NothingStaged("the slow one found nothing")

    with pytest.raises(LeaseLost):
        swapper(world).finish(ran.spike, swap.number, hopeless)
    assert world.ledger.swaps("payouts", 1)[0].state is SwapState.SWAPPED
    assert breaches(world) == {}


def test_a_plan_without_its_producer_is_aborted(world, ran):
    swap = planned(world, ran.spike)
    with pytest.raises(SwapRefused, match="before it had registered") as refused:
        swapper(world).finish(ran.spike, swap.number, None)
    assert isinstance(refused.value.__cause__, NothingStaged)
    assert world.ledger.open_swaps("payouts") == ()


# dying


def test_how_far_a_read_is_stands_in_the_ledger_while_it_reads(world, ran):
    seen = []

    def produce(swap, replaced, keep_alive):
        for so_far in (3, None, 5):
            keep_alive(so_far)
            seen.extend(open_.so_far for open_ in world.ledger.open_swaps("payouts"))
        return producing(world, ran.spike)(swap, replaced, keep_alive)

    swapper(world).finish(ran.spike, planned(world, ran.spike).number, produce)
    assert seen == [3, 3, 5]


def dying(world, trap):
    trapped = Trapped(world, trap)
    return Swapper(trapped.ledger, trapped.promoter())


@pytest.mark.parametrize(
    ("after", "error"), [(False, Dead), (True, Transient)], ids=["killed before it", "no answer to it"]
)
def test_whatever_effect_a_swap_dies_at_nothing_shows_and_it_is_finished_later(world, after, error):
    for at in range(1, 100):
        empty(world.ledger)
        fresh = type(world)(world.ledger)
        driver = fresh.driver(fresh.spike())
        driver.stage(4, 2, 0)
        fresh.settle(driver.spike)
        spike = driver.spike
        trap = Trap(None, at, after, error)
        one = planned(fresh, spike)
        with contextlib.suppress(error, LeaseLost):
            dying(fresh, trap).finish(spike, one.number, producing(fresh, spike))
        place = f"died {'after' if after else 'before'} effect {at}"
        if not trap.sprung:
            assert at > 8
            return
        done = fresh.ledger.swaps("payouts", 1)[0].state is SwapState.SWAPPED
        live = fresh.ledger.live_files("payouts", fresh.dataset(spike).sequence)
        assert sum(f.rows for f in live) == 6, place
        assert done == (fresh.dataset(spike).sequence == 2), place
        expire_leases(fresh)
        end = swapper(fresh).finish(spike, one.number, producing(fresh, spike, attempt="b"))
        assert end.state is SwapState.SWAPPED, place
        fresh.settle(spike)
        assert rows(fresh, spike) == {"payouts": 5, "payouts_dead_letters": 1}, place
        assert breaches(fresh) == {}, place
    pytest.fail("a swap has no bound")


def test_an_aborted_swap_leaves_its_batch_aborted(world, ran):
    swap = planned(world, ran.spike)
    with pytest.raises(Transient):
        dying(world, Trap("store.copy", 1, after=True)).finish(
            ran.spike, swap.number, producing(world, ran.spike)
        )
    expire_leases(world)
    end = swapper(world).abort(swap.number, "enough")
    with world.ledger.begin() as tx:
        assert tx.batch(end.batch).state is BatchState.ABORTED
        assert {f.state for f in tx.files(end.batch)} == {FileState.ABORTED}
    assert breaches(world) == {}
