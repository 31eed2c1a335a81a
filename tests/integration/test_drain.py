"""One appender run over a real ledger: its bounds, its isolation, what it reports, who may run."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Event

import pytest
from builders import HOUR, NEXT_HOUR

from spike_pipelines.domain.errors import InvariantBroken, LeaseLost, Transient
from spike_pipelines.ports import HourReport
from spike_pipelines.services.drain import APPENDER_LEASE, Drain, FailedTurn, Terms, needs_appender, orphans
from spike_pipelines.services.promote import _AT_ONCE, threads

pytestmark = pytest.mark.real

IDLE, LONGEST = timedelta(seconds=30), timedelta(seconds=300)


@dataclass(slots=True)
class Ticking:
    """A clock that goes on by `step` each time it is looked at; `at_tick` acts at some of them."""

    step: timedelta = timedelta(seconds=1)
    ticks: int = 0
    at_tick: dict = field(default_factory=dict)

    def now(self) -> datetime:
        self.ticks += 1
        self.at_tick.get(self.ticks, lambda: None)()
        return HOUR + self.ticks * self.step


def drain(world, clock=None, *, holder="run", store=None, catalog=None, pool=None, **terms) -> Drain:
    publisher = world.publisher if catalog is None else replace(world.publisher, catalog=catalog)
    return Drain(
        ledger=world.ledger,
        promoter=world.promoter(holder, store=store, pool=pool),
        publisher=publisher,
        spikes=world.spikes,
        clock=clock or Ticking(),
        terms=Terms(**{"idle": IDLE, "longest": LONGEST, "poll_seconds": 0.002, **terms}),
        holder=holder,
    )


class Failing:
    """Hands everything on, but fails for one spike's keys or tables."""

    def __init__(self, inner, word, error=Transient):
        self._inner, self._word, self._error = inner, word, error
        self.failed = 0

    def __getattr__(self, name):
        call = getattr(self._inner, name)

        def maybe(*arguments, **named):
            if any(isinstance(a, str) and self._word in a for a in arguments):
                self.failed += 1
                raise self._error(f"{name} of {self._word}")
            return call(*arguments, **named)

        return maybe


def test_all_that_waits_becomes_visible_is_reported_and_cleaned(world):
    driver = world.driver(world.spike())
    driver.stage(), driver.stage()
    reports = list(drain(world).run())
    assert [(r.hour, r.rows, r.dead_letters) for r in reports] == [(HOUR, 4, 2), (NEXT_HOUR, 4, 0)]
    state = world.dataset(driver.spike)
    assert (state.sequence, state.published, state.reported) == (2, 2, 2)
    assert world.keys("staging/") == []
    assert needs_appender(world.ledger, world.spikes) is None


def test_a_run_ends_when_idle_and_not_before(world):
    clock = Ticking()
    assert list(drain(world, clock).run()) == []
    assert clock.ticks == 1 + 30


def test_work_that_arrives_while_a_run_drains_is_done_by_it(world):
    driver = world.driver(world.spike())
    driver.stage()
    clock = Ticking(at_tick={15: driver.stage, 40: driver.stage})
    list(drain(world, clock).run())
    assert world.dataset(driver.spike).reported == 3
    assert clock.ticks >= 40 + 30


def test_a_run_ends_at_its_longest_though_work_goes_on(world):
    driver = world.driver(world.spike(records=10_000, max_staged_batches=1000))

    class Busy(Ticking):
        def now(self):
            driver.stage(1, 0, 0)
            return super().now()

    clock = Busy(step=timedelta(seconds=10))
    list(drain(world, clock, longest=timedelta(seconds=100)).run())
    assert clock.ticks < 40
    state = world.dataset(driver.spike)
    assert 0 < state.sequence == state.published == state.reported


def test_a_spike_that_fails_does_not_delay_another(world):
    bad, good = world.driver(world.spike("payouts")), world.driver(world.spike("session"))
    bad.stage(), good.stage()
    store = Failing(world.store, "staging/payouts")
    items = list(drain(world, store=store).run())
    troubles = [i for i in items if isinstance(i, FailedTurn)]
    assert {t.spike for t in troubles} == {"payouts"}
    assert not any(t.final for t in troubles)
    assert world.dataset(good.spike).reported == 1
    assert needs_appender(world.ledger, world.spikes) == "batches wait: payouts"


@pytest.mark.parametrize("hangs_at", ["footer", "copy"])
def test_a_spike_that_hangs_does_not_delay_another(world, hangs_at):
    """Its requests take every thread that they may have; there are as many as in life."""
    slow, good = world.driver(world.spike("payouts")), world.driver(world.spike("session"))
    batch = slow.write(2, 0, 0)
    more = [
        slow._put(f"many/{i}-{n}.parquet", f.kind, f.hour, 1)
        for i in range(_AT_ONCE)
        for n, f in enumerate(batch.files)
    ]
    hours = tuple(replace(h, final=_AT_ONCE) for h in batch.hours)
    (r,) = batch.ranges
    slow.register(
        replace(batch, files=tuple(more), hours=hours, read=len(more), ranges=(replace(r, end=len(more)),))
    )
    done, hanging = Event(), []

    class Hanging(Failing):
        def __getattr__(self, name):
            call = getattr(self._inner, name)

            def wait(*arguments, **named):
                if name == hangs_at and self._word in arguments[1]:
                    hanging.append(arguments[1])
                    assert done.wait(60), "the other spike was never served"
                return call(*arguments, **named)

            return wait

    class Watch(Ticking):
        def now(self):
            if len(hanging) == _AT_ONCE and not world.ledger.last_batches("session", 1):
                good.stage()
            if world.dataset(good.spike).published == 1:
                done.set()
            return super().now()

    clock = Watch(step=timedelta(milliseconds=20))
    store = Hanging(world.store, "staging/payouts")
    list(drain(world, clock, store=store, pool=threads, idle=timedelta(seconds=1)).run())
    assert {d.name: d.reported for d in world.ledger.datasets()} == {"payouts": 1, "session": 1}


def test_trouble_that_may_pass_is_tried_again_with_back_off(world):
    driver = world.driver(world.spike())
    driver.stage()
    store = Failing(world.store, "staging/payouts")
    clock = Ticking(at_tick={20: lambda: setattr(store, "_word", "nothing of that name")})
    items = list(drain(world, clock, store=store).run())
    assert 2 <= store.failed <= 6 * 3
    assert world.dataset(driver.spike).reported == 1
    assert any(isinstance(i, HourReport) for i in items)


def test_trouble_that_stays_is_told_once_and_not_tried_again_by_this_run(world):
    driver = world.driver(world.spike())
    driver.stage()
    store = Failing(world.store, "staging/payouts", InvariantBroken)
    (trouble,) = drain(world, store=store).run()
    assert trouble.final
    assert "InvariantBroken" in trouble.message


def test_a_spike_without_application_file_waits_alone_and_a_person_is_told(world):
    orphan, good = world.driver(world.spike("payouts")), world.driver(world.spike("session"))
    orphan.stage(), good.stage()
    del world.spikes["payouts"]
    assert needs_appender(world.ledger, world.spikes) == "batches wait: session"
    trouble, *reports = drain(world).run()
    assert (trouble.spike, trouble.final) == ("payouts", False)
    assert "put payouts.yaml back" in trouble.message
    assert {r.dataset for r in reports} == {"session"}
    assert needs_appender(world.ledger, world.spikes) is None
    assert orphans(world.ledger, world.spikes) == {"payouts": trouble.message}
    world.spikes["payouts"] = orphan.spike
    assert needs_appender(world.ledger, world.spikes) == "batches wait: payouts"


def test_a_commit_names_the_run_that_made_it(world):
    driver = world.driver(world.spike())
    number = driver.stage().batch.number
    run = drain(world)
    promoter = replace(run.promoter, terms=replace(run.promoter.terms, run_id="run-7"))
    list(replace(run, promoter=promoter).run())
    assert world.ledger.record(number).run_id == "run-7"


def test_a_publication_that_failed_is_made_up_for(world):
    driver = world.driver(world.spike())
    driver.stage()
    catalog = Failing(world.catalog, "payouts")
    clock = Ticking(at_tick={10: lambda: setattr(catalog, "_word", "nothing of that name")})
    list(drain(world, clock, catalog=catalog).run())
    state = world.dataset(driver.spike)
    assert (state.sequence, state.published, state.reported) == (1, 1, 1)


def test_a_clean_up_that_never_came_is_made_up_for(world):
    driver = world.driver(world.spike())
    driver.stage()
    list(drain(world, catalog=world.catalog, store=world.store).run())
    world.execute("UPDATE batches SET cleaned_at = NULL")
    assert needs_appender(world.ledger, world.spikes) == "staging to clean up: payouts"
    list(drain(world).run())
    assert needs_appender(world.ledger, world.spikes) is None


def test_a_report_counts_as_told_only_once_the_next_item_is_asked_for(world):
    driver = world.driver(world.spike())
    driver.stage()
    run = drain(world).run()
    first = next(run)
    run.close()
    assert world.dataset(driver.spike).reported == 0
    assert needs_appender(world.ledger, world.spikes) == "commits to publish: payouts"
    assert first in list(drain(world).run())
    assert list(drain(world).run()) == []


def test_what_is_published_while_reports_are_read_is_told_once(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.settle(driver.spike)

    class Racing:
        """A commit becomes visible between the look at the datasets and the look at their reports."""

        def __getattr__(self, name):
            return getattr(world.ledger, name)

        def unreported(self, dataset):
            if world.dataset(driver.spike).sequence == 1:
                driver.stage()
                world.settle(driver.spike)
            return world.ledger.unreported(dataset)

    reports = list(replace(drain(world), ledger=Racing()).run())
    told = [number for report in reports if report.hour == HOUR for number in report.batches]
    assert len(told) == len(set(told)) == 2


def test_while_one_run_is_alive_another_does_nothing(world):
    driver = world.driver(world.spike())
    driver.stage()
    lease = world.ledger.acquire(APPENDER_LEASE, "first", 15)
    assert needs_appender(world.ledger, world.spikes) is None
    assert list(drain(world, holder="second").run()) == []
    assert world.dataset(driver.spike).sequence == 0
    world.ledger.release(lease)
    assert list(drain(world, holder="second").run())


def test_a_run_that_died_is_taken_over_when_its_lease_is_over(world):
    driver = world.driver(world.spike())
    driver.stage()
    for resource in (APPENDER_LEASE, "promote:payouts"):
        world.ledger.acquire(resource, "dead", 15)
    assert needs_appender(world.ledger, world.spikes) is None
    world.execute("UPDATE leases SET expires_at = clock_timestamp() - interval '1 ms'")
    assert needs_appender(world.ledger, world.spikes) == "batches wait: payouts"
    assert list(drain(world).run())


def test_a_run_that_was_thought_dead_stops(world):
    take = "UPDATE leases SET token = token + 1, holder = 'new' WHERE resource = 'appender'"
    clock = Ticking(at_tick={5: lambda: world.execute(take)})
    with pytest.raises(LeaseLost):
        list(drain(world, clock).run())
    assert clock.ticks == 5


def test_a_run_gives_its_lease_back(world):
    list(drain(world).run())
    assert world.ledger.lease_state(APPENDER_LEASE) == (1, False)


def test_a_run_keeps_its_lease_while_it_tells_what_became_visible(world):
    """Each event takes a while, and there are many: each report here takes longer than a third of a lease."""
    for name in ("payouts", "session", "failure"):
        driver = world.driver(world.spike(name))
        driver.stage()
        world.settle(driver.spike)
    renewed = []

    class Counting:
        def __getattr__(self, name):
            return getattr(world.ledger, name)

        def renew(self, lease, seconds):
            renewed.append(lease.resource)
            return world.ledger.renew(lease, seconds)

    clock = Ticking()
    told = []
    for report in replace(drain(world, clock, idle=timedelta(0)), ledger=Counting()).run():
        told.append((report, len(renewed)))
        clock.ticks += 6
    before = [count for _, count in told]
    assert len(told) == 6
    assert before == list(range(before[0], before[0] + 6))


def test_a_run_whose_lease_was_taken_while_it_told_stops(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.settle(driver.spike)
    clock = Ticking()
    run = drain(world, clock, idle=timedelta(0)).run()
    next(run)
    world.execute("UPDATE leases SET token = token + 1, holder = 'new' WHERE resource = 'appender'")
    clock.ticks += 6
    with pytest.raises(LeaseLost):
        next(run)
    assert world.dataset(driver.spike).reported == 0


def test_a_held_batch_asks_for_no_run(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.execute("UPDATE batches SET state = 'held', held_reason = 'odd'")
    assert needs_appender(world.ledger, world.spikes) is None
    assert list(drain(world).run()) == []
