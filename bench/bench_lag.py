"""What watching lag costs: `python bench/bench_lag.py`. Real Kafka and PostgreSQL, in a folder of their own.

1. A fleet of spikes of many partitions is observed, judged and written down; half of the partitions lag.
2. The metrics page of that fleet.
3. `lag_seconds` against a ground truth from the produced timestamps, under a bursty load.

Spikes share topics (`--topics`): each reads from an offset of its own, so that every lagging partition of
every spike still costs one record read. `--topics 1000` gives each its own; the broker then needs a larger
heap and `ulimit -n 100000`.
"""

import argparse
import contextlib
import os
import platform as machine
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from kafka import KafkaProducer

from spike_pipelines.adapters.applications import load_applications
from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.adapters.ledger import SqlLedger, migrate
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.appender.metrics import Page
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.services.observe import Observer
from spike_pipelines.stack import process
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.kafka import PORTS, Kafka
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.ports import remembered

RECORDS = 40  # in each partition
ROUNDS = 5
BURSTS = 40


class Cluster:
    """A driver for every spike."""

    def __init__(self, names: list[str]) -> None:
        self._all = tuple(ObservedDriver(n, n, DriverState.RUNNING, datetime.now(UTC)) for n in names)

    def drivers(self) -> tuple[ObservedDriver, ...]:
        return self._all


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--spikes", type=int, default=1000)
    arguments.add_argument("--topics", type=int, default=100)
    arguments.add_argument("--partitions", type=int, default=12)
    asked = arguments.parse_args()
    print(f"{machine.machine()}, {os.cpu_count()} cores, Python {machine.python_version()}")
    with (
        tempfile.TemporaryDirectory(prefix="bench-lag-", ignore_cleanup_errors=True) as folder,
        parts(Path(folder)) as (kafka, url),
    ):
        fleet(kafka, url, asked.spikes, asked.topics, asked.partitions)
        truth(kafka, url)


@contextlib.contextmanager
def parts(folder: Path) -> Iterator[tuple[Kafka, str]]:
    ports = remembered(folder / "ports.json", [*PORTS, "postgres"])
    postgres = Postgres(data=folder / "postgres", port=ports["postgres"], password=secrets.token_hex(8))
    kafka = Kafka(data=folder / "kafka", port=ports["kafka"], controller_port=ports["kafka.controller"])
    with running(postgres.part(), folder), running(kafka.part(), folder):
        migrate(postgres.url("ledger"))
        yield kafka, postgres.url("ledger")


@contextlib.contextmanager
def running(part: Part, folder: Path) -> Iterator[None]:
    log = folder / f"{part.name}.log"
    started = process.launch(part, log)
    try:
        process.await_ready(part, started, log)
        yield
    finally:
        process.end(part, started)


def fleet(kafka: Kafka, url: str, spikes: int, topics: int, partitions: int) -> None:
    names = [f"bench-{n}" for n in range(topics)]
    began = time.monotonic()
    kafka.create_topics(dict.fromkeys(names, partitions))
    fill(kafka, names, partitions)
    print(f"{topics} topics of {partitions} partitions made and filled in {time.monotonic() - began:.0f} s")
    described = make_spikes(spikes, names)
    ledger, surveyor = SqlLedger(url), KafkaSurveyor(kafka.bootstrap)
    lagging = positions(ledger, surveyor, described, names)
    observer = Observer(ledger, surveyor, Cluster(list(described)), described)
    took = timed(observer.watch)
    report(f"{spikes:,} spikes x {partitions} observed and judged, {lagging:,} record reads", took, 5.0)
    report("  of it without writing it down", timed(observer.lag), 5.0)
    page = Page(ledger, keep_seconds=0)
    lines = page.text().count(b"\n")
    report(f"metrics page, {lines:,} lines", timed(page.text), 1.0)
    ledger.close()
    surveyor.close()


def timed(call: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began)
    return took


def report(what: str, took: list[float], target: float) -> None:
    verdict = "ok" if max(took) <= target else "TOO SLOW"
    print(f"{what}: {statistics.median(took):.2f} s, worst {max(took):.2f} s (target {target} s) {verdict}")


def fill(kafka: Kafka, names: list[str], partitions: int) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50)
    for name in names:
        for index in range(partitions):
            for _ in range(RECORDS):
                producer.send(name, value=b"x" * 200, partition=index)
    producer.flush()
    producer.close()


def make_spikes(count: int, topics: list[str]) -> dict[str, Spike]:
    plain = load_applications(Path(__file__).parents[1] / "deployments" / "applications")[0]
    return {f"s{n}": replace(plain, name=f"s{n}", topic=topics[n % len(topics)]) for n in range(count)}


def positions(ledger: SqlLedger, surveyor: KafkaSurveyor, spikes: dict[str, Spike], names: list[str]) -> int:
    """Half of each spike's partitions lag, from an offset that no other spike of the topic has."""
    seen = surveyor.survey(names).topics
    rows = []
    for n, (name, spike) in enumerate(spikes.items()):
        for p in seen[spike.topic].offsets.partitions():
            end = seen[spike.topic].offsets.log_end[p.index]
            at = end if p.index % 2 else n // len(names) % end
            rows.append(
                {"spike": name, "lane": "live", "topic": p.topic, "topic_id": p.topic_id,
                 "partition": p.index, "baseline": 0, "staged_end": at, "committed_end": at}
            )  # fmt: skip
    with ledger._engine.begin() as db:  # noqa: SLF001
        db.execute(sa.insert(s.spikes), [{"name": name, "dataset": name} for name in spikes])
        db.execute(sa.insert(s.positions), rows)
    return sum(1 for row in rows if row["partition"] % 2 == 0)


def truth(kafka: Kafka, url: str) -> None:
    """Bursts into one partition, commits that follow at random: what is said against what was sent."""
    dice = random.Random(1)
    kafka.create_topics({"truth": 1})
    spike = next(iter(make_spikes(1, ["truth"]).values()))
    ledger, surveyor = SqlLedger(url), KafkaSurveyor(kafka.bootstrap)
    (partition,) = surveyor.survey(["truth"]).topics["truth"].offsets.partitions()
    spike = replace(spike, name="truth")
    with ledger.begin() as tx:
        tx.lock_spike("truth", "truth")
        tx.add_positions("truth", "live", {partition: 0})
    observer = Observer(ledger, surveyor, Cluster(["truth"]), {"truth": spike})
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=20)
    sent: list[float] = []
    errors, committed = [], 0
    for _ in range(BURSTS):
        for _ in range(dice.randrange(1, 2_000)):
            now = time.time()
            sent.append(now)
            producer.send("truth", value=b"x" * 100, partition=0, timestamp_ms=int(now * 1000))
        producer.flush()
        committed = dice.randrange(committed, len(sent) + 1)
        with ledger._engine.begin() as db:  # noqa: SLF001
            ends = {"committed_end": committed, "staged_end": committed}
            db.execute(sa.update(s.positions).where(s.positions.c.spike == "truth").values(**ends))
        time.sleep(dice.random() / 5)
        seen = observer.lag()["truth"]
        assert seen.at is not None
        assert seen.lag_seconds is not None
        expected = seen.at.timestamp() - sent[committed] if committed < len(sent) else 0.0
        errors.append(abs(seen.lag_seconds - expected))
    worst = max(errors)
    verdict = "ok" if worst <= 1.0 else "WRONG"
    print(f"lag seconds against the truth, {BURSTS} bursts: worst {worst * 1000:.0f} ms off {verdict}")
    producer.close()


if __name__ == "__main__":
    main()
