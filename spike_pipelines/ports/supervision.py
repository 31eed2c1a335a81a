"""What the supervisor of a fleet on Kubernetes writes down."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import NewOverlay, Overlay
from spike_pipelines.domain.sightings import Sighting
from spike_pipelines.ports.applications import Manifest
from spike_pipelines.ports.ledger import Ledger
from spike_pipelines.ports.transaction import LedgerTransaction


@dataclass(frozen=True, slots=True)
class Specs:
    """A spike's specs, by the names they have as they are deployed: those that could be made again, each with
    the digest of what it was when it was first seen, and the last that was seen to work."""

    known: Mapping[str, str] = field(default_factory=dict)
    stable: str | None = None


class SupervisionTransaction(LedgerTransaction, Protocol):
    def add_overlay(self, new: NewOverlay, before: str | None) -> Overlay: ...


class SupervisionLedger(Ledger, Protocol):
    """What the supervisor of a fleet on Kubernetes keeps: all of it may be lost without losing a record."""

    def begin(self) -> AbstractContextManager[SupervisionTransaction]: ...

    def mark_not_done(self, recovery: Recovery) -> None:
        """What was noted came to nothing: somebody else changed the resource first."""

    def sightings(self) -> Mapping[str, Sighting]: ...

    def note_sightings(self, sightings: Iterable[Sighting]) -> None: ...

    def last_look(self) -> str | None:
        """The version of the cluster that the sightings are of."""

    def note_look(self, as_of: str, at: datetime, sightings: Iterable[Sighting]) -> None:
        """What a look at this time saw, and of which version of the cluster, together. Of a look that was
        before the one that is remembered nothing is written, nor over what was noted of a spike since."""

    def open_overlays(self) -> Mapping[str, tuple[Overlay, ...]]:
        """By spike, those that have not ended, expired ones included; oldest first."""

    def end_overlays(self, ids: Iterable[int]) -> None: ...

    def specs(self) -> Mapping[str, Specs]: ...

    def note_spec(self, spike: str, spec: str, live: str, manifest: Manifest) -> None:
        """Write a deployed spec down; once it is, nothing changes it."""

    def mark_stable(self, spike: str, spec: str) -> None:
        """This spec was seen to work. A spec that was not written down is not marked."""

    def manifest(self, spike: str, spec: str | None = None) -> Manifest | None:
        """Of this spec, or of the newest."""
