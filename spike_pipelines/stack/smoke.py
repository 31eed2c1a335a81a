"""`spike smoke`: the whole pipeline on scratch data, faults on the way, every record counted at the end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spike_pipelines.domain.errors import InvariantBroken, Transient
from spike_pipelines.platform import Platform
from spike_pipelines.producer.acks import Run, read_acks
from spike_pipelines.services.audit import Finding
from spike_pipelines.settings import Settings
from spike_pipelines.stack import faults, running

SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`records` and `rate` are for each topic; the wait for the last commit ends after `seconds`."""

    records: int = 200_000
    rate: float = 3_000.0
    seconds: float = 600.0


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

    @property
    def ok(self) -> bool:
        return not self.missing and not self.duplicated and all(f.ok for f in self.findings)

    def line(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        return (
            f"smoke {verdict}: {self.produced:,} produced = {self.rows:,} final "
            f"+ {self.dead_letters:,} dead-letter + {self.filtered:,} filtered; "
            f"{self.missing} missing, {self.duplicated} duplicated; {len(self.faults)} faults; "
            f"{sum(f.ok for f in self.findings)}/{len(self.findings)} audits ok; {self.seconds:.0f} s"
        )


def smoke(folder: Path, plan: Plan, tell: Callable[[str], None]) -> Summary:
    """Runs in `folder`, which must be empty. `tell` gets a line for each step."""
    started, summary = time.monotonic(), Summary()
    with _stack(folder, plan, tell) as platform:
        _await_commits(platform, plan, tell, fraction=0.2)
        summary.faults += _faults(platform, tell)
        _await_commits(platform, plan, tell, fraction=1.0)
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
        tell("stopping everything")
        subprocess.run((*SPIKE, "down"), env=env, check=True)


def _await_commits(platform: Platform, plan: Plan, tell: Callable[[str], None], *, fraction: float) -> None:
    """Until each topic has its records, and that share of them is committed and published."""
    deadline = time.monotonic() + plan.seconds
    told = 0.0
    while True:
        done = _progress(platform, plan)
        if min(done.values()) >= fraction and (fraction < 1 or _published(platform)):
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


def _faults(platform: Platform, tell: Callable[[str], None]) -> list[str]:
    """Kill one driver and the appender run; each is tried until there was something to kill."""
    victim = next(iter(platform.spikes))
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
            time.sleep(POLL_SECONDS)


def _compare(platform: Platform, acks: Mapping[tuple[str, int], tuple[Run, ...]], summary: Summary) -> None:
    """Hold every acknowledged (partition, offset) against what readers can see."""
    states = {d.spike: d for d in platform.ledger.datasets()}
    for name, spike in platform.spikes.items():
        state = states[name]
        places = platform.deep_auditor.places(spike, state.sequence)
        seen = set(zip(places["partition"], places["offset"], strict=True))
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
        summary.duplicated += len(places) - len(seen)
        summary.missing += abs(len(produced - seen) - filtered) + len(seen - produced)
    if not summary.produced:
        raise InvariantBroken("nothing was produced: the smoke run proves nothing")
