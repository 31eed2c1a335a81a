"""What the manager tells everybody else: who runs, in which state. One JSON file, replaced as a whole."""

import os
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from spike_pipelines.adapters.process_identity import ProcessIdentity


class PartState(StrEnum):
    WAITING = "waiting"  # for a part it needs
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"  # it died; it is started again after a while
    STOPPED = "stopped"  # on request
    ENDED = "ended"  # it did its work


class PartSnapshot(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: PartState
    process: ProcessIdentity | None = None
    restarts: int = 0
    problem: str | None = None


class StackSnapshot(BaseModel):
    """`ready` becomes true once everything runs, and stays so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manager: ProcessIdentity
    started_at: datetime
    ready: bool
    parts: tuple[PartSnapshot, ...]

    @classmethod
    def read(cls, path: Path) -> "StackSnapshot | None":
        return cls.model_validate_json(path.read_bytes()) if path.exists() else None

    def write(self, path: Path) -> None:
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(self.model_dump_json(indent=2) + "\n")
        partial.replace(path)

    def is_running(self) -> bool:
        return self.manager.find() is not None
