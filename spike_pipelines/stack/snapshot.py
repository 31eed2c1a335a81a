"""What the manager tells everybody else: who runs, in which state. One JSON file, replaced as a whole."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.adapters.whole_file import write_whole
from spike_pipelines.stack.errors import UnreadableSnapshot


class PartState(StrEnum):
    WAITING = "waiting"  # for a part it needs
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"  # it died; it is started again after a while
    STOPPED = "stopped"  # on request
    ENDED = "ended"  # it did its work


class PartSnapshot(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # of a newer version, perhaps

    name: str
    state: PartState
    process: ProcessIdentity | None = None
    restarts: int = 0
    problem: str | None = None


class StackSnapshot(BaseModel):
    """`ready` becomes true once everything runs, and stays so. There are no `parts` while it is found out
    which there are to be."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    manager: ProcessIdentity
    started_at: datetime
    ready: bool
    parts: tuple[PartSnapshot, ...]

    @classmethod
    def read(cls, path: Path) -> "StackSnapshot | None":
        """None where there is no file. Raises `UnreadableSnapshot`."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UnreadableSnapshot(
                f"{path} is not what `spike up` writes ({error.errors()[0]['msg']}): "
                "`spike down` ends what runs there and takes the file away"
            ) from error

    def write(self, path: Path) -> None:
        write_whole(path, self.model_dump_json(indent=2) + "\n")

    def is_running(self) -> bool:
        return self.manager.find() is not None
