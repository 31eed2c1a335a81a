"""`spike smoke`: the whole pipeline on scratch data, faults on the way, every record counted at the end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spike_pipelines.domain.errors import InvariantBroken, Transient
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.producer.acks import Run, read_acks
from spike_pipelines.services.audit import Finding
from spike_pipelines.services.drain import APPENDER_LEASE
from spike_pipelines.settings import Settings
from spike_pipelines.stack import faults, running

SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
Place = tuple[int, int]  # partition, offset
POLL_SECONDS = 1.0
AIM_SECONDS = 0.1  # a batch may wait for as short a time as that
MIDWAY = (0.1, 0.7)  # committed share of the victim's records at which faults begin


@dataclass(frozen=True, slots=True)
class Plan:
    """`records` and `rate` are for each topic; the wait for the last commit ends after `seconds`."""

    records: int = 200_000
    rate: float = 3_000.0
    seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Marks:
    """What a recovery moves: the victim's epoch, the newest lease of the appender, what the supervisor did
    for the victim since the first look."""

    epoch: int
    token: int
    recoveries: int


def unrecovered(before: Marks, after: Marks) -> list[str]:
    """The faults from which nothing is seen to have recovered: then the records prove nothing about them."""
    missing = []
    if after.epoch <= before.epoch:
        missing.append("no new epoch after the driver was killed")
    if after.recoveries <= before.recoveries:
        missing.append("the supervisor did nothing for the killed driver")
    if after.token <= before.token:
        missing.append("no new lease after the appender run was killed")
    return missing


@dataclass(slots=True)
class Summary:
    """What one smoke run did and found."""

    produced: int = 0
    rows: int = 0
    dead_letters: int = 0
    filtered: int = 0
    missing: int = 0
    duplicated: int = 0
    faults: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    expected: int = 0
    unrecovered: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing missing or double, of as many records as were asked for, with every fault recovered from
        and every audit observed."""
        counted = 0 < self.expected == self.produced and not self.missing and not self.duplicated
        recovered = bool(self.faults) and not self.unrecovered
        return counted and recovered and bool(self.findings) and all(f.ok for f in self.findings)

    def line(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        return (
            f"smoke {verdict}: {self.produced:,} produced = {self.rows:,} final "
            f"+ {self.dead_letters:,} dead-letter + {self.filtered:,} filtered; "
            f"{self.missing} missing, {self.duplicated} duplicated; {count_of(len(self.faults), 'fault')}"
            f"{''.join(f', {what}' for what in self.unrecovered)}; "
            f"{sum(f.ok for f in self.findings)}/{len(self.findings)} audits ok; {self.seconds:.0f} s"
        )


def smoke(folder: Path, plan: Plan, tell: Callable[[str], None]) -> Summary:
    """Runs in `folder`, which must be empty. `tell` gets a line for each step."""
    started, summary = time.monotonic(), Summary()
    with _stack(folder, plan, tell) as platform:
        victim, since = next(iter(platform.spikes)), platform.ledger.now()
        _await_midway(platform, plan, victim)
        before = _marks(platform, victim, since)
        summary.faults += _faults(platform, tell, victim)
        _await_commits(platform, plan, tell)
        summary.unrecovered = unrecovered(before, _marks(platform, victim, since))
        summary.expected = plan.records * len({spike.topic for spike in platform.spikes.values()})
        tell("all committed and published: auditing")
        summary.findings = [*platform.auditor.run(), *platform.deep_auditor.run()]
        _compare(platform, read_acks(folder / "data" / "produced.txt"), summary)
    summary.seconds = time.monotonic() - started
    return summary


@contextmanager
def _stack(folder: Path, plan: Plan, tell: Callable[[str], None]) -> Iterator[Platform]:
    """A stack of its own, taken down whatever happens."""
    env = dict(os.environ) | {"SPIKE_STATE_DIR": str(folder)}
    produce = ("--rate", str(plan.rate), "--records", str(plan.records))
    tell(f"starting every part in {folder}")
    try:
        subprocess.run((*SPIKE, "up", "--detach", *produce), env=env, check=True)
        os.environ.update(running.find(folder).environment)  # the AWS SDK reads its part from there
        yield Platform(Settings.from_env())
    finally:
        try:
            tell("stopping everything")
        finally:  # also where there is no terminal any more to tell it to
            subprocess.run((*SPIKE, "down"), env=env, check=True)


def _await_midway(platform: Platform, plan: Plan, victim: str) -> None:
    """Until the victim has work behind it and before it: a fault then has something to recover for."""
    deadline = time.monotonic() + plan.seconds
    while (share := _progress(platform, plan)[victim]) < MIDWAY[0]:
        if time.monotonic() > deadline:
            raise Transient(
                f"{victim} has committed {share:.0%} after {plan.seconds:.0f} s; see the logs folder"
            )
        time.sleep(POLL_SECONDS)
    if share > MIDWAY[1]:
        raise Transient(f"{victim} has {share:.0%} committed at the first look: give it more --records")


def _marks(platform: Platform, victim: str, since: datetime) -> Marks:
    ledger = platform.ledger
    token, _ = ledger.lease_state(APPENDER_LEASE)
    return Marks(ledger.epochs()[victim].number, token, len(ledger.recoveries(since).get(victim, ())))


def _await_commits(platform: Platform, plan: Plan, tell: Callable[[str], None]) -> None:
    """Until each topic has its records, and all of them are committed and published."""
    deadline = time.monotonic() + plan.seconds
    told = 0.0
    while True:
        done = _progress(platform, plan)
        if min(done.values()) >= 1 and _published(platform):
            return
        if time.monotonic() > deadline:
            raise Transient(f"not committed after {plan.seconds:.0f} s: {_shares(done)}; see the logs folder")
        if time.monotonic() - told > 10:
            tell(f"committed: {_shares(done)}")
            told = time.monotonic()
        time.sleep(POLL_SECONDS)


def _progress(platform: Platform, plan: Plan) -> Mapping[str, float]:
    """Committed share of what the smoke run produces, by spike."""
    positions = platform.ledger.all_positions()
    return {
        name: sum(p.committed_end - p.baseline for p in positions.get(name, {}).values()) / plan.records
        for name in platform.spikes
    }


def _published(platform: Platform) -> bool:
    return all(d.published == d.sequence for d in platform.ledger.datasets())


def _shares(done: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in done.items())


def _faults(platform: Platform, tell: Callable[[str], None], victim: str) -> list[str]:
    """Kill the victim's driver and the appender run; each is tried until there was something to kill."""
    kills = (lambda: faults.kill_driver(platform, victim), lambda: faults.kill_appender_run(platform))
    done = []
    for kill in kills:
        killed = _retried(kill)
        tell(f"killed {killed.what} (pid {killed.pid})")
        done.append(killed.what)
    return done


def _retried(kill: Callable[[], faults.Killed], seconds: float = 60.0) -> faults.Killed:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return kill()
        except Transient:
            if time.monotonic() > deadline:
                raise
            time.sleep(AIM_SECONDS)


def balance(produced: set[Place], seen: Sequence[Place], filtered: int) -> tuple[int, int]:
    """(missing, duplicated): records that are neither seen nor filtered, that were filtered beyond what is
    not seen, or that nobody produced; and those seen again."""
    once = set(seen)
    return abs(len(produced - once) - filtered) + len(once - produced), len(seen) - len(once)


def _compare(platform: Platform, acks: Mapping[tuple[str, int], tuple[Run, ...]], summary: Summary) -> None:
    """Hold every acknowledged (partition, offset) against what readers can see."""
    states = {d.spike: d for d in platform.ledger.datasets()}
    for name, spike in platform.spikes.items():
        state = states[name]
        places = platform.deep_auditor.places(spike, state.sequence)
        seen = list(zip(places["partition"], places["offset"], strict=True))
        produced = {
            (partition, offset)
            for (topic, partition), runs in acks.items()
            if topic == spike.topic
            for start, end in runs
            for offset in range(start, end)
        }
        batches = platform.ledger.committed_batches(state.name, state.sequence)
        filtered = sum(b.counts.filtered for b in batches)
        summary.produced += len(produced)
        summary.rows += sum(b.counts.final for b in batches)
        summary.dead_letters += sum(b.counts.dead_letter for b in batches)
        summary.filtered += filtered
        missing, duplicated = balance(produced, seen, filtered)
        summary.missing += missing
        summary.duplicated += duplicated
    if not summary.produced:
        raise InvariantBroken("nothing was produced: the smoke run proves nothing")
