"""Who is hit now: a fault of the schedule and the world as it is, made into a harm that can be begun."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Cluster, DriverState
from spike_pipelines.stack.chaos.harm import Cut, Delay, Freeze, Harm, Kill, Twin
from spike_pipelines.stack.chaos.kinds import Fault, Kind
from spike_pipelines.stack.chaos.sight import InFlight, Sight
from spike_pipelines.stack.proxy import Link
from spike_pipelines.stack.snapshot import PartState, StackSnapshot
from spike_pipelines.stack.state import StateDir

# The part that a kind hits.
PARTS: Mapping[Kind, str] = {
    Kind.KILL_API: "appender",
    Kind.FREEZE_API: "appender",
    Kind.KILL_DAEMON: "dagster-daemon",
    Kind.FREEZE_DAEMON: "dagster-daemon",
    Kind.KILL_BROKER: "kafka",
    Kind.FREEZE_BROKER: "kafka",
    Kind.KILL_DATABASE: "postgres",
    Kind.FREEZE_DATABASE: "postgres",
    Kind.KILL_STORE: "s3",
    Kind.FREEZE_STORE: "s3",
}
KILLS = frozenset(kind for kind in Kind if kind.startswith("kill"))
DRIVER_KINDS = frozenset({Kind.KILL_DRIVER, Kind.FREEZE_DRIVER, Kind.TWO_DRIVERS})


@dataclass(frozen=True, slots=True)
class Aimed:
    """A harm, and the spikes it can hurt."""

    harm: Harm
    spikes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Aim:
    """Asks no server: one that is frozen would keep us from waking it."""

    cluster: Cluster
    spikes: Mapping[str, Spike]
    state_dir: StateDir
    links: Mapping[str, Link]

    def __call__(
        self, fault: Fault, sight: Sight, flights: Mapping[str, InFlight], busy: frozenset[str]
    ) -> Aimed | None:
        """None where there is nobody to hit now, or no batch of theirs in flight. Raises `Transient`."""
        if fault.kind in DRIVER_KINDS:
            return self._driver(fault, sight, candidates(flights, busy, fault.pick))
        harm = self._shared(fault, sight)
        if harm is None or harm.key in busy or not any(flights.values()):
            return None
        return Aimed(harm, frozenset(flights))

    def _shared(self, fault: Fault, sight: Sight) -> Harm | None:
        link = self.links[fault.link]  # its key is its server's: one of the two is hit at a time
        match fault.kind:
            case Kind.DELAY_LINK:
                what = f"{link.name}, {fault.delay_seconds:.1f} s"
                return Delay(link.name, what, link, fault.delay_seconds)
            case Kind.CUT_LINK:
                return Cut(link.name, link.name, link)
            case Kind.KILL_RUN | Kind.FREEZE_RUN:
                return self._run(fault, sight.run)
            case _:
                return self._part(fault)

    def _part(self, fault: Fault) -> Harm | None:
        name = PARTS[fault.kind]
        snapshot = StackSnapshot.read(self.state_dir.snapshot)
        parts = snapshot.parts if snapshot else ()
        part = next((p for p in parts if p.name == name and p.state is PartState.READY), None)
        process = part.process.find() if part and part.process else None
        return _signalled(fault.kind, name, f"{name} (pid {process.pid})", process) if process else None

    def _run(self, fault: Fault, holder: str | None) -> Harm | None:
        """The process of the Dagster run that promotes now, as it named itself in its lease."""
        process = _process(int(holder.rpartition(" ")[2])) if holder else None
        return _signalled(fault.kind, "run", f"{holder}", process) if process else None

    def _driver(self, fault: Fault, sight: Sight, spike: str | None) -> Aimed | None:
        """The driver that has the spike's open epoch, its JVM with it; or a second one beside it."""
        epoch = sight.spikes[spike].epoch if spike else None
        if spike is None or epoch is None:
            return None
        running = {d.driver: d for d in self.cluster.drivers() if d.state is DriverState.RUNNING}
        driver = running.get(epoch.driver)
        process = _process(driver.pid) if driver and driver.pid else None
        if process is None:
            return None
        return Aimed(self._of_driver(fault, self.spikes[spike], process), frozenset({spike}))

    def _of_driver(self, fault: Fault, spike: Spike, process: psutil.Process) -> Harm:
        key, what = driver_key(spike.name), f"driver of {spike.name} (pid {process.pid})"
        if fault.kind is Kind.TWO_DRIVERS:
            return Twin(key, f"a second one beside the {what}", self.cluster, spike)
        return _signalled(fault.kind, key, what, process)


def candidates(flights: Mapping[str, InFlight], busy: frozenset[str], pick: float) -> str | None:
    """The spike whose driver is hit: one that writes a batch now, else one that has a batch waiting."""
    free = sorted(name for name, flight in flights.items() if flight and driver_key(name) not in busy)
    chosen = [name for name in free if flights[name].writing_since] or free
    return chosen[int(pick * len(chosen))] if chosen else None


def driver_key(spike: str) -> str:
    return f"driver of {spike}"


def _signalled(kind: Kind, key: str, what: str, process: psutil.Process) -> Harm:
    return Kill(key, what, process) if kind in KILLS else Freeze(key, what, process)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
