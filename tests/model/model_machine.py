"""The specification as a state machine: whatever happens, in whatever order, the invariants hold.

Every rule is something that happens in life. `docs/protocol.md` says for each which code answers for it.
"""

import logging
import sys

import hypothesis.strategies as st
from builders import BUCKET, IDLE_LIMIT
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_invariants import Watch, expect
from model_world import HOURS, Driver, ModelWorld, Record, Violation, event
from processes import DEADLY, Fault, Process

from spike_pipelines.domain.batch import BatchState, FileKind
from spike_pipelines.domain.errors import Fenced, Held, Lost, SpikeError, TopicChanged
from spike_pipelines.services.audit import Auditor

_services = logging.getLogger("spike_pipelines")
INDEX = st.integers(0, 5)
RECORDS = st.lists(
    st.builds(Record, st.sampled_from([FileKind.FINAL, FileKind.DEAD_LETTER, None]), st.sampled_from(HOURS)),
    min_size=1,
    max_size=4,
)
FAULTS = st.sampled_from([f for f in Fault if f is not Fault.NONE])
NTH = st.integers(1, 4)
EFFECTS = st.sampled_from(
    [
        "ledger.begin",
        "store.copy",
        "catalog.publish",
        "ledger.mark_published",
        "store.delete",
        "ledger.mark_cleaned",
        "events.report",
        "ledger.mark_reported",
        "store.footer",
        "ledger.acquire",
        "ledger.renew",
        "ledger.release",
        "ledger.datasets",
        "ledger.backlog",
        "ledger.changed_files",
        "ledger.cleanable",
        "ledger.unreported",
        "catalog.ensure_table",
        "catalog.sequence",
        "store.head",
        "pause",
    ]
)
# What ends a spike's way until a person acts. Most worlds have none of it, so that most go on.
CALAMITIES = st.sampled_from(
    [None] * 8 + ["topic recreated", "records lost", "miscounted", "staging spoiled"]
)
SECONDS = st.sampled_from([0.5, 5.0, 16.0, 21.0])


class Protocol(RuleBasedStateMachine):
    """One spike, its topic, any number of drivers and appender runs."""

    @initialize(gappy=st.booleans(), calamity=CALAMITIES, partitions=st.integers(1, 2), records=RECORDS)
    def begin(self, gappy: bool, calamity: str | None, partitions: int, records: list[Record]) -> None:
        _services.setLevel(logging.CRITICAL)  # they tell of every fault that is injected
        self.world = ModelWorld(gappy=gappy, partitions=partitions)
        self.watch = Watch(self.world)
        self.calamity = calamity
        self.names = 0
        self.world.produce(0, records)
        self.world.open("driver-0")

    # Kafka

    @rule(index=INDEX, records=RECORDS)
    def produce(self, index: int, records: list[Record]) -> None:
        self.world.produce(index, records)

    @precondition(lambda self: self.world.gappy)
    @rule(index=INDEX)
    def control_record(self, index: int) -> None:
        """The end of a transaction takes an offset that no consumer sees."""
        self.world.broker.append_control(self.world.spike.topic, index % len(self.world.topic().log_end))

    @precondition(lambda self: len(self.world.topic().log_end) < 3)
    @rule()
    def add_partition(self) -> None:
        self.world.broker.add_partitions(self.world.spike.topic, len(self.world.topic().log_end) + 1)

    @rule()
    def retention(self) -> None:
        """Kafka deletes what is committed."""
        for p, position in self._positions().items():
            if p.topic_id == self.world.topic().topic_id:
                self.world.broker.delete_records(self.world.spike.topic, p.index, position.committed_end)

    @precondition(lambda self: self.calamity == "records lost" and self._behind())
    @rule()
    def retention_beyond_the_staged_end(self) -> None:
        topic = self.world.topic()
        for index, end in topic.log_end.items():
            self.world.broker.delete_records(self.world.spike.topic, index, end)
        self.world.stopped = self.calamity

    @precondition(lambda self: self.calamity == "topic recreated" and not self.world.stopped)
    @rule(records=RECORDS)
    def topic_recreated(self, records: list[Record]) -> None:
        count = len(self.world.topic().log_end)
        self.world.broker.delete(self.world.spike.topic)
        self.world.broker.create(self.world.spike.topic, count)
        self.world.produce(0, records)
        self.world.stopped = self.calamity

    # drivers

    @rule(patient=st.booleans())
    def open_epoch(self, patient: bool) -> None:
        """A driver that nobody knew before, with an empty checkpoint; a patient one waits for its turn."""
        self.names += 1
        enter = self.world.take_over if patient else self.world.open
        self._refusable(lambda: enter(f"driver-{self.names}"))

    @precondition(lambda self: self.world.drivers)
    @rule(index=INDEX)
    def resync(self, index: int) -> None:
        """A driver gives its epoch up for a new one, with an empty checkpoint."""
        driver = self._driver(index)
        self._refusable(lambda: self.world.open(driver.name, driver.token.number))

    @precondition(lambda self: self.world.drivers)
    @rule(index=INDEX)
    def heartbeat(self, index: int) -> None:
        self._refusable(lambda: self.world.beat(self._driver(index)))

    @precondition(lambda self: self.world.drivers)
    @rule(index=INDEX)
    def retire(self, index: int) -> None:
        """The supervisor fences a driver that hangs."""
        self.world.retire(self._driver(index).name)

    @precondition(lambda self: self.world.drivers)
    @rule(index=INDEX, most=st.integers(1, 4))
    def stage(self, index: int, most: int) -> None:
        """A driver, fenced ones included, writes a batch. Again before its POST was answered: another
        attempt, perhaps at other ranges."""
        self.world.stage(self._driver(index), most)

    @rule(records=RECORDS)
    def go_on(self, records: list[Record]) -> None:
        """What happens all day: records come, the newest driver stages and registers them."""
        self.world.produce(0, records)
        if post := self.world.stage(self.world.drivers[-1], 4):
            self.world.post(post)

    @precondition(lambda self: self.world.posts)
    @rule(index=INDEX)
    def restage(self, index: int) -> None:
        """The same ranges written again, into another attempt's files."""
        post = self.world.posts[-1 - index % len(self.world.posts)]
        if all(r.partition.topic_id == self.world.topic().topic_id for r in post.batch.ranges):
            self.world.write(post.driver, post.batch.ranges)

    @precondition(lambda self: self.world.posts)
    @rule(index=INDEX)
    def post(self, index: int) -> None:
        """One of the latest POSTs arrives: late, again, in whatever order."""
        self.world.post(self.world.posts[-1 - index % len(self.world.posts)])

    @precondition(lambda self: self.world.posts)
    @rule(index=INDEX)
    def post_slowly(self, index: int) -> None:
        """A POST whose handling something else may come between."""
        self.world.send(self.world.posts[-1 - index % len(self.world.posts)])

    @precondition(lambda self: self.calamity == "miscounted" and not self.world.stopped and self.world.posts)
    @rule()
    def miscount(self) -> None:
        """A driver says that it read one record more than it did."""
        post = self.world.posts[-1]
        if post.identity not in self.world.numbers and post.token == self.world.drivers[-1].token:
            object.__setattr__(post.batch, "read", post.batch.read + 1)
            self.world.stopped = self.calamity

    @precondition(lambda self: self.calamity == "staging spoiled" and not self.world.stopped)
    @rule(index=INDEX, gone=st.booleans())
    def spoil_staging(self, index: int, gone: bool) -> None:
        """Somebody deletes or overwrites a staged object."""
        keys = sorted(self.world.store.infos("staging/"))
        if keys:
            key = keys[index % len(keys)]
            places = self.world.store.places(key)
            self.world.store.delete(BUCKET, [key])
            if not gone:
                self.world.store.put(BUCKET, key, b"\n".join([b"strange", *[b"x 0 0"] * len(places)]))
            self.world.stopped = self.calamity

    # appender runs

    @rule()
    def start_run(self) -> None:
        self.world.run()

    @rule()
    def whole_run(self) -> None:
        self.world.settle()

    @rule()
    def start_promotion(self) -> None:
        """A second appender, which does not know of the run."""
        self.world.promotion()

    @rule(back=st.integers(0, 2))
    def publish_again(self, back: int) -> None:
        """Publication and clean-up done again, or by one who comes late."""
        state = self.world.dataset()
        self.world.publication(None if state is None else max(0, state.sequence - back))

    @precondition(lambda self: self._running())
    @rule(index=INDEX, effects=st.integers(1, 12))
    def step(self, index: int, effects: int) -> None:
        process = self._process(index)
        for _ in range(effects):
            process.step()

    @precondition(lambda self: self._running())
    @rule(index=INDEX)
    def finish(self, index: int) -> None:
        self._process(index).finish()

    @precondition(lambda self: self._running())
    @rule(index=INDEX, at=EFFECTS, nth=NTH, fault=FAULTS)
    def fault(self, index: int, at: str, nth: int, fault: Fault) -> None:
        """One effect of a process does not go as it should."""
        self._disturb(self._process(index), at, nth, fault)

    @rule(records=RECORDS, at=EFFECTS, nth=NTH, fault=FAULTS)
    def faulty_run(self, records: list[Record], at: str, nth: int, fault: Fault) -> None:
        """A run with something to do is disturbed at one of its effects."""
        self.go_on(records)
        self._disturb(self.world.run(), at, nth, fault)

    @precondition(lambda self: self.world.posts)
    @rule(index=INDEX, at=st.sampled_from(["ledger.begin", "broker.topics"]), fault=FAULTS)
    def faulty_post(self, index: int, at: str, fault: Fault) -> None:
        """A POST whose handling is disturbed: the driver gets no answer, or none that tells."""
        post = self.world.posts[-1 - index % len(self.world.posts)]
        self._disturb(self.world.send(post), at, 1, fault)

    def _disturb(self, process: Process, at: str, nth: int, fault: Fault) -> None:
        """The process goes on to the `nth` effect called `at`; if it never comes there, to its end."""
        if not process.reach(at, nth):
            return
        event(f"fault: {fault}, at {at}")
        process.step(fault)
        self.world.late += process.late
        process.late = []
        if fault not in DEADLY:
            process.finish()

    @precondition(lambda self: self.world.late)
    @rule()
    def late_request(self) -> None:
        """A request of a process that is dead by now arrives at the store or the catalog."""
        try:
            self.world.late.pop(0)()
        except SpikeError as refused:
            note(f"refused: {refused}")

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Leases and epochs run out."""
        self.world.clock.advance(seconds)

    # what must hold

    @invariant()
    def invariants(self) -> None:
        if hasattr(self, "watch"):
            self.watch.check()

    def teardown(self) -> None:
        if not hasattr(self, "watch"):
            return
        failed = sys.exc_info()[0] is not None
        _services.setLevel(logging.NOTSET)
        for process in self.world.processes:
            process.kill()
        if not failed:
            event(f"calamity: {self.world.stopped}")
            finale(self.world, self.watch)

    # helpers

    def _driver(self, index: int):
        return self.world.drivers[-1 - index % len(self.world.drivers)]

    def _running(self):
        return [p for p in self.world.processes if p.waits_for is not None]

    def _process(self, index: int):
        running = self._running()
        return running[index % len(running)]

    def _positions(self):
        return self.world.ledger.all_positions().get(self.world.spike.name, {})

    def _behind(self) -> bool:
        """Some partition of the topic has records that are not staged."""
        ends = {p.index: position.staged_end for p, position in self._positions().items()}
        return any(end > ends.get(i, 0) for i, end in self.world.topic().log_end.items())

    def _refusable(self, call) -> None:
        try:
            call()
        except (Held, Fenced):
            return
        except TopicChanged:
            expect(self.world.stopped == "topic recreated", "I10: TopicChanged, and it did not")
        except Lost:
            expect(self.world.stopped == "records lost", "I10: Lost, and nothing was")


def finale(world: ModelWorld, watch: Watch) -> None:
    """Everybody is dead. A driver and a run that nothing disturbs bring all there is to its end."""
    world.clock.advance(IDLE_LIMIT.total_seconds() + 60)
    driver = None
    for _ in range(12):
        world.settle()
        watch.check()
        if held(world):
            break
        driver = driver or last_driver(world)
        if driver is None or not go_on(world, driver):
            break
    else:
        raise Violation("draining has no end")
    watch.check()
    if not world.stopped:
        everything_is_accounted_for(world)
        the_audit_finds_nothing(world)
    nothing_is_left_to_do(world)


def held(world: ModelWorld) -> bool:
    states = [b.state for b in world.ledger.last_batches(world.spike.name, 99)]
    if BatchState.HELD in states:
        expect(world.stopped in {"miscounted", "staging spoiled"}, "a batch is held without a reason")
        return True
    return False


def last_driver(world: ModelWorld) -> Driver | None:
    """A driver that nobody knew before; None where nobody may have the spike."""
    try:
        driver = world.take_over(f"last-{len(world.drivers)}")
    except TopicChanged:
        expect(world.stopped == "topic recreated", "I10: TopicChanged, and it did not")
        return None
    except Lost:
        expect(world.stopped == "records lost", "I10: Lost, and nothing was")
        return None
    expect(
        world.stopped != "topic recreated" or not world.ledger.all_positions(),
        "I10: the topic changed, and nobody says",
    )
    return driver


def go_on(world: ModelWorld, driver: Driver) -> bool:
    """The driver stages what is there; False if that is nothing."""
    post = world.stage(driver, 12)
    if post is None:
        return False
    answer = world.post(post)
    expect(not isinstance(answer, Exception), f"a fresh driver is refused: {answer}")
    return True


def everything_is_accounted_for(world: ModelWorld) -> None:
    """With `Watch.every_record_once`, each produced record is in one live file or counted as filtered."""
    positions = world.ledger.all_positions()[world.spike.name]
    ends = {p.index: position.committed_end for p, position in positions.items()}
    expect(ends == dict(world.topic().log_end), f"I1: {ends} are committed of {world.topic().log_end}")
    visible = [
        place
        for table in world.tables().values()
        for uri in world.catalog.files(table)
        for place in world.store.places(uri.removeprefix(f"s3://{BUCKET}/"))
    ]
    expected = [place for place, record in world.records.items() if record.kind is not None]
    expect(sorted(visible) == sorted(expected), "I1: readers do not see every record exactly once")


def the_audit_finds_nothing(world: ModelWorld) -> None:
    """`spike audit` recomputes the same in its own way: it agrees that nothing is broken."""
    spikes = {world.spike.name: world.spike}
    auditor = Auditor(world.ledger, world.broker, world.store, world.catalog, spikes)
    breached = {f.invariant: f.breaches for f in auditor.run() if not f.ok}
    expect(not breached, f"the audit says {breached}")


def nothing_is_left_to_do(world: ModelWorld) -> None:
    """Readers, events and clean-up have caught up with the ledger."""
    state = world.dataset()
    if state is None or held(world):
        return
    expect(state.published == state.reported == state.sequence, f"projections are behind: {state}")
    expect(world.ledger.cleanable(world.spike.name, 9) == {}, "published batches are not cleaned up")
    committed = {b.number for b in world.ledger.committed_batches(state.name, state.sequence)}
    with_files = {n for n in committed if world.files_of(n)}
    told = {number for report in world.told for number in report.batches}
    expect(told == with_files, f"reported are {told}, committed {with_files}")
