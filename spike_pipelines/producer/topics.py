"""Topics are there before the first record goes out."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.domain.errors import Transient

log = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 1.0
CONNECT_SECONDS = 5


def ensure_topics(bootstrap: str, names: Iterable[str], partitions: int) -> None:
    """Create the topics that are missing; one that exists stays as it is. Raises `Transient`."""
    wanted = list(names)
    broker = KafkaBroker(bootstrap, timeout_seconds=CONNECT_SECONDS)
    try:
        known = broker.topics(wanted)  # also finds out whether anybody is there, at less cost
    finally:
        broker.close()
    missing = [name for name in wanted if name not in known]
    if missing:
        _create_all(bootstrap, missing, partitions)


def _create_all(bootstrap: str, names: list[str], partitions: int) -> None:
    try:
        with KafkaAdminClient(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=CONNECT_SECONDS * 1000
        ) as admin:
            for name in names:
                _create(admin, name, partitions)
            admin.wait_for_topics(names)
    except KafkaError as error:
        raise Transient(f"Kafka at {bootstrap}: topics {', '.join(names)}: {error}") from error


def _create(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions}})
        log.info("created topic %s with %d partitions", name, partitions)
    except TopicAlreadyExistsError:
        log.debug("topic %s was created by another meanwhile", name)


def until_up(attempt: Callable[[], T], stop: threading.Event, *, retry_seconds: float = RETRY_SECONDS) -> T:
    """Try until it works, saying once why it does not. Gives up with `Transient` after ten minutes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = False
    while True:
        try:
            return attempt()
        except Transient as error:
            if stop.is_set() or time.monotonic() > deadline:
                raise
            if not told:
                log.warning("%s; trying until it is up", error)
                told = True
            stop.wait(retry_seconds)
