"""Reads hours again in a bounded Spark process of this machine (port `Rereader`)."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from spike_pipelines.adapters.backfill_files import FileRereader
from spike_pipelines.adapters.spark_worker import SparkWorker
from spike_pipelines.ports import KeepAlive
from spike_pipelines.settings import Settings

COMMAND = (sys.executable, "-m", "spike_pipelines.spark.backfill")
LOOK_SECONDS = 5.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class SparkRereader(FileRereader):
    """One Spark session for all hours of a run, with the application file as the first of them found it. See
    `SparkWorker`."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    command: Sequence[str] = COMMAND
    longest_seconds: float = LONGEST_SECONDS
    look_seconds: float = LOOK_SECONDS

    @cached_property
    def _worker(self) -> SparkWorker:
        return SparkWorker(
            "backfill", self.settings, self.environ, self.command, self.longest_seconds, self.look_seconds
        )

    def _do(self, spike: str, order: str, keep_alive: KeepAlive) -> bytes:
        return self._worker.do(spike, order, keep_alive)

    def close(self) -> None:
        self._worker.close()
