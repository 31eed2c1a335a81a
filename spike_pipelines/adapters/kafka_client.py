"""One connection to a Kafka cluster, shared by threads, with a hard limit on every conversation."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kafka.errors import KafkaError
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from spike_pipelines.domain.errors import Transient

T = TypeVar("T")
Send = Callable[..., Awaitable[Any]]  # (request, node_id=None) -> response
MAX_IN_FLIGHT = 1_000  # kafka-python fails a request beyond it at once
MAX_RESPONSE_BYTES = 100_000_000


class KafkaClient:
    """Bootstraps when first needed, and again after a failure: brokers may be back at other addresses."""

    def __init__(
        self, bootstrap: str, *, timeout_seconds: float, conversation_seconds: float | None = None
    ) -> None:
        """`timeout_seconds` is one request's limit, and a conversation's unless that has its own."""
        self._bootstrap = bootstrap
        self._timeout_ms = int(timeout_seconds * 1000)
        self._conversation_ms = int((conversation_seconds or timeout_seconds) * 1000)
        self._lock = threading.Lock()
        self._manager: Any = None

    def run(self, talk: Callable[[Send], Awaitable[T]]) -> T:
        """Run a conversation of several requests. Raises `Transient` if it does not end well in time."""
        manager = self._connected()
        try:
            return manager.run(self._limited, manager, talk)  # type: ignore[no-any-return]
        except (KafkaError, OSError) as error:
            self._forget(manager)
            raise Transient(f"Kafka at {self._bootstrap} did not answer: {_describe(error)}") from error

    def close(self) -> None:
        self._forget(self._manager)

    async def _limited(self, manager: Any, talk: Callable[[Send], Awaitable[T]]) -> T:
        conversation = manager.call_soon(talk, manager.send)
        return await manager.wait_for(conversation, self._conversation_ms)  # type: ignore[no-any-return]

    def _connected(self) -> Any:
        if not self._lock.acquire(timeout=self._timeout_ms / 1000):
            raise Transient(f"Kafka at {self._bootstrap} cannot be reached: still trying to connect")
        try:
            if self._manager is None:
                self._manager = self._connect()
            return self._manager
        finally:
            self._lock.release()

    def _connect(self) -> Any:
        options = {
            "bootstrap_servers": self._bootstrap,
            "client_id": "spike-pipelines",
            "request_timeout_ms": self._timeout_ms,
            "reconnect_backoff_max_ms": 1_000,
            "max_in_flight_requests_per_connection": MAX_IN_FLIGHT,
            "receive_message_max_bytes": MAX_RESPONSE_BYTES,
        }
        net = NetworkSelector(**options)
        manager = KafkaConnectionManager(net, **options)
        net.start()
        try:
            manager.bootstrap(self._timeout_ms)
        except (KafkaError, OSError) as error:
            _close(manager)
            raise Transient(
                f"Kafka at {self._bootstrap} cannot be reached: {_describe(error)}: is it up, and is "
                "SPIKE_KAFKA_BOOTSTRAP its address?"
            ) from error
        return manager

    def _forget(self, manager: Any) -> None:
        with self._lock:
            if manager is None or self._manager is not manager:
                return
            self._manager = None
        _close(manager)


def _close(manager: Any) -> None:
    manager.run(manager.close)
    net = manager._net  # noqa: SLF001  # the selector we made; the manager has no other name for it
    net.stop(timeout_ms=1_000)
    net.close()


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
