"""Which offsets the broker acknowledged, in memory as runs and in a file that only grows.

A line is `topic partition start end`: offsets `[start, end)` of one partition. A file read after a crash
may lack the last second of acknowledgements and never has one too many.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO, TypeAlias

from spike_pipelines.domain.errors import InvalidSpec

Place: TypeAlias = tuple[str, int]  # topic, partition
Run: TypeAlias = tuple[int, int]  # [start, end)


def merge(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same offsets in as few runs as possible, in order."""
    merged: list[Run] = []
    for start, end in sorted(runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def read_acks(path: Path) -> Mapping[Place, tuple[Run, ...]]:
    """What a file of acknowledgements says, merged. A last line without its newline was never finished."""
    runs: dict[Place, list[Run]] = defaultdict(list)
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                break
            try:
                topic, partition, start, end = line.split()
                runs[topic, int(partition)].append((int(start), int(end)))
            except ValueError as error:
                raise InvalidSpec(f"{path}:{number}: not a line of acknowledgements: {line!r}") from error
    return {place: merge(found) for place, found in runs.items()}


class Acks:
    """Counts acknowledged records; `flush` appends what came since the last one. Thread-safe."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._fresh: dict[Place, list[int]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a")

    def add(self, topic: str, partition: int, offset: int) -> None:
        """One acknowledgement; an offset below 0 (a retry the broker had already taken) only counts."""
        with self._lock:
            self._counts[topic] += 1
            if self._file is not None and offset >= 0:
                self._fresh[topic, partition].append(offset)

    def counts(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)

    def flush(self) -> None:
        if self._file is None:
            return
        with self._lock:
            fresh, self._fresh = self._fresh, defaultdict(list)
        for (topic, partition), offsets in fresh.items():
            for start, end in merge((offset, offset + 1) for offset in offsets):
                self._file.write(f"{topic} {partition} {start} {end}\n")
        self._file.flush()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
