"""How fast ledger and appender are: commits, copies, staged to committed, a ledger of 10 million files.

    .venv/bin/python bench/bench_ledger.py [PART…] [--rows 10000000]

PARTS are `commit`, `copy`, `latency`, `size` and `audit`; all of them without any. Starts a PostgreSQL and
an S3 of its own in a scratch folder, with the settings of `spike up`: durable commits. Prints Markdown.
"""

import argparse
import contextlib
import os
import platform as machine
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import sqlalchemy as sa

from spike_pipelines.adapters.ledger import SqlLedger, migrate
from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import LIVE_LANE, Batch, BatchState, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import plan_intents
from spike_pipelines.platform import SystemClock
from spike_pipelines.services.drain import Drain, Terms
from spike_pipelines.services.promote import LeaseTerms, Promoter, lease_name
from spike_pipelines.services.publish import Publisher
from spike_pipelines.stack import process
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.parts.s3 import PORTS, S3, S3Ports
from spike_pipelines.stack.ports import remembered

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from builders import BUCKET, HOUR, Driver, World, parquet, staged_file

FILES = 100
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Parts:
    postgres: Postgres
    s3: S3
    url: str
    ledger: SqlLedger


def main(parts: list[str], rows: int) -> None:
    benches: dict[str, Callable[[Parts], Iterator[Row]]] = {
        "commit": commit_bench,
        "copy": copy_bench,
        "latency": latency_bench,
        "size": lambda p: size_bench(p, rows),
        "audit": audit_bench,
    }
    print(f"{machine.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB\n")
    print("| what | measured | target |\n| --- | --- | --- |")
    with started() as here:
        for name in parts or benches:
            for row in benches[name](here):
                print("| " + " | ".join(row) + " |", flush=True)


@contextlib.contextmanager
def started() -> Iterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="spike-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ports = remembered(folder / "ports.json", ["postgres", *PORTS])
        postgres = Postgres(folder / "postgres", ports["postgres"], secrets.token_hex(8))
        s3 = S3(folder / "s3", S3Ports.of(ports), secrets.token_hex(8), secrets.token_hex(16), (BUCKET,))
        with running(postgres.part(), folder), running(s3.part(), folder):
            migrate(postgres.url("ledger"))
            ledger = SqlLedger(postgres.url("ledger"))
            yield Parts(postgres, s3, postgres.url("ledger"), ledger)
            ledger.close()


@contextlib.contextmanager
def running(part: Part, folder: Path) -> Iterator[None]:
    log = folder / f"{part.name}.log"
    child = process.launch(part, log)
    try:
        process.await_ready(part, child, log)
        yield
    finally:
        process.end(part, child)


def wipe(here: Parts) -> None:
    names = ", ".join(table.name for table in metadata.sorted_tables)
    with here.ledger._engine.begin() as db:  # noqa: SLF001
        db.exec_driver_sql(f"TRUNCATE {names}")


# one commit of many files


@dataclass
class Commits:
    """Batches of one spike, straight through the ledger: what a promotion does without its copies."""

    world: World
    driver: Driver
    lease: Lease

    @classmethod
    def of(cls, ledger: SqlLedger, name: str = "payouts") -> "Commits":
        world = World(ledger)
        spike = world.spike(name, records=50_000, max_staged_batches=1_000_000)
        lease = ledger.acquire(lease_name(spike.name), "bench", 3600)
        assert lease is not None
        return cls(world, world.driver(spike), lease)

    def register(self, files: int = FILES) -> Batch:
        """One record a file, to keep offsets cheap."""
        (p, start) = next(iter(self.driver.ends.items()))
        listed = [staged_file(f"{start}/part-{i:05d}.parquet", rows=1, size=1_000_000) for i in range(files)]
        hours = (HourCounts(HOUR, files, 0, 0),)
        batch = NewBatch((OffsetRange(p, start, start + files),), tuple(listed), files, hours, "1.0")
        return self.driver.register(batch).batch

    def intend(self, batch: Batch) -> dict[int, str]:
        spike, ledger = self.driver.spike, self.world.ledger
        with ledger.begin() as tx:
            files = tx.files(batch.number)
        intents = plan_intents(spike, files)
        with ledger.begin() as tx:
            tx.require_lease(self.lease)
            tx.set_state(batch.number, BatchState.STAGED, BatchState.INTENDED)
            tx.intend(intents)
        return {file.id: f"etag-{file.id:032d}" for file in files}

    def commit(self, batch: Batch, etags: dict[int, str]) -> None:
        spike = self.driver.spike
        with self.world.ledger.begin() as tx:
            tx.require_lease(self.lease)
            tx.set_state(batch.number, BatchState.INTENDED, BatchState.COMMITTED)
            tx.advance_committed(spike.name, LIVE_LANE, batch.ranges)
            tx.commit_files(spike.dataset.name, batch.number, etags)

    def timed(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each step, sorted."""
        seen: dict[str, list[float]] = {"register": [], "intend": [], "commit": []}
        for _ in range(rounds):
            times = [time.perf_counter()]
            batch = self.register()
            times.append(time.perf_counter())
            etags = self.intend(batch)
            times.append(time.perf_counter())
            self.commit(batch, etags)
            times.append(time.perf_counter())
            for name, begin, end in zip(seen, times, times[1:], strict=False):
                seen[name].append(end - begin)
        return {name: sorted(times) for name, times in seen.items()}


def milliseconds(times: list[float]) -> str:
    p50, p99 = statistics.median(times), times[max(0, int(len(times) * 0.99) - 1)]
    return f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


def commit_bench(here: Parts) -> Iterator[Row]:
    wipe(here)
    commits = Commits.of(here.ledger)
    commits.timed(20)
    targets = {"register": "", "intend": "", "commit": "p50 ≤ 25 ms, p99 ≤ 150 ms"}
    for name, times in commits.timed(200).items():
        yield f"{name} of {FILES} files, 200 times", milliseconds(times), targets[name]


# copies


def copy_bench(here: Parts, count: int = 2_000, at_once: int = 32) -> Iterator[Row]:
    os.environ |= {"AWS_ACCESS_KEY_ID": here.s3.access_key, "AWS_SECRET_ACCESS_KEY": here.s3.secret_key}
    store = S3ObjectStore(connect(here.s3.endpoint, pool=at_once))
    info = store.put(BUCKET, "source", b"x" * 65536)
    for width in (8, 16, at_once):

        def copy(i: int, width: int = width) -> None:
            target, metadata = f"final/{width}/{i}", {"n": str(i)}
            store.copy(BUCKET, "source", target, source_etag=info.etag, size=info.size, metadata=metadata)

        with ThreadPoolExecutor(width) as pool:
            began = time.perf_counter()
            list(pool.map(copy, range(count)))
            rate = count / (time.perf_counter() - began)
        yield f"server-side copies of 64 KiB, {width} at once", f"{rate:.0f}/s", "≥ 300/s"


# from staged to committed


def latency_bench(here: Parts, spikes: int = 4, seconds: float = 60, every: float = 2.0) -> Iterator[Row]:
    """A warm run drains while four drivers stage a batch of six files every two seconds each."""
    wipe(here)
    os.environ |= {"AWS_ACCESS_KEY_ID": here.s3.access_key, "AWS_SECRET_ACCESS_KEY": here.s3.secret_key}
    store = S3ObjectStore(connect(here.s3.endpoint, pool=32))
    world = World(here.ledger)
    made = [world.spike(f"spike-{i}", records=10_000, max_staged_batches=1000) for i in range(spikes)]
    drivers = [world.driver(spike) for spike in made]
    stop = threading.Event()
    drain = Drain(
        ledger=here.ledger,
        promoter=Promoter(here.ledger, store, world.catalog, LeaseTerms("bench")),
        publisher=Publisher(here.ledger, world.catalog, store),
        spikes=world.spikes,
        clock=SystemClock(),
        terms=Terms(idle=timedelta(seconds=6), longest=timedelta(seconds=seconds + 30)),
        holder="bench",
    )
    runner = threading.Thread(target=lambda: list(drain.run()))
    runner.start()
    staging = [threading.Thread(target=stage, args=(d, store, stop, every)) for d in drivers]
    for thread in staging:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in (*staging, runner):
        thread.join()
    with here.ledger._engine.connect() as db:  # noqa: SLF001 - a bench
        query = "SELECT extract(epoch FROM committed_at - staged_at) FROM batches"
        seen = [row[0] for row in db.exec_driver_sql(query)]
    late = seen.count(None)
    times = sorted(float(t) for t in seen if t is not None)
    p99 = times[max(0, int(len(times) * 0.99) - 1)]
    yield (
        f"staged to committed, warm run, {spikes} spikes, {len(times)} batches ({late} not committed)",
        f"p50 {statistics.median(times):.2f} s, p99 {p99:.2f} s",
        "p99 ≤ 5 s",
    )


def stage(driver: Driver, store: S3ObjectStore, stop: threading.Event, every: float) -> None:
    """Real Parquet in the real store, registered as drivers do."""
    prefix = f"staging/{driver.spike.name}/{driver.token.number:08d}/"
    while not stop.wait(every):
        (p, start) = next(iter(driver.ends.items()))
        files = []
        for i in range(6):
            key = f"{start}/part-{i}.parquet"
            info = store.put(BUCKET, prefix + key, parquet(10, HOUR, p.index, start + 10 * i))
            files.append(StagedFile(key, staged_file().kind, HOUR, 10, info.size, info.etag))
        r = OffsetRange(p, start, start + 60)
        driver.register(NewBatch((r,), tuple(files), 60, (HourCounts(HOUR, 60, 0, 0),), "1.0"))


# a ledger that has seen years


def size_bench(here: Parts, most: int) -> Iterator[Row]:
    """The same commit in ledgers of more and more live files, 100 to a batch."""
    wipe(here)
    loaded = 0
    for rows in (10, 10_000, 1_000_000, 10_000_000):
        if rows > most:
            break
        began = time.perf_counter()
        load(here, loaded, rows)
        loaded = rows
        took = time.perf_counter() - began
        commits = Commits.of(here.ledger, f"fresh-{rows}")
        commits.timed(5)
        times = commits.timed(60)
        looks = sorted(timed(lambda: look(here)) for _ in range(20))
        yield (
            f"commit of {FILES} files beside {rows:,} live files",
            milliseconds(times["commit"]),
            "flat",
        )
        yield (
            f"register / intend there (loaded in {took:.0f} s)",
            (f"{milliseconds(times['register'])} / {milliseconds(times['intend'])}"),
            "",
        )
        yield "what a drain asks each half second, there", milliseconds(looks), ""


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def look(here: Parts) -> None:
    """Backlog, datasets, lease, cleanable, the newest commits: each tick of sensors and runs."""
    here.ledger.backlog()
    here.ledger.datasets()
    here.ledger.lease_state("appender")
    here.ledger.cleanable("years", 200)
    here.ledger.last_commits()
    here.ledger.last_batches("years", 10)


LOAD = """
INSERT INTO spikes (name, dataset) VALUES ('years', 'years') ON CONFLICT DO NOTHING;
INSERT INTO datasets (name, spike) VALUES ('years', 'years') ON CONFLICT DO NOTHING;
INSERT INTO epochs (spike, number, nonce, driver, state, opened_at, heartbeat_at, application_version)
  VALUES ('years', 1, 'n', 'd', 'open', now() - interval '9 years', now(), '1') ON CONFLICT DO NOTHING;
INSERT INTO batches (number, identity, spike, lane, epoch, state, records_read, records_final,
    records_dead_letter, records_filtered, application_version, staged_at, committed_at, cleaned_at)
  OVERRIDING SYSTEM VALUE
  SELECT -n, 'load-' || n, 'years', 'live', 1, 'committed', {rows} * 100, {rows} * 100, 0, 0, '1',
    now() - interval '8 years' + n * interval '1 second',
    now() - interval '8 years' + n * interval '1 second', now()
  FROM generate_series({first} / 100 + 1, {last} / 100) n;
INSERT INTO batch_ranges (batch, topic_id, partition, topic, spike, lane, start_offset, end_offset)
  SELECT -n, 'id', 0, 't', 'years', 'live', (n - 1) * {rows} * 100, n * {rows} * 100
  FROM generate_series({first} / 100 + 1, {last} / 100) n;
INSERT INTO commits (dataset, sequence, batch, committed_at)
  SELECT 'years', n, -n, now() FROM generate_series({first} / 100 + 1, {last} / 100) n;
INSERT INTO files (batch, kind, hour, rows, size, state, staging_key, staging_etag, final_key, final_etag,
    dataset, added)
  SELECT -((i - 1) / 100 + 1), 'final', timestamptz '2020-01-01' + (i / 3000) * interval '1 hour', {rows},
    1000000, 'live',
    'staging/years/00000001/a/hour=' || (i / 3000) || '/part-' || md5(i::text) || '.snappy.parquet',
    md5(i::text), 'final/years/hour=' || (i / 3000) || '/' || i || '-' || md5((-i)::text) || '.parquet',
    md5((i + 1)::text), 'years', (i - 1) / 100 + 1
  FROM generate_series(({first} / 100) * 100 + 1, ({last} / 100) * 100) i;
INSERT INTO batch_hours (batch, hour, records_final, records_dead_letter, records_filtered)
  SELECT batch, hour, sum(rows), 0, 0 FROM files WHERE added > {first} / 100 AND added <= {last} / 100
  GROUP BY batch, hour;
UPDATE datasets SET sequence = {last} / 100, published = {last} / 100, reported = {last} / 100
  WHERE name = 'years';
INSERT INTO positions (spike, lane, topic_id, partition, topic, baseline, committed_end, staged_end)
  VALUES ('years', 'live', 'id', 0, 't', 0, {last} * {rows}, {last} * {rows})
  ON CONFLICT (spike, lane, topic_id, partition) DO UPDATE
  SET committed_end = excluded.committed_end, staged_end = excluded.staged_end;
"""


def load(here: Parts, first: int, last: int, rows: int = 10) -> None:
    """File rows as a long life leaves them, each of so many records; neither limits nor the disk count."""
    with here.ledger._engine.connect() as plain:  # noqa: SLF001
        db = plain.execution_options(isolation_level="AUTOCOMMIT")
        db.exec_driver_sql("SET statement_timeout = 0; SET synchronous_commit = off")
        db.exec_driver_sql("SET maintenance_work_mem = '1GB'; SET session_replication_role = replica")
        with indexes_built_afterwards(db):
            for begin in range(first, last, 1_000_000):
                end = min(begin + 1_000_000, last)
                db.exec_driver_sql(LOAD.format(first=begin, last=end, rows=rows))
        db.exec_driver_sql("ANALYZE")
        db.exec_driver_sql("CHECKPOINT")
        db.exec_driver_sql("RESET ALL")


@contextlib.contextmanager
def indexes_built_afterwards(db: sa.Connection) -> Iterator[None]:
    """Of the files: keys are random, and sorting them once takes a tenth of the time."""
    unique = db.exec_driver_sql(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'files'::regclass AND contype = 'u'"
    ).all()
    plain = db.exec_driver_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'files' AND indexname NOT IN"
        " (SELECT conname FROM pg_constraint WHERE conrelid = 'files'::regclass)"
    ).all()
    for name, _ in unique:
        db.exec_driver_sql(f'ALTER TABLE files DROP CONSTRAINT "{name}"')
    for name, _ in plain:
        db.exec_driver_sql(f'DROP INDEX "{name}"')
    yield
    for _, definition in plain:
        db.exec_driver_sql(definition)
    for name, definition in unique:
        db.exec_driver_sql(f'ALTER TABLE files ADD CONSTRAINT "{name}" {definition}')


def audit_bench(here: Parts) -> Iterator[Row]:
    """100 million offsets in 10,000 batches of 100 files: the books, without opening a file."""
    wipe(here)
    load(here, 0, 1_000_000, rows=100)
    began = time.perf_counter()
    books = here.ledger.books()
    took = time.perf_counter() - began
    offsets = sum(c.offsets for c in books.coverage)
    wrong = sum(len(c.breaks) for c in books.coverage)
    wrong += sum(len(s.unbalanced) + len(s.late) for s in books.sums)
    yield f"audit of {offsets:,} offsets in 1,000,000 files ({wrong} breaches)", f"{took:.1f} s", "≤ 60 s"


if __name__ == "__main__":
    given = argparse.ArgumentParser()
    given.add_argument("parts", nargs="*")
    given.add_argument("--rows", type=int, default=10_000_000)
    arguments = given.parse_args()
    main(arguments.parts, arguments.rows)
