"""One connection to a Kafka cluster, shared by threads, with a hard limit on every conversation.

A broker that hangs accepts connections and never answers. It may cost one request's limit, never the
conversation: what any broker can answer is asked of another one, and so is the way into the cluster.
"""

import random
import threading
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any, TypeVar

from kafka.errors import KafkaError, NodeNotReadyError
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from spike_pipelines.domain.errors import Transient

T = TypeVar("T")
Send = Callable[..., Awaitable[Any]]  # (request, node_id=None) -> response
MAX_IN_FLIGHT = 1_000  # kafka-python fails a request beyond it at once
MAX_RESPONSE_BYTES = 100_000_000
_AT_FIRST = 0.25  # of the limit, for each address
MOST_ASKED = 3  # brokers that are asked the same, one after another


class KafkaClient:
    """Bootstraps when first needed, and again after a failure: brokers may be back at other addresses."""

    def __init__(
        self, bootstrap: str, *, timeout_seconds: float, conversation_seconds: float | None = None
    ) -> None:
        """`timeout_seconds` is one request's limit, and a conversation's unless that has its own; each
        address of `bootstrap` is tried for as long while there is no way in."""
        self._bootstrap = bootstrap
        self._timeout_ms = int(timeout_seconds * 1000)
        self._conversation_ms = int((conversation_seconds or timeout_seconds) * 1000)
        self._lock = threading.Lock()
        self._manager: Any = None
        self._answered: int | None = None  # the node that did so last, when any could

    def run(self, talk: Callable[[Send], Awaitable[T]], *, elsewhere: bool = False) -> T:
        """Run a conversation of several requests. `elsewhere`: what any broker can answer is asked of the one
        that answered last only if no other does. Raises `Transient` if it does not end well in time."""
        manager = self._connected()
        shunned = self._answered if elsewhere else None
        try:
            return manager.run(self._limited, manager, talk, shunned)  # type: ignore[no-any-return]
        except (KafkaError, OSError) as error:
            self._forget(manager)
            raise Transient(f"Kafka at {self._bootstrap} did not answer: {_describe(error)}") from error

    def close(self) -> None:
        self._forget(self._manager)

    async def _limited(self, manager: Any, talk: Callable[[Send], Awaitable[T]], shunned: int | None) -> T:
        def send(request: Any, node_id: int | None = None) -> Awaitable[Any]:
            """Under way at once for a node that is named."""
            if node_id is None:
                return self._ask_anyone(manager, request, shunned)
            return manager.send(request, node_id=node_id)  # type: ignore[no-any-return]

        conversation = manager.call_soon(talk, send)
        return await manager.wait_for(conversation, self._conversation_ms)  # type: ignore[no-any-return]

    async def _ask_anyone(self, manager: Any, request: Any, shunned: int | None) -> Any:
        """Of the node that answered last, then of others; of the shunned one last of all."""
        problem: KafkaError = NodeNotReadyError("no broker is known")
        nodes = [broker.node_id for broker in manager.cluster.brokers()]
        random.shuffle(nodes)
        order = sorted(nodes, key=lambda node: (node == shunned, node != self._answered))
        for node in order[:MOST_ASKED]:
            try:
                answer = await manager.send(request, node_id=node)
            except KafkaError as error:
                problem = error
            else:
                self._answered = node
                return answer
        raise problem

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
        """By any address of the list: each for a moment at first, so that one that hangs costs no more."""
        addresses = self._bootstrap.split(",")
        random.shuffle(addresses)
        shares = (_AT_FIRST, 1.0) if len(addresses) > 1 else (1.0,)
        problem: Exception | None = None
        for share, address in product(shares, addresses):
            try:
                return self._connect_by(address, int(self._timeout_ms * share))
            except (KafkaError, OSError) as error:
                problem = error
        assert problem is not None
        raise Transient(
            f"Kafka at {self._bootstrap} cannot be reached: {_describe(problem)}: is it up, and is "
            "SPIKE_KAFKA_BOOTSTRAP its address?"
        ) from problem

    def _connect_by(self, address: str, timeout_ms: int) -> Any:
        options = {
            "bootstrap_servers": address,
            "client_id": "spike-pipelines",
            "request_timeout_ms": self._timeout_ms,
            "socket_connection_setup_timeout_ms": self._timeout_ms,
            "socket_connection_setup_timeout_max_ms": self._timeout_ms,
            "reconnect_backoff_max_ms": 1_000,
            "max_in_flight_requests_per_connection": MAX_IN_FLIGHT,
            "receive_message_max_bytes": MAX_RESPONSE_BYTES,
        }
        net = NetworkSelector(**options)
        manager = KafkaConnectionManager(net, **options)
        net.start()
        try:
            manager.bootstrap(timeout_ms)
        except (KafkaError, OSError):
            _close(manager)
            raise
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
