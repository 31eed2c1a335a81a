"""Values of the domain with sensible defaults, and a small platform: a real ledger, the rest in memory."""

import io
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from spike_pipelines.adapters.ledger import SqlLedger
from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.adapters.memory_broker import MemoryBroker
from spike_pipelines.adapters.memory_catalog import MemoryCatalog
from spike_pipelines.adapters.memory_store import MemoryObjectStore
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.offsets import OffsetRange, Partition, TopicOffsets
from spike_pipelines.domain.spike import Dataset, Location, Objectives, Resources, Spike, Start
from spike_pipelines.ports import ObjectStore
from spike_pipelines.services.audit import Auditor, Finding
from spike_pipelines.services.promote import LeaseTerms, Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.register import EpochToken, Opened, Registered, Registrar, staging_prefix

HOUR = datetime(2026, 11, 22, 21, tzinfo=UTC)
NEXT_HOUR = HOUR + timedelta(hours=1)
BUCKET = "lake"
IDLE_LIMIT = timedelta(seconds=20)


def spike(name: str = "payouts", **changes) -> Spike:
    plain = Spike(
        name=name,
        description=f"Events of {name}",
        version="1.0",
        topic=f"{name}-topic",
        start=Start.EARLIEST,
        schema="id BIGINT NOT NULL",
        filter=None,
        transform=None,
        trigger=timedelta(seconds=5),
        max_offsets_per_trigger=1000,
        max_staged_batches=4,
        driver=Resources(1, "512m"),
        executor=Resources(1, "1g"),
        staging=Location(BUCKET, "staging"),
        final=Location(BUCKET, "final"),
        dataset=Dataset(name.replace("-", "_"), datetime(2026, 1, 1, tzinfo=UTC)),
        objectives=Objectives(
            lag=timedelta(seconds=30), warn=timedelta(seconds=20), hang=timedelta(seconds=60)
        ),
    )
    return replace(plain, **changes)


def partition(index: int = 0, topic: str = "events", topic_id: str = "id-1") -> Partition:
    return Partition(topic, topic_id, index)


def topic(
    *ends: int, starts: Iterable[int] = (), topic_id: str = "id-1", name: str = "events"
) -> TopicOffsets:
    """A topic with these log ends, one for each partition; log starts are 0 where not given."""
    return TopicOffsets(
        topic=name,
        topic_id=topic_id,
        log_start=dict.fromkeys(range(len(ends)), 0) | dict(enumerate(starts)),
        log_end=dict(enumerate(ends)),
    )


def epoch(number: int = 1, driver: str = "a", *, at: datetime = HOUR, **changes) -> Epoch:
    plain = Epoch(
        spike="payouts",
        number=number,
        nonce=f"nonce-{number}",
        driver=driver,
        state=EpochState.OPEN,
        opened_at=at,
        heartbeat_at=at,
    )
    return replace(plain, **changes)


def new_batch(
    *ranges: OffsetRange,
    files: Iterable[StagedFile] = (),
    hours: Iterable[HourCounts] | None = None,
    read: int | None = None,
) -> NewBatch:
    """All records filtered, unless `files` and `hours` say otherwise."""
    ranges = ranges or (OffsetRange(partition(), 0, 10),)
    total = sum(map(len, ranges))
    hours = (HourCounts(HOUR, 0, 0, total),) if hours is None else tuple(hours)
    return NewBatch(ranges, tuple(files), total if read is None else read, hours, "1.0")


def staged_file(key: str = "part-0.parquet", **changes) -> StagedFile:
    return replace(StagedFile(key, FileKind.FINAL, HOUR, 10, 100, "abc"), **changes)


@cache
def parquet(rows: int, hour: datetime = HOUR, index: int = 0, start: int = 0, **columns: pa.Array) -> bytes:
    """Records of one partition from `start` on, all in `hour`."""
    return parquet_of([(index, start + n) for n in range(rows)], hour, **columns)


def parquet_of(places: Iterable[tuple[int, int]], hour: datetime = HOUR, **columns: pa.Array) -> bytes:
    """Records of these partitions and offsets, in one row group as a task of several partitions writes it."""
    body = io.BytesIO()
    places = tuple(places)
    kafka = {
        "kafka_partition": pa.array([index for index, _ in places], pa.int32()),
        "kafka_offset": pa.array([offset for _, offset in places], pa.int64()),
        "kafka_timestamp": pa.array([hour] * len(places), pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table({"id": pa.array(range(len(places)), pa.int64())} | kafka | columns), body)
    return body.getvalue()


def stage_file(  # noqa: PLR0917 - a file's
    store: ObjectStore, prefix: str, key: str, kind: FileKind, hour: datetime, rows: int, body: bytes
) -> StagedFile:
    """Put below `prefix` (ends in `/`), as a driver or a job does."""
    info = store.put(BUCKET, prefix + key, body)
    return StagedFile(key, kind, hour, rows, info.size, info.etag)


def empty(ledger: SqlLedger) -> None:
    """Deleting from small tables is ten times faster than TRUNCATE. Numbers go on, as they do in life."""
    with ledger._engine.begin() as db:
        statements = [f'DELETE FROM "{table.name}"' for table in reversed(metadata.sorted_tables)]
        db.exec_driver_sql("; ".join(statements))


class SameThread(Executor):
    """Runs each call at once, in the order of the calls: an execution that can be repeated exactly."""

    def submit(self, fn, /, *args, **kwargs):
        done: Future = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed to the caller, as every executor does
            done.set_exception(error)
        return done


@dataclass(slots=True)
class Driver:
    """A driver as the appender sees it: an epoch, and the offsets it will read next."""

    world: "World"
    spike: Spike
    opened: Opened
    ends: dict[Partition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ends = dict(self.opened.offsets)

    @property
    def token(self) -> EpochToken:
        return EpochToken(self.opened.epoch.number, self.opened.epoch.nonce)

    def write(
        self, final: int = 4, dead: int = 1, filtered: int = 1, *, index: int = 0, attempt: int = 0
    ) -> NewBatch:
        """Put the next batch of a partition into staging: two files of final rows in two hours, one of
        dead letters. Reads exactly `final + dead + filtered` offsets."""
        p = next(p for p in self.ends if p.index == index)
        start = self.ends[p]
        r = OffsetRange(p, start, start + final + dead + filtered)
        name = f"a{attempt}/{p.index}-{start}"
        split = final // 2
        files = [
            self._put(f"{name}-0.parquet", FileKind.FINAL, HOUR, split, index, start),
            self._put(f"{name}-1.parquet", FileKind.FINAL, NEXT_HOUR, final - split, index, start + split),
            self._put(f"{name}-2.parquet", FileKind.DEAD_LETTER, HOUR, dead, index, start + final),
        ]
        return NewBatch(
            ranges=(r,),
            files=tuple(f for f in files if f is not None),
            read=len(r),
            hours=(
                HourCounts(HOUR, split, dead, filtered),
                HourCounts(NEXT_HOUR, final - split, 0, 0),
            ),
            application_version="1.0",
        )

    def register(self, batch: NewBatch) -> Registered:
        done = self.world.registrar.register(self.spike, self.token, batch)
        self.ends |= {r.partition: r.end for r in batch.ranges}
        return done

    def stage(self, final: int = 4, dead: int = 1, filtered: int = 1, *, index: int = 0) -> Registered:
        return self.register(self.write(final, dead, filtered, index=index))

    def beat(self, phase: Phase) -> None:
        self.world.registrar.heartbeat(
            self.spike, self.token, phase=phase, problem=None, batch_started_at=None, read=self.ends
        )

    def _put(  # noqa: PLR0917
        self, key: str, kind: FileKind, hour: datetime, rows: int, index: int = 0, start: int = 0
    ) -> StagedFile | None:
        if rows == 0:
            return None
        prefix, body = staging_prefix(self.spike, self.token.number), parquet(rows, hour, index, start)
        return stage_file(self.world.store, prefix, key, kind, hour, rows, body)


@dataclass(slots=True)
class World:
    """The appender's side with a real ledger. `records` are put into each partition of a new topic."""

    ledger: SqlLedger
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    store: MemoryObjectStore = field(default_factory=lambda: MemoryObjectStore(BUCKET))
    catalog: MemoryCatalog = field(default_factory=MemoryCatalog)
    spikes: dict[str, Spike] = field(default_factory=dict)

    def spike(self, name: str = "payouts", *, partitions: int = 1, records: int = 100, **changes) -> Spike:
        made = spike(name, **changes)
        self.spikes[made.name] = made
        self.broker.create(made.topic, partitions)
        for index in range(partitions):
            self.broker.append(made.topic, index, *[HOUR] * records)
        return made

    @property
    def registrar(self) -> Registrar:
        return Registrar(self.ledger, self.broker, IDLE_LIMIT)

    def driver(self, spike: Spike, name: str = "a", after: int | None = None) -> Driver:
        return Driver(self, spike, self.registrar.open_epoch(spike, name, after, "1.0"))

    def promoter(self, holder: str = "test", *, ledger=None, store=None, pool=None, seconds=15.0) -> Promoter:
        return Promoter(
            ledger or self.ledger,
            store or self.store,
            self.catalog,
            LeaseTerms(holder, seconds),
            pool or SameThread,
        )

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.ledger, self.catalog, self.store)

    def dataset(self, spike: Spike):
        return next(d for d in self.ledger.datasets() if d.name == spike.dataset.name)

    def settle(self, spike: Spike) -> None:
        """Promote, publish and clean all there is."""
        self.promoter().promote(spike, limit=100)
        self.publisher.publish(spike, self.dataset(spike))
        self.publisher.clean(spike)

    def keys(self, prefix: str) -> list[str]:
        return [info.key for info in self.store.list(BUCKET, prefix)]

    def audit(self) -> dict[str, Finding]:
        auditor = Auditor(self.ledger, self.broker, self.store, self.catalog, self.spikes)
        return {finding.invariant: finding for finding in auditor.run()}

    def execute(self, statement: str, **parameters) -> None:
        """What no part of the platform would do to the ledger."""
        with self.ledger._engine.begin() as db:
            db.exec_driver_sql(statement, parameters)
