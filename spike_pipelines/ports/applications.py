"""SparkApplications on Kubernetes, as their supervisor sees and changes them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NewType, Protocol

from spike_pipelines.domain.overlays import NewOverlay, Overlay
from spike_pipelines.domain.spark_application import ObservedApplication, PodSight
from spike_pipelines.ports.cluster import Cluster

Manifest = NewType("Manifest", str)  # a SparkApplication as JSON, understood by the Kubernetes adapter only


@dataclass(frozen=True, slots=True)
class Clues:
    """What a driver left behind: its last lines and the events of its pod and resource, oldest first.
    What could not be had is missing."""

    log: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class ApplicationCluster(Cluster, Protocol):
    """SparkApplications of one namespace. What changes one is conditional on the version that was seen:
    `Conflict` if it has changed since, or is gone. Nothing waits for the operator."""

    def applications(self) -> tuple[ObservedApplication, ...]:
        """Every one that carries our label, from one list. One that cannot be understood has a `problem`.
        Raises `Transient` rather than leaving any out."""

    def history(self, app: ObservedApplication, since: str) -> tuple[ObservedApplication, ...]:
        """What this resource was after that version (`as_of` of an earlier look) and before it became what it
        is, oldest first, as far as the API server remembers. Within seconds; raises `Transient`."""

    def pods(self, names: Collection[str]) -> Mapping[str, tuple[PodSight, ...]]:
        """Driver pods by resource name, oldest first, also of resources without one. Raises `Transient`."""

    def unchanged(self, app: ObservedApplication) -> None:
        """Raises `Conflict` if it is not as it was seen, asked of the store and not of a cache."""

    def kick(self, app: ObservedApplication) -> None:
        """Touch the resource, so that the operator looks at it."""

    def suspend(self, app: ObservedApplication, why: str, request: str | None) -> None:
        """The first half of a restart; `request` is the annotation that it answers."""

    def resume(self, app: ObservedApplication) -> None:
        """The second half."""

    def resubmit(self, app: ObservedApplication, why: str, request: str | None) -> None:
        """Change the spec in nothing that matters, which restarts also what the operator is done with."""

    def replaced_by(
        self,
        app: ObservedApplication,
        new: NewOverlay,
        carried: Sequence[Overlay],
        stable: Manifest | None,
    ) -> str | None:
        """What the resource, without the overlays that it carries, has in the place of the new one, as JSON;
        None: nothing. `stable` is the spec that an overlay of that kind goes back to."""

    def converge(
        self,
        app: ObservedApplication,
        holding: Sequence[Overlay],
        ending: Sequence[Overlay],
        stable: Manifest | None,
    ) -> None:
        """Make the resource carry the overlays that hold; give back what the others replaced, where nobody
        else changed it. `stable` is the spec that an overlay of that kind goes back to."""

    def recreate(self, manifest: Manifest) -> None:
        """Make a deleted resource again. One that is there meanwhile is left as it is."""

    def manifest(self, app: ObservedApplication) -> Manifest:
        """The resource as it could be made again. `Conflict` if its spec is not the one that was seen."""

    def forget_files(self, spike: str, keep: Collection[str], before: datetime | None) -> None:
        """Remove the application files of versions that nobody goes back to: those made before then (None:
        whenever), but for the versions to keep."""

    def clues(self, app: ObservedApplication, lines: int) -> Clues:
        """Never raises: a recovery does not fail for want of an explanation."""

    def tell(self, app: ObservedApplication, reason: str, sentence: str) -> None:
        """A Kubernetes Event on the resource, best effort. `reason` is CamelCase."""
