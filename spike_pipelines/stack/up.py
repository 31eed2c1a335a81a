"""`spike up` without its looks: assemble, run until told to stop."""

import os
import threading
from collections.abc import Callable

from spike_pipelines.adapters.applications import load_applications
from spike_pipelines.adapters.processes import LocalProcesses
from spike_pipelines.settings import Settings
from spike_pipelines.stack.assembly import Assembly, Options
from spike_pipelines.stack.drivers import start_missing, stop_all
from spike_pipelines.stack.manager import Manager
from spike_pipelines.stack.running import write_environment
from spike_pipelines.stack.snapshot import StackSnapshot
from spike_pipelines.stack.state import StateDir

# Drivers are ended before the first of these, which they speak to.
DRIVERS_NEED = frozenset({"appender", "kafka", "s3"})


def assemble(state_dir: StateDir, options: Options) -> Assembly:
    """Reads the application files, fetches Java and jars where they are missing, writes `spike env`. The
    folder is the caller's (`claimed`): nothing of a running stack is written over."""
    assembly = Assembly.of(state_dir, load_applications(options.applications), options)
    assembly.parts()  # what they need is fetched now, and an unknown one refused
    write_environment(state_dir, assembly.environment())
    return assembly


def run(assembly: Assembly, stop: threading.Event, on_tick: Callable[[StackSnapshot], None]) -> None:
    """Until `stop`. Dagster is ended first, so that it does not start again what is ended after it."""
    cluster = LocalProcesses(Settings.from_env(assembly.environment()), environ=_environ(assembly))
    parts = assembly.parts()

    def on_ready(name: str) -> None:
        """Before Dagster runs: its supervisor would start drivers too, and there would be two of each."""
        if name == "appender" and assembly.options.drivers:
            start_missing(cluster, assembly.spikes)

    def before_end(names: frozenset[str]) -> None:
        if names & DRIVERS_NEED:
            stop_all(cluster)

    manager = Manager(parts, assembly.state_dir, on_ready=on_ready, before_end=before_end, on_tick=on_tick)
    manager.run(stop)


def _environ(assembly: Assembly) -> dict[str, str]:
    """What drivers get: ours, except what the stack says otherwise."""
    return dict(os.environ) | assembly.environment()
