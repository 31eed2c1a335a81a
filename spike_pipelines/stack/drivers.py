"""Drivers of the embedded stack: one for each application at first; after that the supervisor's matter."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Cluster, DriverState

AT_ONCE = 16


def start_missing(cluster: Cluster, spikes: Iterable[Spike]) -> None:
    """Start a driver for each spike that has none. One that survived a killed stack goes on."""
    running = {d.spike for d in cluster.drivers() if d.state is not DriverState.EXITED}
    for spike in spikes:
        if spike.name not in running:
            cluster.start(spike)


def stop_all(cluster: Cluster) -> None:
    """End every driver, all at the same time, and return when they have ended."""
    live = [d.driver for d in cluster.drivers() if d.state is not DriverState.EXITED]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for _ in pool.map(cluster.stop, live):
            pass  # an error of one comes out here
