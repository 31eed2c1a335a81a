"""Which event comes next in each topic, in a file: no number is given out twice, whatever is killed."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from spike_pipelines.domain.errors import InvalidSpec

BLOCK = 10_000  # numbers taken at once; those of the last block that were not used stay unused
_NEXT = TypeAdapter(dict[str, int])


@dataclass(frozen=True, slots=True)
class Numbers:
    """For one process at a time. Errors: `InvalidSpec` for a file that is something else."""

    path: Path
    block: int = BLOCK

    def of(self, topic: str, first: int) -> Iterator[int]:
        """From `first`, or from behind what was taken before, without end. A block is noted in the file
        before any of it is given out."""
        number = max(first, self._read().get(topic, 0))
        while True:
            self._write(self._read() | {topic: number + self.block})
            yield from range(number, number + self.block)
            number += self.block

    def _read(self) -> dict[str, int]:
        try:
            return _NEXT.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise InvalidSpec(f"{self.path} has no numbers of events: delete it to begin anew") from error

    def _write(self, numbers: dict[str, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w") as file:
            json.dump(numbers, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
