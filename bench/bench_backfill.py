"""What a backfill costs: beside the live path, to readers, and to the live streams of a whole stack.

    .venv/bin/python bench/bench_backfill.py [rate|swap|lag …]

`rate`: CPU seconds of a real driver and of a real backfill for the same records, by hour, on a Kafka and an
S3 of its own. `swap`: an hour of 1,000 files replaced, on PostgreSQL, S3 and Iceberg. `lag`: `spike up` with
the four examples, 24 hours of payouts, their backfill by the command line, and the worst committed lag all
the while. Prints Markdown.
"""

import contextlib
import os
import platform as machine
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from kafka import KafkaProducer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from builders import World, parquet, spike
from conftest import running
from fake_appender import TOKEN, FakeAppender

from spike_pipelines.adapters import iceberg_files
from spike_pipelines.adapters.backfill_job import SparkRereader
from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.adapters.ledger import SqlLedger, migrate
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.offsets import OffsetRange, merged
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.spike import Location
from spike_pipelines.platform import Platform
from spike_pipelines.ports import BackfillOrder, KeepAlive, Surveyed, SurveyOrder
from spike_pipelines.producer.records import Shares, make
from spike_pipelines.services.backfill import Ask, Backfiller
from spike_pipelines.services.operate import Request
from spike_pipelines.services.promote import LeaseTerms, Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.services.swap import Swapper
from spike_pipelines.settings import Settings
from spike_pipelines.stack import running as stack
from spike_pipelines.stack.jars import spark_jars
from spike_pipelines.stack.java import find_java
from spike_pipelines.stack.parts.kafka import PORTS as KAFKA_PORTS
from spike_pipelines.stack.parts.kafka import Kafka
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.parts.s3 import PORTS as S3_PORTS
from spike_pipelines.stack.parts.s3 import S3, S3Ports
from spike_pipelines.stack.ports import remembered

ROOT = Path(__file__).parents[1]
SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
NAME, TOPIC, BUCKET = "crt-payout-v1-1.0", "crt.payout", "spike-lake"
PARTITIONS = 2
SHARES = Shares(malformed=0.001, late=0.0)
ASK = Ask(Request("bench", Author("bench", "a bench")))
Row = tuple[str, str, str]


def main(parts: list[str]) -> None:
    benches: dict[str, Callable[[], Iterator[Row]]] = {"rate": rate, "swap": swap, "lag": lag}
    print(f"{machine.machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}\n")
    print("| what | measured | target |\n| --- | --- | --- |")
    for name in parts or benches:
        for row in benches[name]():
            print("| " + " | ".join(row) + " |", flush=True)


@dataclass(frozen=True)
class Parts:
    folder: Path
    kafka: Kafka
    s3: S3
    postgres: Postgres


@contextlib.contextmanager
def parts(*wanted: str) -> Iterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="spike-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ports = remembered(folder / "ports.json", [*KAFKA_PORTS, *S3_PORTS, "postgres"])
        kafka = Kafka(data=folder / "kafka", port=ports["kafka"], controller_port=ports["kafka.controller"])
        s3 = S3(folder / "s3", S3Ports.of(ports), "bench-key", "bench-secret-key", (BUCKET,))
        postgres = Postgres(folder / "postgres", ports["postgres"], "bench-secret")
        os.environ |= {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        with contextlib.ExitStack() as all_of_them:
            for part in (kafka, s3, postgres):
                if type(part).__name__ in wanted:
                    all_of_them.enter_context(running(part.part(), folder))
            yield Parts(folder, kafka, s3, postgres)


def produce(bootstrap: str, hours: list[datetime], per_hour: int) -> None:
    """Payouts as the producer makes them, in the order of their timestamps."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, batch_size=262144)
    kinds = [make(TOPIC, 1, n, hours[0], SHARES) for n in range(2_000)]
    for hour in hours:
        for n in range(per_hour):
            at, record = hour + n * timedelta(hours=1) / per_hour, kinds[n % len(kinds)]
            millis = int(at.timestamp() * 1000)
            producer.send(TOPIC, record.value, key=record.key, partition=n % PARTITIONS, timestamp_ms=millis)
    producer.flush()
    producer.close()


def last_hours(count: int) -> list[datetime]:
    """The newest is the last whole one."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [now - timedelta(hours=n) for n in range(count, 0, -1)]


def until(holds: Callable[[], bool], seconds: float = 900, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:.0f} s")
        time.sleep(every)


# records for each CPU second


def rate(count: int = 6, per_hour: int = 150_000) -> Iterator[Row]:
    """The first batch, or hour, has the start of the session and the compiler in it: it is told apart. A live
    batch has as many records as an hour, so that neither side reads records which it then drops."""
    with parts("Kafka", "S3") as here:
        here.kafka.create_topics({TOPIC: PARTITIONS})
        hours = last_hours(count)
        produce(here.kafka.bootstrap, hours, per_hour)
        env = dict(os.environ) | {
            "SPIKE_DRIVER_ID": "bench", "SPIKE_TOKEN": TOKEN, "SPIKE_KAFKA_BOOTSTRAP": here.kafka.bootstrap,
            "SPIKE_S3_ENDPOINT": here.s3.endpoint, "SPIKE_STATE_DIR": str(here.folder / "state"),
            "SPIKE_SPARK_JARS": ",".join(map(str, spark_jars())), "JAVA_HOME": str(find_java()),
        }  # fmt: skip
        described = applications(here.folder, per_hour)
        batches, live = driven(here, described, env, count * per_hour)
        again = reread_hours(here, described, env, hours, batches)
    for name, (first, rest, records) in {"live driver": live, "backfill": again}.items():
        yield f"{name}: CPU until the end of its first batch or hour", f"{first:.0f} s", ""
        yield (
            f"{name}: records read per CPU second after that",
            f"{records / rest:,.0f}",
            "≥ live" * (name == "backfill"),
        )
    yield "backfill to live", f"{again[2] / again[1] / (live[2] / live[1]):.2f}", "≥ 1"


Cost = tuple[float, float, int]  # CPU seconds to the end of the first, of the rest, and the rest's records


def driven(here: Parts, described: Path, env: dict[str, str], records: int) -> tuple[list[NewBatch], Cost]:
    appender = FakeAppender(topic=TOPIC, ends=dict.fromkeys(range(PARTITIONS), 0), heartbeat_seconds=5)
    env = env | {"SPIKE_APPENDER_URL": appender.start()}
    command = (
        sys.executable,
        "-m",
        "spike_pipelines.spark",
        str(described / f"{NAME}.yaml"),
    )
    with (here.folder / "driver.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        appender.wait_for(lambda: appender.batches, 300)
        first, begun = cpu_seconds(process.pid), read_of(appender)
        appender.wait_for(lambda: read_of(appender) == records, 900)
        rest = cpu_seconds(process.pid) - first
    finally:
        process.terminate()
        process.wait(60)
        appender.stop()
    return [post.as_batch() for post in appender.batches], (first, rest, records - begun)


def read_of(appender: FakeAppender) -> int:
    return sum(batch.read for batch in appender.batches)


def reread_hours(
    here: Parts, described: Path, env: dict[str, str], hours: list[datetime], batches: list[NewBatch]
) -> Cost:
    """Each hour from the whole batches that fed it, as the ledger would have it."""
    settings = Settings(applications_dir=described, state_dir=here.folder / "state")
    rereader, cost, parsed = SparkRereader(settings, env), [], []
    for n, hour in enumerate(hours):
        pieces = merged(r for b in batches if any(h.hour == hour for h in b.hours) for r in b.ranges)
        prefix = f"staging/{NAME}/backfill-{n}/"
        order = BackfillOrder(NAME, hour, pieces, (), datetime.now(UTC), prefix)
        batch = rereader.reread(order, lambda _=None: None)
        wanted = sum(h.final + h.dead_letter + h.filtered for b in batches for h in b.hours if h.hour == hour)
        assert batch.read == wanted, (hour, batch.read, wanted)
        cost.append(cpu_seconds(rereader._worker._running.process.pid))  # noqa: SLF001 - a bench
        parsed.append(batch.read)
    rereader.close()
    return cost[0], cost[-1] - cost[0], sum(parsed[1:])


def cpu_seconds(pid: int) -> float:
    """Of a process and all below it; one that ends meanwhile counts no more."""
    process, seconds = psutil.Process(pid), 0.0
    for p in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(p.cpu_times()[:2])
    return seconds


# an hour of a thousand files


def swap(files: int = 1_000, rows: int = 100) -> Iterator[Row]:
    with parts("S3", "Postgres") as here:
        migrate(here.postgres.url("ledger"))
        settings = Settings(catalog_url=here.postgres.url("iceberg"), s3_endpoint=here.s3.endpoint)
        store = S3ObjectStore(connect(here.s3.endpoint, pool=32))
        catalog = IcebergCatalog.connect(settings)
        world = World(SqlLedger(here.postgres.url("ledger")), store=store, catalog=catalog)
        hour = last_hours(1)[0]
        for made in (files, 20):
            yield from swapped(world, hour, files, made, rows)


def swapped(world: World, hour: datetime, files: int, made: int, rows: int) -> Iterator[Row]:
    name = f"bench{made}"
    what = spike(name, staging=Location(BUCKET, "staging"), final=Location(BUCKET, "final"))
    world.spikes[name] = what
    world.broker.create(what.topic, 1)
    world.broker.append(what.topic, 0, *[hour] * (files * rows))
    driver, seen = world.driver(what), defaultdict(float)
    (partition,) = driver.ends
    listed = written(world, staging_prefix(what, driver.token.number), hour, files, rows)
    total = files * rows
    counts = (HourCounts(hour, total, 0, 0),)
    driver.register(NewBatch((OffsetRange(partition, 0, total),), listed, total, counts, "1.0"))
    promoter = Promoter(world.ledger, world.store, world.catalog, LeaseTerms("bench", 600))
    promoter.promote(what, limit=1)
    Publisher(world.ledger, world.catalog, world.store).publish(what, world.dataset(what))
    with watched(seen):
        backfiller = Backfiller(
            world.ledger,
            Swapper(world.ledger, promoter, 600),
            world.broker,
            Ready(world, made, total // made),
        )
        backfiller.backfill(what, hour, ASK)
        Publisher(world.ledger, world.catalog, world.store).publish(what, world.dataset(what))
    title = f"{files:,} files of an hour replaced by {made:,}"
    seen["transaction and snapshot"] = seen["_commit"] + seen["publish"]
    for step, told in {
        "footers": "row counts from footers", "check_publishable": "what the tables would take",
        "copy_all": "copies", "_commit": "the one transaction",
        "from_footers": "publication: columns' bounds of new files",
        "_apply": "publication: that, and the one snapshot", "publish": "publication in all",
        "transaction and snapshot": "from the commit to what readers see",
    }.items():  # fmt: skip
        yield f"{title}: {told}", f"{seen[step]:.2f} s", "≤ 2 s" * (step == "transaction and snapshot")


def written(world: World, prefix: str, hour: datetime, files: int, rows: int) -> tuple[StagedFile, ...]:
    def put(n: int) -> StagedFile:
        info = world.store.put(BUCKET, f"{prefix}a/{n}.parquet", parquet(rows, hour, 0, n * rows))
        return StagedFile(f"a/{n}.parquet", FileKind.FINAL, hour, rows, info.size, info.etag)

    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(put, range(files)))


@dataclass
class Ready:
    """Has read already, so that only the swap is timed."""

    world: World
    files: int
    rows: int

    def reread(self, order: BackfillOrder, keep_alive: KeepAlive) -> NewBatch:
        keep_alive()
        listed = written(self.world, str(order.prefix), order.hour, self.files, self.rows)
        total = self.files * self.rows
        return NewBatch((), listed, total, (HourCounts(order.hour, total, 0, 0),), "2.0")

    def survey(self, order: SurveyOrder, keep_alive: KeepAlive) -> Surveyed:
        raise NotImplementedError("nothing lies below where the spike began")

    def close(self) -> None:
        pass


@contextlib.contextmanager
def watched(seen: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds of each step."""
    steps = (
        (Promoter, "footers"), (Promoter, "check_publishable"), (Promoter, "copy_all"), (Swapper, "_commit"),
        (Publisher, "publish"), (IcebergCatalog, "_apply"), (iceberg_files, "from_footers"),
    )  # fmt: skip
    kept = [(owner, name, getattr(owner, name)) for owner, name in steps]

    def timed(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                seen[name] += time.perf_counter() - began

        return step

    for owner, name, call in kept:
        setattr(owner, name, timed(name, call))
    try:
        yield
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)


# the live streams of a stack meanwhile


def lag(count: int = 24, per_hour: int = 10_000, seconds: float = 60, streamed: str = "100") -> Iterator[Row]:
    folder = Path(tempfile.mkdtemp(prefix="spike-bench-"))
    env = dict(os.environ) | {"SPIKE_STATE_DIR": str(folder)}
    try:
        up = ("up", "--detach", "--rate", streamed, "--applications", str(applications(folder, per_hour)))
        subprocess.run((*SPIKE, *up), env=env, check=True, stdout=sys.stderr)
        os.environ.update(stack.find(folder).environment)
        platform = Platform(Settings.from_env())
        until(lambda: len(platform.ledger.last_commits()) == len(platform.spikes), every=1)
        hours = last_hours(count)
        produce(platform.settings.require("kafka_bootstrap"), hours, per_hour)
        until(lambda: platform.ledger.all_positions() and settled(platform), every=2)
        end = time.monotonic() + seconds
        before = watch(platform, lambda: time.monotonic() > end)
        took, told, during = backfilled(platform, hours)
    finally:
        down = subprocess.run((*SPIKE, "down"), env=env, check=False, stdout=sys.stderr)
    if down.returncode:
        sys.exit(f"`spike down` ended with status {down.returncode}: {folder} is left")
    shutil.rmtree(folder)
    yield (
        f"worst committed lag of {len(platform.spikes)} spikes, {seconds:.0f} s before",
        figures(before),
        "≤ 30 s",
    )
    yield f"and while {count} hours of {per_hour:,} records are backfilled", figures(during), "≤ 30 s"
    yield f"the backfill, {told}", f"{took:.0f} s, {count * per_hour / took:,.0f} records/s", ""


def applications(folder: Path, most: int) -> Path:
    """The examples; of payouts so many to a batch, so that an hour's batches are its own, as if they had come
    in their time."""
    made = folder / "applications"
    shutil.copytree(ROOT / "deployments/applications", made)
    payout = made / f"{NAME}.yaml"
    text = payout.read_text()
    assert "maxOffsetsPerTrigger: 100000" in text
    text = text.replace("maxOffsetsPerTrigger: 100000", f"maxOffsetsPerTrigger: {most}")
    payout.write_text(text.replace("trigger: 10s", "trigger: 5s"))
    return made


def settled(platform: Platform) -> bool:
    lag = worst_lag(platform)
    return lag is not None and lag < 20


def backfilled(platform: Platform, hours: list[datetime]) -> tuple[float, str, list[float | None]]:
    """Seconds, the last lines of the command, and the lag all the while."""
    ends = ("--from", f"{hours[0]:%Y-%m-%dT%H}", "--to", f"{hours[-1]:%Y-%m-%dT%H}")
    command = (*SPIKE, "backfill", NAME, *ends, "--why", "a bench", "--wait")
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:  # a pipe that nobody empties meanwhile would fill
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        lags = watch(platform, lambda: process.poll() is not None)
        output.seek(0)
        told = output.read().splitlines()
    if process.returncode:
        sys.exit("\n".join(told))
    return time.monotonic() - began, told[-2], lags


def worst_lag(platform: Platform) -> float | None:
    """Seconds; None where not every spike's is known."""
    lags = [report.lag_seconds for report in platform.observer.lag().values()]
    known = [lag for lag in lags if lag is not None]
    return max(known) if lags and len(known) == len(lags) else None


def watch(platform: Platform, over: Callable[[], bool]) -> list[float | None]:
    seen: list[float | None] = []
    pause = threading.Event()
    while not over():
        seen.append(worst_lag(platform))
        pause.wait(2)
    return seen


def figures(lags: list[float | None]) -> str:
    known = [lag for lag in lags if lag is not None]
    unknown = f"{len(lags) - len(known)} of {len(lags)} looks did not know every lag"
    if not known:
        return unknown
    return f"median {statistics.median(known):.0f} s, largest {max(known):.0f} s; {unknown}"


if __name__ == "__main__":
    main(sys.argv[1:])
