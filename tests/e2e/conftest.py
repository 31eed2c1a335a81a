"""A whole stack for the session: every part real, two spikes that hang early, a slow producer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from waiting import until

from spike_pipelines.domain.spike import Spike
from spike_pipelines.platform import Platform
from spike_pipelines.ports import DriverState
from spike_pipelines.settings import Settings
from spike_pipelines.stack import running

ROOT = Path(__file__).parents[2]
NAMES = ("crt-payout-v1-1.0", "crt-session-v1-1.0")
SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Stack:
    """A running stack and what tests ask of it. `await_` polls, bounded; nothing sleeps blindly."""

    folder: Path
    applications: Path

    def run(self, *arguments: str) -> str:
        env = dict(os.environ) | {"SPIKE_STATE_DIR": str(self.folder)}
        done = subprocess.run((*SPIKE, *arguments), env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"spike {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> None:
        self.run("up", "--detach", "--rate", "100", "--applications", str(self.applications))
        os.environ.update(running.find(self.folder).environment)

    @property
    def platform(self) -> Platform:
        return Platform(Settings.from_env())

    def verdict(self, spike: str) -> tuple[str, str]:
        """What `spike status` says: the word and the sentence."""
        rows = json.loads(self.run("status", "-o", "json"))["spikes"]
        row = next(row for row in rows if row["spike"] == spike)
        return row["verdict"], row["problem"] or ""

    def committed(self, spike: str) -> int:
        positions = self.platform.ledger.all_positions().get(spike, {})
        return sum(p.committed_end for p in positions.values())

    def epoch(self, spike: str) -> int:
        epoch = self.platform.ledger.epochs().get(spike)
        return epoch.number if epoch else 0

    def driver(self, spike: str) -> psutil.Process:
        """The process that has the spike's open epoch."""
        owner = self.platform.ledger.epochs()[spike].driver
        pids = {d.driver: d.pid for d in self.drivers(spike)}
        return psutil.Process(pids[owner])

    def drivers(self, spike: str) -> list:
        known = self.platform.cluster.drivers()
        return [d for d in known if d.spike == spike and d.state is DriverState.RUNNING]

    def await_(self, what: str, holds: Callable[[], bool], seconds: float = 240) -> None:
        until(holds, seconds, what, every=POLL_SECONDS)

    def await_commit(self, spike: str) -> None:
        before = self.committed(spike)
        self.await_(f"{spike} commits beyond {before}", lambda: self.committed(spike) > before)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`chaos/`, with a stack of its own, comes before, and so do all other folders (`tests/conftest.py`)."""
    folder = tmp_path_factory.mktemp("stack")
    applications = tmp_path_factory.mktemp("applications")
    for name in NAMES:
        text = (ROOT / "deployments" / "applications" / f"{name}.yaml").read_text()
        assert "hang: 60s" in text
        (applications / f"{name}.yaml").write_text(text.replace("hang: 60s", "hang: 30s"))
    stack = Stack(folder, applications)
    kept = dict(os.environ)
    try:
        stack.up()
        yield stack
    finally:
        stack.run("down")
        os.environ.clear()
        os.environ.update(kept)


@pytest.fixture(params=NAMES[:1])
def spike(request: pytest.FixtureRequest, stack: Stack) -> str:
    """A spike that is committing: each test begins with one that is well."""
    stack.await_commit(request.param)
    return request.param


@pytest.fixture
def spec(stack: Stack, spike: str) -> Spike:
    return stack.platform.spikes[spike]
