"""`spike chaos` from start to end: a stack, a storm, a drain, and every record counted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spike_pipelines import read as reading
from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.platform import Platform
from spike_pipelines.producer.acks import read_acks
from spike_pipelines.stack.chaos.aim import Aim
from spike_pipelines.stack.chaos.balance import acknowledged, balance, judge_of, log_of, seen_of
from spike_pipelines.stack.chaos.beside import Beside
from spike_pipelines.stack.chaos.field import Field, field
from spike_pipelines.stack.chaos.kinds import schedule
from spike_pipelines.stack.chaos.reader import LOOK_SECONDS as READER_SECONDS
from spike_pipelines.stack.chaos.reader import Reader
from spike_pipelines.stack.chaos.report import Report, Thrown
from spike_pipelines.stack.chaos.sight import LOOK_SECONDS as LEDGER_SECONDS
from spike_pipelines.stack.chaos.sight import Lookout
from spike_pipelines.stack.chaos.storm import Storm
from spike_pipelines.stack.snapshot import PartState, StackSnapshot

POLL_SECONDS = 1.0
FIRST_SECONDS = 300.0
PRODUCER_SECONDS = 60.0
COLUMNS = ["kafka_partition", "kafka_offset"]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate` in records per second and topic, `pace_seconds` between two faults at least; what is left to
    commit at the end has `drain_seconds`."""

    seed: int = 1
    faults: int = 510
    spikes: int = 3
    rate: float = 100.0
    pace_seconds: float = 3.0
    drain_seconds: float = 600.0


def chaos(folder: Path, plan: Plan, tell: Tell) -> Report:
    """Runs in `folder`, which must be empty. `tell` gets a line for each step."""
    started = time.monotonic()
    with field(folder, spikes=plan.spikes, rate=plan.rate, tell=tell) as ground:
        platform = ground.platform
        report = Report(plan.seed, plan.faults, tuple(platform.spikes), plan.rate)
        _until(FIRST_SECONDS, lambda: _uncommitted_spikes(platform), "the first commits")
        with _reader(platform, report):
            _storm(ground, plan, report, tell)
            tell("no more faults: stopping the producer, and waiting until all is committed and published")
            report.stuck = report.stuck or _drained(ground, plan)
        _weigh(ground, report, tell)
    report.seconds = time.monotonic() - started
    return report


def _storm(ground: Field, plan: Plan, report: Report, tell: Tell) -> None:
    platform = ground.platform
    aim = Aim(platform.cluster, platform.spikes, ground.state_dir, ground.links)
    lookout = Lookout(platform.ledger, tuple(platform.spikes))
    storm = Storm(aim, lookout, list(schedule(plan.seed, plan.faults)), plan.pace_seconds, tell)
    beside = Beside("looking at the ledger", lookout.look, LEDGER_SECONDS)
    started = time.monotonic()
    with beside.going():
        storm.run()
    report.throws = [Thrown.of(throw) for throw in storm.throws]
    report.storm_seconds, report.breather_seconds = time.monotonic() - started, storm.breather_seconds
    report.stuck, report.stalled_seconds = storm.stuck, storm.stalled_seconds
    report.problems += beside.problems


@contextmanager
def _reader(platform: Platform, report: Report) -> Iterator[None]:
    """Reads all the while, and once more at the end."""
    reader = Reader(IcebergCatalog.connect(platform.settings), platform.ledger, platform.spikes)
    beside = Beside("reading the tables", reader.look, READER_SECONDS)
    with beside.going():
        yield
    reader.look()
    report.partial, report.snapshots, report.reader_looks = reader.partial, reader.snapshots, reader.looks
    report.problems += beside.problems


# the end of it


def _drained(ground: Field, plan: Plan) -> str | None:
    """Why not all is committed, if so."""
    ground.state_dir.stop_request("producer").touch()
    try:
        _until(PRODUCER_SECONDS, lambda: _producing(ground), "the producer's end")
        _until(plan.drain_seconds, lambda: _behind(ground.platform), "the last commits")
    except Transient as error:
        return str(error)
    return None


def _producing(ground: Field) -> Sequence[str]:
    snapshot = StackSnapshot.read(ground.state_dir.snapshot)
    parts = snapshot.parts if snapshot else ()
    return [p.name for p in parts if p.name == "producer" and p.state is not PartState.STOPPED]


def _uncommitted_spikes(platform: Platform) -> Sequence[str]:
    commits = platform.ledger.last_commits()
    return [name for name in platform.spikes if name not in commits]


def _behind(platform: Platform) -> Sequence[str]:
    """What is in Kafka and not committed, or committed and not published."""
    topics = platform.broker.topics({spike.topic for spike in platform.spikes.values()})
    positions = platform.ledger.all_positions()
    behind = []
    for name, spike in platform.spikes.items():
        ends = {p.index: position.committed_end for p, position in positions[name].items()}
        behind += [
            f"{name}:{index} at {ends.get(index, 0)} of {end}"
            for index, end in topics[spike.topic].log_end.items()
            if ends.get(index, 0) != end
        ]
    unpublished = [d.name for d in platform.ledger.datasets() if d.published != d.sequence]
    return behind + [f"{name} is not published" for name in unpublished]


def _until(seconds: float, missing: Callable[[], Sequence[str]], what: str) -> None:
    """Raises `Transient` with what is still missing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            left: Sequence[str] = missing()
        except Transient as error:
            left = [str(error)]
        if not left:
            return
        if time.monotonic() > deadline:
            raise Transient(f"{what}: not after {seconds:.0f} s: {'; '.join(left)}")
        time.sleep(POLL_SECONDS)


def _weigh(ground: Field, report: Report, tell: Tell) -> None:
    """The audits, and every record; a stream that is stuck has not lost what it has not yet read."""
    tell("auditing")
    report.findings = [*ground.platform.auditor.run(), *ground.platform.deep_auditor.run()]
    if report.stuck is None:
        tell("holding every record of Kafka, and every acknowledgement, against the Iceberg tables")
        acks = read_acks(ground.state_dir.data / "produced.txt")
        positions = ground.platform.ledger.all_positions()
        for name, spike in ground.platform.spikes.items():
            acked = acknowledged(spike.topic, acks)
            log, seen = _log(ground.platform, spike), _seen(ground.platform, spike)
            report.balances.append(balance(name, log, acked, seen, list(positions[name].values())))


def _log(platform: Platform, spike: Spike) -> pd.DataFrame:
    return log_of(platform.settings.require("kafka_bootstrap"), spike.topic, judge_of(spike))


def _seen(platform: Platform, spike: Spike) -> pd.DataFrame:
    final = reading.read(spike.dataset.name, columns=COLUMNS, settings=platform.settings)
    dead = reading.dead_letters(spike.dataset.name, columns=COLUMNS, settings=platform.settings)
    return seen_of(final, dead)
