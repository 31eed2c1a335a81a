"""How fast the whole stack is on this machine: first commit, lag under load, memory, recovery.

    .venv/bin/python bench/bench_stack.py [RATE] [SECONDS]

RATE is records per second and topic (1000), SECONDS how long lag is watched (120). Prints a Markdown table.
"""

import os
import platform as machine
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings
from spike_pipelines.stack import faults, running

SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")


def main(rate: float, seconds: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="spike-bench-"))
    env = dict(os.environ) | {"SPIKE_STATE_DIR": str(folder)}
    began = time.monotonic()
    try:
        subprocess.run((*SPIKE, "up", "--detach", "--rate", str(rate)), env=env, check=True)
        ready = time.monotonic() - began
        os.environ.update(running.find(folder).environment)
        platform = Platform(Settings.from_env())
        first = until(lambda: len(platform.ledger.last_commits()) > 0) - began
        every = until(lambda: len(platform.ledger.last_commits()) == len(platform.spikes)) - began
        settled = until(lambda: worst_lag(platform) < 30) - began
        lags = watch(platform, seconds)
        memory = pss_gib(folder)
        recovery = recover(platform)
    finally:
        subprocess.run((*SPIKE, "down"), env=env, check=True)
    shutil.rmtree(folder)
    rows = {
        "stack ready": f"{ready:.0f} s",
        "first batch committed": f"{first:.0f} s",
        "every spike has committed": f"{every:.0f} s",
        "worst committed lag below 30 s": f"{settled:.0f} s",
        f"then, {seconds:.0f} s long: median of the worst lag": f"{lags[len(lags) // 2]:.0f} s",
        "and its largest": f"{lags[-1]:.0f} s",
        "memory of all processes (PSS)": f"{memory:.1f} GiB",
        "kill -9 of a driver to its next commit": f"{recovery:.0f} s",
    }
    cores = psutil.cpu_count()
    print(f"{machine.machine()}, {cores} cores, {len(platform.spikes)} spikes at {rate:.0f} records/s each\n")
    print("| what | measured |\n| --- | --- |")
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))


def until(holds: Callable[[], bool], seconds: float = 600) -> float:
    """The moment it held."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:.0f} s")
        time.sleep(0.5)
    return time.monotonic()


def worst_lag(platform: Platform) -> float:
    """Seconds; what is not known counts as for ever."""
    lags = [report.lag_seconds for report in platform.observer.lag().values()]
    return max(float("inf") if lag is None else lag for lag in lags)


def watch(platform: Platform, seconds: float) -> list[float]:
    end, seen = time.monotonic() + seconds, []
    while time.monotonic() < end:
        seen.append(worst_lag(platform))
        time.sleep(2)
    return sorted(seen)


def pss_gib(folder: Path) -> float:
    """Proportional set size: memory that processes share counts once."""
    mine = [p for p in psutil.process_iter() if belongs(p, folder)]
    return sum(p.memory_full_info().pss for p in mine) / 2**30


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("SPIKE_STATE_DIR") == str(folder) or str(folder) in " ".join(
            process.cmdline()
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def recover(platform: Platform) -> float:
    spike = next(iter(platform.spikes))
    before = platform.ledger.epochs()[spike].number
    killed = faults.kill_driver(platform, spike)
    began = time.monotonic()
    print(f"killed {killed.what}", file=sys.stderr)

    def committed() -> bool:
        batches = platform.ledger.last_batches(spike, 5)
        return any(b.epoch > before and b.committed_at for b in batches)

    return until(committed) - began


if __name__ == "__main__":
    main(*(float(argument) for argument in (sys.argv[1:] + ["1000", "120"][len(sys.argv) - 1 :])))
