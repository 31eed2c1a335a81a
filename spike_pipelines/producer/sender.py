"""Records to Kafka, idempotently, with every acknowledgement counted."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.net.compat import KafkaNetClient
from kafka.partitioner.abc import Partitioner
from kafka.partitioner.default import murmur2

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.producer.acks import Acks
from spike_pipelines.producer.sources import Outgoing

log = logging.getLogger(__name__)
MAX_WAITING = 50_000  # records kept while the broker does not answer: some 50 MB
PAUSE_MS = 50  # between two looks while nothing is on its way to a broker
PATIENCE = timedelta(days=1)  # how long a record waits for its broker
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PatientClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python 3.0 spins for as long as a broker is down: it gives a delay in seconds and waits as many
    milliseconds, gives none while a connection is being tried, and wakes itself to ask for a lost leader."""

    _woken = False  # by a thread that has records to send

    def connection_delay(self, node_id: Any) -> float:
        return max(float(super().connection_delay(node_id)) * 1000, PAUSE_MS)

    def wakeup(self) -> None:
        self._woken = True
        super().wakeup()

    def poll(self, timeout_ms: float | None = None, future: Any = None) -> None:
        until = time.monotonic() + PAUSE_MS / 1000
        super().poll(timeout_ms=timeout_ms, future=future)
        while future is None and not self._woken and not self.in_flight_request_count():
            rest_ms = (until - time.monotonic()) * 1000
            if rest_ms <= 0:
                break
            super().poll(timeout_ms=rest_ms)
        self._woken = False


class CachedPartitioner(Partitioner):  # type: ignore[misc]  # kafka-python has no types
    """Java's default for keys, remembered: hashing in Python costs as much as the rest of a send."""

    def __init__(self) -> None:
        self._hash = lru_cache(maxsize=50_000)(lambda key: murmur2(key) & 0x7FFFFFFF)
        self._turn = 0

    def partition(self, topic: str, _key: Any, serialized_key: bytes | None, *rest: Any) -> int:
        partitions = len(rest[-1].partitions_for_topic(topic))
        if serialized_key is not None:
            return int(self._hash(serialized_key)) % partitions
        self._turn += 1
        return self._turn % partitions


class Sender:
    """`waiting` records are with the producer and not acknowledged; `failed` ones never will be."""

    def __init__(self, bootstrap: str, acks: Acks) -> None:
        self._acks = acks
        self._lock = threading.Lock()
        self._sent = 0
        self._done = 0
        self._failures: dict[str, int] = {}
        try:
            self._producer = KafkaProducer(
                bootstrap_servers=bootstrap,
                client_id="spike-producer",
                acks="all",
                enable_idempotence=True,
                partitioner=CachedPartitioner(),
                compression_type="gzip",  # its checksum is in Python: fewer bytes are less work
                linger_ms=200,
                batch_size=128 * 1024,
                delivery_timeout_ms=int(PATIENCE.total_seconds() * 1000),
                allow_auto_create_topics=False,
                max_block_ms=5_000,
                reconnect_backoff_max_ms=1_000,
                bootstrap_timeout_ms=5_000,
                metrics_enabled=False,
                kafka_client=PatientClient,
            )
        except KafkaError as error:
            raise Transient(f"Kafka at {bootstrap} cannot be reached: {error}") from error

    @property
    def waiting(self) -> int:
        return self._sent - self._done

    @property
    def full(self) -> bool:
        return self.waiting >= MAX_WAITING

    def failures(self) -> dict[str, int]:
        """By reason, how many records the broker refused for good."""
        with self._lock:
            return dict(self._failures)

    def send(self, topic: str, record: Outgoing) -> None:
        """Hand a record over; it is not acknowledged yet. Raises `Transient` if the topic cannot be found."""
        timestamp = (record.timestamp - EPOCH) // timedelta(milliseconds=1)
        try:
            future = self._producer.send(topic, key=record.key, value=record.value, timestamp_ms=timestamp)
        except MessageSizeTooLargeError as error:
            raise InvalidSpec(
                f"topic {topic}: a record of {len(record.value or b'')} bytes: {error}"
            ) from error
        except KafkaTimeoutError as error:
            raise Transient(f"topic {topic}: {error}") from error
        self._sent += 1
        future.add_callback(self._acknowledged)
        future.add_errback(self._refused)

    def flush(self, timeout_seconds: float) -> None:
        """Wait for acknowledgements. Raises `Transient` if some are still missing after the timeout."""
        try:
            self._producer.flush(timeout=timeout_seconds)
        except KafkaTimeoutError as error:
            raise Transient(f"{self.waiting} records are not acknowledged") from error

    def close(self) -> None:
        """Without waiting: what is not acknowledged now does not count."""
        try:
            self._producer.close(timeout=0)
        except KafkaTimeoutError:
            log.debug("%d records are given up", self.waiting)
        self._acks.close()

    def _acknowledged(self, metadata: Any) -> None:
        self._acks.add(metadata.topic, metadata.partition, metadata.offset)
        with self._lock:
            self._done += 1

    def _refused(self, error: BaseException) -> None:
        with self._lock:
            self._done += 1
            reason = str(error) or type(error).__name__
            self._failures[reason] = self._failures.get(reason, 0) + 1
