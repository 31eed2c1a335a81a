"""The stack a storm is thrown at: real parts in a scratch folder, proxies in between, hasty applications."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spike_pipelines.adapters import yaml_document
from spike_pipelines.adapters.application_copy import replace_values
from spike_pipelines.adapters.applications import SUFFIX, load_applications
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings
from spike_pipelines.stack import running
from spike_pipelines.stack.assembly import PORTS, PROXIED, Assembly, Options
from spike_pipelines.stack.ports import remembered
from spike_pipelines.stack.proxy import Link, Proxy
from spike_pipelines.stack.state import StateDir

SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
# Batches come often, so that one is nearly always in flight; a driver that is frozen is soon replaced; and
# the recoveries of ten minutes ago, which were our doing, do not hold up the next.
HASTE: Mapping[yaml_document.Path, str] = {("trigger",): "5s", ("objectives", "hang"): "30s"}
RECOVERY_WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Field:
    """`platform` reaches every server directly, whatever the links do to everybody else."""

    platform: Platform
    state_dir: StateDir
    links: Mapping[str, Link]


@contextmanager
def field(folder: Path, *, spikes: int, rate: float, tell: Callable[[str], None]) -> Iterator[Field]:
    """Everything runs; at the end it is taken down, whatever happens. `folder` must be empty."""
    state_dir = StateDir.at(folder)
    applications = hasty_applications(Settings.from_env().applications_dir, folder / "applications", spikes)
    ports = remembered(state_dir.ports, (*PORTS, *(_via(name) for name in PROXIED)))
    env = dict(os.environ) | {
        "SPIKE_STATE_DIR": str(folder),
        "SPIKE_RECOVERY_WINDOW_SECONDS": str(RECOVERY_WINDOW_SECONDS),
    }
    via = ",".join(f"{name}={ports[_via(name)]}" for name in PROXIED)
    options = ("--rate", str(rate), "--applications", str(applications), "--via", via)
    with Proxy() as proxy:
        links = {name: proxy.open(name, port=ports[_via(name)], target=ports[name]) for name in PROXIED}
        tell(f"starting every part in {folder}")
        try:
            subprocess.run((*SPIKE, "up", "--detach", *options), env=env, check=True)
            os.environ.update(running.find(folder).environment)  # credentials, and what new drivers get
            yield Field(Platform(_direct(state_dir, applications)), state_dir, links)
        finally:
            for link in links.values():
                link.heal()
            try:
                tell("stopping everything")
            finally:  # also where there is no terminal any more to tell it to
                subprocess.run((*SPIKE, "down"), env=env, check=True)


def hasty_applications(source: Path, target: Path, spikes: int) -> Path:
    """The first few application files, copied with `HASTE`."""
    found = sorted(source.glob(f"*{SUFFIX}"))
    if not 1 <= spikes <= len(found):
        raise InvalidSpec(f"--spikes {spikes}: there are {len(found)} application files in {source}")
    target.mkdir()
    for path in found[:spikes]:
        (target / path.name).write_text(replace_values(path.read_text(), str(path), HASTE))
    return target


def _via(name: str) -> str:
    return f"via.{name}"


def _direct(state_dir: StateDir, applications: Path) -> Settings:
    assembly = Assembly.of(state_dir, load_applications(applications), Options(applications))
    return Settings.from_env(assembly.environment())
