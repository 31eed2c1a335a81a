"""`/metrics`: what the ledger knows, read when Prometheus asks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from spike_pipelines.ports import Ledger


class LedgerCollector:
    """Backlog by spike and sequence numbers by dataset."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(
            "spike_unfinished_batches", "Batches staged, not committed", labels=["spike"]
        )
        held = GaugeMetricFamily("spike_held", "1 while the oldest batch is held", labels=["spike"])
        for b in self._ledger.backlog():
            waiting.add_metric([b.spike], b.batches)
            held.add_metric([b.spike], int(b.blocked))
        committed = GaugeMetricFamily("spike_dataset_sequence", "Newest commit", labels=["dataset", "spike"])
        published = GaugeMetricFamily(
            "spike_dataset_published_sequence", "Newest commit that readers see", labels=["dataset", "spike"]
        )
        for d in self._ledger.datasets():
            committed.add_metric([d.name, d.spike], d.sequence)
            published.add_metric([d.name, d.spike], d.published)
        yield from (waiting, held, committed, published)


def page(ledger: "Ledger") -> Response:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(ledger))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
