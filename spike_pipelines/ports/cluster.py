"""Where drivers run."""

from typing import Protocol

from spike_pipelines.domain.observed import ObservedDriver
from spike_pipelines.domain.spike import Spike


class Cluster(Protocol):
    """Where drivers run: local processes or Kubernetes."""

    def drivers(self) -> tuple[ObservedDriver, ...]:
        """Every driver that this cluster knows, the newest of a spike last. One that cannot be looked at is
        in state `UNKNOWN`, so that the others are served (I11). Raises `Transient` rather than leaving any
        out."""

    def start(self, spike: Spike) -> ObservedDriver:
        """Start one driver more for the spike. It is not this call's business whether another one runs."""

    def obstacle(self, spike: Spike) -> str | None:
        """Why `start` would fail until a person has done something, as a sentence; None: nothing is known."""

    def stop(self, driver: str) -> None:
        """End this driver for good: ask, wait a short grace time, kill. Ended already: nothing happens."""

    def log_tail(self, driver: str, lines: int) -> tuple[str, ...]:
        """The last lines the driver wrote; empty where there is no log."""
