"""What is written down of each driver process: one small JSON file a driver, replaced as a whole."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from spike_pipelines.adapters.process_identity import ProcessIdentity
from spike_pipelines.adapters.whole_file import write_whole
from spike_pipelines.domain.errors import Transient


class DriverRecord(BaseModel):
    """`keeper` waits for the driver and writes down its exit code; `process` is the driver itself. Both
    are None until they have started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spike: str
    driver: str
    started_at: datetime
    keeper: ProcessIdentity | None = None
    process: ProcessIdentity | None = None
    exit_code: int | None = None

    @classmethod
    def read(cls, path: Path) -> "DriverRecord":
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise Transient(f"{path}: the record of a driver cannot be read: {error}") from error

    def write(self, path: Path) -> None:
        write_whole(path, self.model_dump_json(indent=2) + "\n")
