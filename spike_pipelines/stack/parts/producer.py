"""The producer of realistic events."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spike_pipelines.stack.part import Part


@dataclass(frozen=True, slots=True)
class Producer:
    """`rate` in records per second and topic; `records` per topic, or None for no end. `numbers` is the file
    by which a restart goes on with other events: the same seed would make the same keys again."""

    rate: float
    seed: int
    records: int | None
    acks: Path
    numbers: Path
    env: Mapping[str, str]
    cwd: Path

    def part(self) -> Part:
        bound = () if self.records is None else ("--records", str(self.records))
        command = (
            sys.executable, "-m", "spike_pipelines.producer", "--rate", str(self.rate),
            "--seed", str(self.seed), "--acks-file", str(self.acks),
            "--numbers-file", str(self.numbers), *bound,
        )  # fmt: skip
        return Part(
            name="producer",
            command=command,
            cwd=self.cwd,
            env=self.env,
            needs=("kafka",),
            stop_seconds=30,  # it flushes what is under way
            restarts=False,
        )
