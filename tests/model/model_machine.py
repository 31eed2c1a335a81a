"""The specification as a state machine: whatever happens, in whatever order, the invariants hold.

Every rule is something that happens in life. `docs/protocol.md` says for each which code answers for it.
"""

import logging
import sys
from contextlib import suppress

import hypothesis.strategies as st
from builders import BUCKET, IDLE_LIMIT
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_invariants import Watch, expect
from model_operations import TERMS, Desk
from model_people import People
from model_world import HOURS, Driver, ModelWorld, Place, Record, Row, Violation, event
from processes import DEADLY, Fault, Killed, Process

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.domain.batch import FileKind, FileState
from spike_pipelines.domain.errors import Fenced, Held, Lost, SpikeError, TopicChanged
from spike_pipelines.services.audit import Auditor

_services = logging.getLogger("spike_pipelines")
INDEX = st.integers(0, 5)
_SORTS = [(FileKind.FINAL, None), (None, None), (FileKind.DEAD_LETTER, FileKind.FINAL)]
_SORTS += [(FileKind.DEAD_LETTER, FileKind.DEAD_LETTER), (FileKind.DEAD_LETTER, None)]
RECORDS = st.lists(
    st.sampled_from([Record(kind, hour, healed) for hour in HOURS for kind, healed in _SORTS]),
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
        "store.origins",
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
# What ends a spike's way until a person acts. Most worlds have none of it.
CALAMITIES = st.sampled_from(
    [None] * 8 + ["topic recreated", "records lost", "miscounted", "staging spoiled"]
)
SECONDS = st.sampled_from([0.5, 5.0, 16.0, 21.0, 31.0])
HELD_UP = {"miscounted", "staging spoiled"}


class Protocol(People, RuleBasedStateMachine):
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
            if p.topic_id == self.world.topic().topic_id:  # the ledger may speak of the one before
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
            self.world.write(post.driver, post.batch.ranges, post.micro_batch)

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
            self.world.spoiled.add(key)

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
        self.world.late += [(self.world.clock.now(), request) for request in process.late]
        process.late = []
        if fault not in DEADLY:
            process.finish()

    @precondition(lambda self: self.world.late)
    @rule()
    def late_request(self) -> None:
        """A request of a process that is dead by now arrives at the store or the catalog."""
        try:
            arrive(self.world)
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
        try:
            for process in self.world.processes:
                process.kill()
            if not failed:
                event(f"calamity: {self.world.stopped}")
                finale(self.world, self.watch)
        finally:
            _services.setLevel(logging.NOTSET)

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
            expect(self.world.topic_changed(), "I10: TopicChanged, and it did not")
        except Lost:
            expect(self.world.records_lost(), "I10: Lost, and nothing was")


def arrive(world: ModelWorld) -> None:
    """The oldest request that is still under way. None takes longer than retention's grace. One that asks
    whether its process lives (a replay's job) ends there."""
    sent, request = world.late.pop(0)
    if world.clock.now() - sent < TERMS.grace:
        with suppress(Killed):
            request()


def finale(world: ModelWorld, watch: Watch) -> None:
    """Everybody is dead. A driver and a run that nothing disturbs bring all there is to its end, and a
    person decides where one must."""
    world.clock.advance(IDLE_LIMIT.total_seconds() + 60)
    desk = Desk(world)
    desk.finish_left().finish()
    driver = None
    for _ in range(24):
        world.settle()
        watch.check()
        if (batch := held(world)) is not None:
            decide(desk, batch)
            driver = None
            continue
        driver = driver or last_driver(world)
        if not go_on(world, driver):
            break
    else:
        raise Violation("draining has no end")
    watch.check()
    everything_is_accounted_for(world)
    the_audit_finds_nothing(world)
    nothing_is_left_to_do(world)
    nothing_is_left_over(world, watch)


def held(world: ModelWorld) -> int | None:
    batch = Desk(world).held()
    expect(batch is None or world.stopped in HELD_UP, "a batch is held without a reason")
    return batch


def decide(desk: Desk, batch: int) -> None:
    """Half of them are let pass, if that helps; the others are read again."""
    if batch % 2:
        desk.release(batch).finish()
        desk.world.settle()
    if desk.held() == batch:
        desk.discard(batch).finish()
    expect(desk.held() != batch, f"nothing can be decided on batch {batch}")


def last_driver(world: ModelWorld) -> Driver:
    """A driver that nobody knew before; where nobody may have the spike, somebody accepts the loss."""
    try:
        return world.take_over(f"last-{len(world.drivers)}")
    except TopicChanged:
        expect(world.topic_changed(), "I10: TopicChanged, and it did not")
    except Lost:
        expect(world.records_lost(), "I10: Lost, and nothing was")
    Desk(world).accept_loss().finish()
    world.settle()
    return world.take_over(f"last-{len(world.drivers)}")


def go_on(world: ModelWorld, driver: Driver) -> bool:
    """The driver stages what is there; False if that is nothing."""
    post = world.stage(driver, 12)
    if post is None:
        return False
    answer = world.post(post)
    expect(not isinstance(answer, Exception), f"a fresh driver is refused: {answer}")
    return True


def everything_is_accounted_for(world: ModelWorld) -> None:
    """With `Watch.every_record_once`: each produced record is in one live file, or counted as filtered, or
    was gone before it was read, and somebody accepted that."""
    positions = world.rows(schema.positions)
    ends = {p["partition"]: p["committed_end"] for p in positions if p["closed_by"] is None}
    expect(ends == dict(world.topic().log_end), f"I1: {ends} are committed of {world.topic().log_end}")
    closed = {(p["topic_id"], p["partition"]): p["committed_end"] for p in positions if p["closed_by"]}
    lost = {
        Place(r["topic_id"], r["partition"], offset)
        for r in world.rows(schema.batch_ranges)
        if r["live"] and r["batch"] in {b["number"] for b in world.rows(schema.batches) if b["lost"]}
        for offset in range(r["start_offset"], r["end_offset"])
    }
    expect(not lost or world.stopped == "records lost", f"I1: {lost} are declared lost")
    visible = [
        place
        for table in world.tables().values()
        for uri in world.catalog.files(table)
        for place in world.store.places(uri.removeprefix(f"s3://{BUCKET}/"))
    ]
    expected = {
        place: record
        for place, record in world.records.items()
        if record.kind is not None
        and place not in lost
        and place.offset < closed.get((place.topic_id, place.partition), place.offset + 1)
        and (place.topic_id == world.topic().topic_id or (place.topic_id, place.partition) in closed)
    }
    missing = {place: expected[place] for place in expected.keys() - set(visible)}
    expect(
        len(visible) == len(set(visible)) and set(visible) <= expected.keys(),
        "I2: readers see what they should not",
    )
    expect(
        all(r.kind is FileKind.DEAD_LETTER and r.healed is None for r in missing.values()),
        f"I1: readers do not see {missing}",
    )


def the_audit_finds_nothing(world: ModelWorld) -> None:
    """`spike audit` recomputes the same in its own way: it agrees that nothing is broken."""
    spikes = {world.spike.name: world.spike}
    auditor = Auditor(world.ledger, world.broker, world.store, world.catalog, spikes)
    breached = {f.invariant: f.breaches for f in auditor.run() if not f.ok}
    expect(not breached, f"the audit says {breached}")


def nothing_is_left_to_do(world: ModelWorld) -> None:
    """Readers, events and clean-up have caught up with the ledger, and no swap is open."""
    state = world.dataset()
    if state is None:
        return
    expect(state.published == state.reported == state.sequence, f"projections are behind: {state}")
    expect(world.ledger.cleanable(world.spike.name, 9) == {}, "published batches are not cleaned up")
    expect(world.ledger.open_swaps(world.spike.name) == (), "a swap has no end")
    with_files = {f["batch"] for f in world.rows(schema.files) if f["added"] is not None}
    told = {number for report in world.told for number in report.batches}
    expect(told == with_files, f"reported are {told}, committed {with_files}")


def nothing_is_left_over(world: ModelWorld, watch: Watch) -> None:
    """Once retention has had its time, only live files are there, and what an open epoch may still need."""
    for _ in range(4):
        before = world.version
        world.clock.advance(TERMS.snapshots.total_seconds() + 1)
        Desk(world).retain().finish()
        watch.check()
        if world.version == before:
            break
    newest = world.ledger.epochs()[world.spike.name]
    mine = f"staging/{world.spike.name}/{newest.number:08d}/"
    staged = {key for key in world.store.keys("staging/") if not key.startswith(mine)}
    expect(not staged, f"I9: nobody removes {staged}")
    by_key = {f["final_key"]: f for f in world.rows(schema.files)}
    extra = {key for key in world.store.keys("final/") if not excused(world, by_key[key])}
    expect(not extra, f"I9: nobody removes {extra}")


def excused(world: ModelWorld, f: Row) -> bool:
    """A live file; one that a snapshot may show; one that a slow process copied when retention was done."""
    if f["state"] == FileState.SUPERSEDED:
        return f["removed"] > world.catalog.oldest_sequence(world.tables()[f["kind"]])
    return f["state"] == FileState.LIVE or f["swept_at"] is not None
