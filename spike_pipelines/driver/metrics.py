"""What a driver tells Prometheus: its last batch as its engine saw it. Lag is the appender's page's matter.

The page says itself whose it is (label `spike`), so that an address that was another driver's before, or
will be, is never taken for this one. It is best effort: without it records move all the same.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.vitals import VitalsBoard

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a pod, Prometheus comes from outside it


class DriverCollector(Collector):
    """Reads the board when Prometheus asks. Figures of a batch are absent until an epoch's first one."""

    def __init__(self, board: VitalsBoard, spike: Spike) -> None:
        self._board = board
        self._spike = spike

    def collect(self) -> Iterator[Metric]:
        now = self._board.now
        yield self._one("trigger_seconds", "A batch begins so often", self._spike.trigger.total_seconds())
        if now.grant is not None:
            yield self._one("epoch", "The epoch that it has", now.grant.epoch)
        phase = self._family("phase", "1 for what it does now, 0 for the rest", "phase")
        for one in Phase:
            phase.add_metric([self._spike.name, one], int(one is now.phase))
        yield phase
        if (last := now.progress) is None:
            return
        yield self._one("batch_seconds", "The last batch, from trigger to commit", last.batch_seconds)
        yield self._one("batch_records", "Records in the last batch", last.records)
        yield self._one("input_records_per_second", "What came since the one before", last.input_per_second)
        yield self._one("processed_records_per_second", "In the last batch", last.processed_per_second)
        yield self._one("progress_timestamp_seconds", "When it began", last.began_at.timestamp())
        steps = self._family("batch_step_seconds", "The last batch, by the engine's own steps", "step")
        for step, seconds in sorted(last.step_seconds.items()):
            steps.add_metric([self._spike.name, step], seconds)
        yield steps

    def _family(self, name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"spike_driver_{name}", text, labels=("spike", *labels))

    def _one(self, name: str, text: str, value: float | None) -> Metric:
        family = self._family(name, text)
        if value is not None:
            family.add_metric([self._spike.name], value)
        return family


@contextmanager
def served(board: VitalsBoard, spike: Spike, port: int) -> Iterator[str | None]:
    """The page at `/metrics`, as `host:port`; None if the port is taken. Port 0: a free one, on loopback."""
    registry = CollectorRegistry()
    registry.register(DriverCollector(board, spike))
    try:
        server, thread = start_http_server(port, EVERYWHERE if port else LOOPBACK, registry)
    except OSError as error:
        log.warning("no metrics: port %d cannot be listened on: %s", port, error)
        yield None
        return
    try:
        yield f"{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def targets_file(state_dir: Path, spike: str) -> Path:
    """Where Prometheus' file discovery finds the driver of a spike on this machine."""
    return state_dir.resolve() / "prometheus" / "drivers" / f"{spike}.json"


def announce(state_dir: Path, spike: str, address: str | None) -> None:
    """The driver that has the epoch is the one to scrape. The file stays when the driver ends: a target that
    does not answer is the truth then, and the next driver writes over it."""
    if address is None:
        return
    path = targets_file(state_dir, spike)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{address.rpartition(':')[2]}.partial")
    whole.write_text(json.dumps([{"targets": [address]}]))
    whole.replace(path)
