"""The platform in memory: real services, memory adapters, and what was produced in a plain dict."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from builders import BUCKET, HOUR, IDLE_LIMIT, NEXT_HOUR, SameThread, spike
from hypothesis import currently_in_test_context
from hypothesis import event as hypothesis_event
from processes import Port, Process, SteppedDrain

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.adapters.memory_broker import MemoryBroker
from spike_pipelines.adapters.memory_catalog import MemoryCatalog
from spike_pipelines.adapters.memory_ledger import MemoryLedger
from spike_pipelines.adapters.memory_store import MemoryObjectStore
from spike_pipelines.domain.batch import (
    FileKind,
    FileState,
    HourCounts,
    NewBatch,
    StagedFile,
    hour_number,
    identity,
)
from spike_pipelines.domain.contents import RowGroup, Span
from spike_pipelines.domain.errors import (
    Conflict,
    Fenced,
    Gap,
    Held,
    InvariantBroken,
    Overlap,
    SourceChanged,
    SpikeError,
    Transient,
)
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.ports import HourReport, LiveFile, ObjectInfo, ParquetFooter
from spike_pipelines.services.drain import FailedTurn, Terms
from spike_pipelines.services.promote import LeaseTerms, Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.register import EpochToken, Registered, Registrar, staging_prefix

HOURS = (HOUR, NEXT_HOUR)
Row = Mapping[str, Any]
TERMS = Terms(
    idle=timedelta(0),
    longest=timedelta(seconds=8),
    poll_seconds=0.5,
    report_every=timedelta(seconds=1),
)
LEASE_SECONDS = 15.0


def event(what: str) -> None:
    """For the statistics of a run of the state machine."""
    if currently_in_test_context():
        hypothesis_event(what)


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record is: one offset of one partition of one incarnation of the topic."""

    topic_id: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """What becomes of a record: `kind` is None for one that is filtered, `healed` is what a replay makes of
    a dead letter."""

    kind: FileKind | None
    hour: datetime
    healed: FileKind | None = FileKind.FINAL


def encode(attempt: str, places: Iterable[Place]) -> bytes:
    """A data file: its attempt, then a line for each record."""
    lines = [f"{p.topic_id} {p.partition} {p.offset}" for p in places]
    return "\n".join([attempt, *lines]).encode()


@lru_cache(maxsize=4096)
def decode(body: bytes) -> tuple[Place, ...]:
    lines = [line.split(" ") for line in body.decode().split("\n")[1:]]
    return tuple(Place(topic_id, int(index), int(offset)) for topic_id, index, offset in lines)


def _groups(key: str, places: tuple[Place, ...]) -> tuple[RowGroup, ...]:
    """A row group for each partition; the key says the hour, as `_put` has it."""
    hour = next(h for h in HOURS if f"-{h:%H}." in key)
    number = hour_number(hour)
    offsets: dict[int, list[int]] = defaultdict(list)
    for place in places:
        offsets[place.partition].append(place.offset)
    return tuple(
        RowGroup(Span(index, index), Span(min(found), max(found)), Span(number, number))
        for index, found in offsets.items()
    )


def _shared(groups: tuple[RowGroup, ...]) -> tuple[RowGroup, ...]:
    """One row group for all partitions, as a file has that one task wrote."""
    if not groups:
        return ()
    partitions, offsets = _union(g.partitions for g in groups), _union(g.offsets for g in groups)
    return (RowGroup(partitions, offsets, groups[0].hours),)


def _union(spans: Iterable[Span]) -> Span:
    spans = tuple(spans)
    return Span(min(s.lowest for s in spans), max(s.highest for s in spans))


class RecordStore(MemoryObjectStore):
    """The store in memory, with files of lines instead of Parquet, and a clock. Counts its writes."""

    writes = 0
    now: Callable[[], datetime]

    def put(self, bucket, key, body):
        self.writes += 1
        return self._dated(bucket, super().put(bucket, key, body))

    def copy(self, bucket, source, target, **named):
        self.writes += 1
        return self._dated(bucket, super().copy(bucket, source, target, **named))

    def _dated(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        objects = self._bucket(bucket)
        objects[info.key] = replace(objects[info.key], modified_at=self.now())
        return info

    def delete(self, *arguments, **named):
        self.writes += 1
        return super().delete(*arguments, **named)

    def footer(self, bucket: str, key: str, *, size: int, etag: str) -> ParquetFooter:
        stored = self._source(bucket, key)
        if (len(stored.body), stored.etag) != (size, etag):
            raise SourceChanged(f"{key} is another object than was registered")
        places = decode(stored.body)
        return ParquetFooter(len(places), _shared(_groups(key, places)))

    def origins(
        self, bucket: str, key: str, *, size: int, etag: str, footer: ParquetFooter
    ) -> tuple[RowGroup, ...]:
        stored = self._source(bucket, key)
        if (len(stored.body), stored.etag) != (size, etag):
            raise SourceChanged(f"{key} is another object than was registered")
        return _groups(key, decode(stored.body))

    def read(self, bucket: str, key: str) -> tuple[Place, ...]:
        return decode(self._source(bucket, key).body)

    def places(self, key: str) -> tuple[Place, ...]:
        if key not in self._bucket(BUCKET):
            raise Violation(f"I4: {key} is live and not there")
        return decode(self._source(BUCKET, key).body)

    def infos(self, prefix: str) -> Mapping[str, ObjectInfo]:
        return {key: v.info(key) for key, v in self._bucket(BUCKET).items() if key.startswith(prefix)}

    def keys(self, prefix: str) -> set[str]:
        return {key for key in self._bucket(BUCKET) if key.startswith(prefix)}


class CountingCatalog(MemoryCatalog):
    """Remembers what each snapshot shows, and when it was made. Counts its writes."""

    writes = 0
    now: Callable[[], datetime]

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[tuple[str, int], frozenset[str]] = {}
        self.shown_at: dict[tuple[str, int], datetime] = {}
        self.takes: Callable[[LiveFile], bool] = lambda _: True
        self.schemas: set[str] = set()  # that tables of final rows were made or widened by

    def ensure_table(self, table, spike, *, dead_letters):
        if not dead_letters:
            self.schemas.add(spike.schema)
        super().ensure_table(table, spike, dead_letters=dead_letters)

    def misfit(self, table, spike, files, *, dead_letters):
        files = list(files)
        unfit = [file.uri for file, _ in files if not self.takes(file)]
        problem = super().misfit(table, spike, files, dead_letters=dead_letters)
        return f"{table} cannot take {unfit}" if unfit else problem

    def publish(self, table, *, sequence, add, remove, base=None):
        add = list(add)
        if not all(map(self.takes, add)):
            raise InvariantBroken(f"{table} will never take {add}")
        if base == self.sequence(table):
            self.refuse_twice(table, sequence, add)
        self.writes += 1
        done = super().publish(table, sequence=sequence, add=add, remove=remove, base=base)
        if done:
            found = self._tables[table]
            found.history[-1] = replace(found.history[-1], at=self.now())
            self.shown[table, sequence] = frozenset(found.files)
            self.shown_at[table, sequence] = found.history[-1].at
        return done

    def readable(self) -> frozenset[str]:
        """Files of every snapshot that is kept."""
        moments = ((name, m.sequence) for name, t in self._tables.items() for m in t.history)
        return frozenset(uri for moment in moments for uri in self.shown.get(moment, ()))

    def expire(self, *arguments, **named):
        self.writes += 1
        return super().expire(*arguments, **named)

    def refuse_twice(self, table, sequence, add) -> None:
        """Iceberg would list a file twice, and readers would see its records twice."""
        twice = {f.uri for f in add} & self.files(table).keys()
        if twice and self.sequence(table) < sequence:
            raise Violation(f"I2: {sorted(twice)} would be in {table} twice")


class Clock:
    """Stands still but for a microsecond at each look, so that no two moments are the same."""

    def __init__(self) -> None:
        self._now = NEXT_HOUR

    def now(self) -> datetime:
        self._now += timedelta(microseconds=1)
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass(eq=False, slots=True)
class Driver:
    """A driver's own idea of the world. It never learns anything but from answers."""

    name: str
    token: EpochToken
    ends: dict[Partition, int]
    micro_batch: int = 0
    post: "Post | None" = None
    lost: bool = False  # it was told that it is fenced
    astray: bool = False  # it was told of a gap or an overlap, and opens a new epoch


@dataclass(eq=False, slots=True)
class Post:
    """A POST of a batch: may be sent never, late, or several times."""

    driver: Driver
    token: EpochToken
    batch: NewBatch
    identity: str
    micro_batch: int


@cache
def _ledger() -> MemoryLedger:
    """One for all examples: compiled statements are kept."""
    return MemoryLedger()


@dataclass
class ModelWorld:
    """`gappy`: the topic has control records, and the spike knows it."""

    gappy: bool = False
    partitions: int = 1
    clock: Clock = field(default_factory=Clock)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    store: RecordStore = field(default_factory=lambda: RecordStore(BUCKET))
    catalog: CountingCatalog = field(default_factory=CountingCatalog)
    records: dict[Place, Record] = field(default_factory=dict)
    drivers: list[Driver] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    late: list[tuple[datetime, Callable[[], object]]] = field(default_factory=list)
    told: list[HourReport] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    stopped: str | None = None  # the calamity that happened, if so
    spoiled: set[str] = field(default_factory=set)  # keys of staged objects that somebody touched

    def __post_init__(self) -> None:
        self.ledger = _ledger()
        self.ledger.empty()
        self.ledger.now_is = self.store.now = self.catalog.now = self.clock.now
        self.spike = spike(topic_has_gaps=self.gappy, max_staged_batches=3)
        self.broker.create(self.spike.topic, self.partitions)
        self.topic_id = self.topic().topic_id

    # Kafka

    def topic(self):
        return self.broker.topics([self.spike.topic])[self.spike.topic]

    def produce(self, index: int, records: Iterable[Record]) -> None:
        topic = self.topic()
        index %= len(topic.log_end)
        for offset, record in enumerate(records, topic.log_end[index]):
            self.broker.append(self.spike.topic, index, record.hour)
            self.records[Place(topic.topic_id, index, offset)] = record

    # drivers

    def registrar(self, process: Process | None = None) -> Registrar:
        if process is None:
            return Registrar(self.ledger, self.broker, IDLE_LIMIT)
        return Registrar(
            Port(process, "ledger", self.ledger), Port(process, "broker", self.broker), IDLE_LIMIT
        )

    def open(self, name: str, after: int | None = None) -> Driver:
        """A driver with an epoch and an empty checkpoint. Raises what the appender answers."""
        opened = self.registrar().open_epoch(self.spike, name, after, "1.0")
        made = Driver(name, EpochToken(opened.epoch.number, opened.epoch.nonce), dict(opened.offsets))
        self.drivers.append(made)
        return made

    def take_over(self, name: str) -> Driver:
        """As `open`, after the open epoch's driver was not heard of for long enough."""
        try:
            return self.open(name)
        except Held:
            self.clock.advance(IDLE_LIMIT.total_seconds() + 1)
            return self.open(name)

    def beat(self, driver: Driver) -> None:
        self.registrar().heartbeat(
            self.spike, driver.token, phase="reading", problem=None, batch_started_at=None, read=driver.ends
        )

    def retire(self, name: str) -> None:
        with self.ledger.begin() as tx:
            tx.retire_epoch(self.spike.name, name)

    def stage(self, driver: Driver, most: int = 1_000) -> Post | None:
        """Read up to `most` offsets of each partition, write the files. None if nothing is to be read."""
        topic = self.topic()
        if any(
            p.topic_id != topic.topic_id or topic.log_start[p.index] > at for p, at in driver.ends.items()
        ):
            return None  # failOnDataLoss: the driver stops
        ranges = [
            OffsetRange(p, at, min(at + most, topic.log_end[p.index]))
            for p, at in sorted(driver.ends.items())
            if at < topic.log_end[p.index]
        ]
        return self.write(driver, ranges) if ranges else None

    def write(self, driver: Driver, ranges: Iterable[OffsetRange], micro_batch: int | None = None) -> Post:
        """What a driver stages for these ranges, as a POST not sent yet. All attempts at one micro-batch
        have its number in their keys."""
        ranges = tuple(ranges)
        micro_batch = driver.micro_batch if micro_batch is None else micro_batch
        read = [
            Place(r.partition.topic_id, r.partition.index, offset)
            for r in ranges
            for offset in range(r.start, r.end)
        ]
        kinds = {place: self.records[place].kind for place in read if place in self.records}
        prefix = staging_prefix(self.spike, driver.token.number)
        batch = self.put_files(prefix, f"{micro_batch:06d}-", kinds, ranges)
        name = identity(self.spike.name, "live", driver.token.number, ranges)
        post = Post(driver, driver.token, batch, name, micro_batch)
        driver.post = post
        self.posts.append(post)
        return post

    def put_files(
        self,
        prefix: str,
        name: str,
        kinds: Mapping[Place, FileKind | None],
        ranges: tuple[OffsetRange, ...] = (),
    ) -> NewBatch:
        """A file for each kind and hour, in the folder of a new attempt."""
        self.attempts += 1
        folder = f"{name}{self.attempts:032x}"
        groups: dict[tuple[FileKind | None, datetime], list[Place]] = defaultdict(list)
        for place, kind in kinds.items():
            groups[kind, self.records[place].hour].append(place)
        files = tuple(
            self._put(prefix, folder, kind, hour, places)
            for (kind, hour), places in groups.items()
            if kind is not None
        )
        order = (FileKind.FINAL, FileKind.DEAD_LETTER, None)
        hours = tuple(HourCounts(hour, *(len(groups.get((k, hour), ())) for k in order)) for hour in HOURS)
        return NewBatch(ranges, files, len(kinds), hours, "1.0")

    def _put(
        self, prefix: str, folder: str, kind: FileKind, hour: datetime, places: list[Place]
    ) -> StagedFile:
        key = f"{folder}/{kind}-{hour:%H}.parquet"
        info = self.store.put(BUCKET, prefix + key, encode(f"attempt-{self.attempts}", places))
        return StagedFile(key, kind, hour, len(places), info.size, info.etag)

    def send(self, post: Post) -> Process:
        """The appender's side of one POST."""
        return self.start("request", lambda process: self._answer(post, process))

    def post(self, post: Post) -> Registered | SpikeError:
        """Send it, and wait for the answer."""
        return self._answer(post, None)

    def _answer(self, post: Post, process: Process | None) -> Registered | SpikeError:
        try:
            answer = self.registrar(process).register(self.spike, post.token, post.batch)
        except InvariantBroken:
            raise
        except SpikeError as refused:
            event(f"POST: {type(refused).__name__}")
            self._refused(post, refused)
            return refused
        event(f"POST: {'new' if answer.new else 'known'}")
        self._registered(post, answer)
        return answer

    def _refused(self, post: Post, refused: SpikeError) -> None:
        if post.driver.post is post:
            post.driver.lost |= isinstance(refused, Fenced)
            post.driver.astray |= isinstance(refused, Gap | Overlap)

    def _registered(self, post: Post, answer: Registered) -> None:
        newest = self.ledger.epochs()[self.spike.name]
        if (newest.number, newest.nonce, newest.state) != (post.token.number, post.token.nonce, "open"):
            raise Violation(f"I6: epoch {post.token.number} registered, {newest.number} is the newest")
        if answer.new and any(r.partition.topic_id != self.topic().topic_id for r in post.batch.ranges):
            raise Violation("I10: a batch of another incarnation of the topic was registered")
        first = self.numbers.setdefault(post.identity, answer.batch.number)
        if first != answer.batch.number or (answer.new and first in [b for b, n in self._answered if n]):
            raise Violation(f"I7: batch {first} was registered again as {answer.batch.number}")
        self._answered.append((answer.batch.number, answer.new))
        if post.driver.post is post:
            post.driver.ends |= {r.partition: r.end for r in post.batch.ranges}
            post.driver.micro_batch += 1
            post.driver.post = None

    @property
    def _answered(self) -> list[tuple[int, bool]]:
        return self.__dict__.setdefault("_answers", [])

    # appender runs

    def start(self, name: str, body: Callable[[Process], object]) -> Process:
        made = Process(name, body)
        self.processes.append(made)
        return made

    def publisher(self, process: Process) -> Publisher:
        return Publisher(
            Port(process, "ledger", self.ledger),
            Port(process, "catalog", self.catalog),
            Port(process, "store", self.store),
        )

    def promoter(self, process: Process, holder: str) -> Promoter:
        return Promoter(
            Port(process, "ledger", self.ledger),
            Port(process, "store", self.store),
            Port(process, "catalog", self.catalog),
            LeaseTerms(holder, LEASE_SECONDS),
            SameThread,
        )

    def dataset(self):
        return next((d for d in self.ledger.datasets() if d.name == self.spike.dataset.name), None)

    def run(self) -> Process:
        """A whole appender run, as Dagster starts one."""
        holder = f"run-{len(self.processes)}"
        return self.start("run", lambda process: self._drain(process, holder))

    def _drain(self, process: Process, holder: str) -> None:
        drain = SteppedDrain(
            ledger=Port(process, "ledger", self.ledger),
            promoter=self.promoter(process, holder),
            publisher=self.publisher(process),
            spikes={self.spike.name: self.spike},
            clock=self.clock,
            terms=TERMS,
            holder=holder,
            pause=lambda: process.effect("pause", lambda: self.clock.advance(TERMS.poll_seconds)),
        )
        with tolerated(process), closing(drain.run()) as items:
            for item in items:
                if isinstance(item, FailedTurn):
                    if item.final:
                        raise Violation(f"an appender run gave up: {item.message}")
                else:
                    process.effect("events.report", lambda item=item: self._tell(item))

    def _tell(self, report: HourReport) -> None:
        visible = {uri for t in self.tables().values() for uri in self.catalog.files(t)}
        for number in report.batches:
            for f in self.files_of(number):
                superseded = f.state is not FileState.LIVE
                if f.hour == report.hour and not superseded and self.uri(f.final_key) not in visible:
                    raise Violation(f"I3: batch {number} is reported and not published")
        self.told.append(report)

    def promotion(self, limit: int = 2) -> Process:
        """Only promotes: a second appender that does not know of the first."""
        holder = f"promoter-{len(self.processes)}"

        def body(process: Process) -> None:
            with tolerated(process):
                self.promoter(process, holder).promote(self.spike, limit=limit)

        return self.start("promotion", body)

    def publication(self, sequence: int | None = None) -> Process:
        """Publishes what the ledger had at `sequence`, cleans up; of the newest state if None."""

        def body(process: Process) -> None:
            state = self.dataset()
            if state is not None:
                at = state.sequence if sequence is None else min(sequence, state.sequence)
                with tolerated(process):
                    self.publisher(process).publish(self.spike, replace(state, sequence=at))
                    self.publisher(process).clean(self.spike)

        return self.start("publication", body)

    def settle(self) -> None:
        self.run().finish()

    # looking

    def tables(self) -> Mapping[FileKind, str]:
        dataset = self.spike.dataset
        return {FileKind.FINAL: dataset.name, FileKind.DEAD_LETTER: dataset.dead_letters}

    def uri(self, key: str) -> str:
        return f"s3://{BUCKET}/{key}"

    def topic_changed(self) -> bool:
        """The ledger reads on in another incarnation of the topic than there is."""
        now = self.topic().topic_id
        return any(p["topic_id"] != now for p in self.rows(schema.positions) if p["closed_by"] is None)

    def records_lost(self) -> bool:
        """Kafka deleted what is to be read next."""
        topic, known = self.topic(), self.ledger.all_positions().get(self.spike.name, {})
        ends = {p.index: x.staged_end for p, x in known.items() if p.topic_id == topic.topic_id}
        return any(start > ends.get(index, 0) for index, start in topic.log_start.items())

    def files_of(self, number: int):
        with self.ledger.begin() as tx:
            return tx.files(number)

    def rows(self, table: sa.Table) -> list[Row]:
        """Every row, past SQLAlchemy: the checks read all of it after each step. Times are microseconds."""
        with closing(self.ledger._engine.raw_connection()) as db:
            found = db.cursor().execute(f'SELECT * FROM "{table.name}"')
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    @property
    def version(self) -> tuple[int, int, int]:
        """Another one after every write, wherever it went."""
        with closing(self.ledger._engine.raw_connection()) as db:
            return db.driver_connection.total_changes, self.store.writes, self.catalog.writes


@contextmanager
def tolerated(process: Process) -> Iterator[None]:
    """What a run may end with: another one is at work, or something did not answer."""
    try:
        yield
    except (Transient, Conflict) as error:
        caused(process, error)


def caused(process: Process, error: SpikeError) -> None:
    """Nothing fails by itself here: what is `Transient` without a fault is a mistake that hides."""
    if isinstance(error, Transient) and not process.disturbed:
        raise Violation(f"{process.name} was not disturbed, and failed: {error}") from error
