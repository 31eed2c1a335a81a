"""`/metrics`: what the ledger knows, read when Prometheus asks."""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from spike_pipelines.appender.lag_metrics import LagCollector

if TYPE_CHECKING:
    from spike_pipelines.adapters.ledger import SqlLedger
    from spike_pipelines.ports import Ledger


class LedgerCollector:
    """Backlog by spike, with the age of what waits longest, and sequence numbers by dataset."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(
            "spike_unfinished_batches", "Batches staged, not committed", labels=["spike"]
        )
        held = GaugeMetricFamily("spike_held", "1 while the oldest batch is held", labels=["spike"])
        oldest = GaugeMetricFamily(
            "spike_oldest_batch_age_seconds",
            "Since the oldest batch that is not committed was staged; absent while none waits",
            labels=["spike"],
        )
        now = self._ledger.now()
        for b in self._ledger.backlog():
            oldest.add_metric([b.spike], max(0.0, (now - b.oldest_staged_at).total_seconds()))
            waiting.add_metric([b.spike], b.batches)
            held.add_metric([b.spike], int(b.blocked))
        committed = GaugeMetricFamily("spike_dataset_sequence", "Newest commit", labels=["dataset", "spike"])
        published = GaugeMetricFamily(
            "spike_dataset_published_sequence", "Newest commit that readers see", labels=["dataset", "spike"]
        )
        unseen = GaugeMetricFamily(
            "spike_dataset_unpublished_seconds",
            "Since the oldest commit that readers do not see; 0 if they see all",
            labels=["dataset", "spike"],
        )
        for d in self._ledger.datasets():
            committed.add_metric([d.name, d.spike], d.sequence)
            published.add_metric([d.name, d.spike], d.published)
            waits = (now - d.unpublished_since).total_seconds() if d.unpublished_since else 0.0
            unseen.add_metric([d.name, d.spike], waits)
        yield from (waiting, oldest, held, committed, published, unseen)


class Page:
    """The page, made at most every `keep_seconds`: several Prometheus servers cost the ledger no more."""

    def __init__(self, ledger: "SqlLedger", keep_seconds: float = 5.0) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(LedgerCollector(ledger))
        self._registry.register(LagCollector(ledger))
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._made_at = float("-inf")
        self._text = b""

    def text(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._made_at >= self._keep_seconds:
                self._text = generate_latest(self._registry)
                self._made_at = time.monotonic()
            return self._text

    def response(self) -> Response:
        return Response(self.text(), media_type=CONTENT_TYPE_LATEST)
