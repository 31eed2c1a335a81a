"""Parses dead letters again in a bounded Spark process of this machine (port `Reparser`)."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spike_pipelines.adapters.replay_files import AnswerFile, OrderFile
from spike_pipelines.adapters.spark_job import SparkJob
from spike_pipelines.ports import KeepAlive, Reparsed, ReplayOrder
from spike_pipelines.settings import Settings

COMMAND = (sys.executable, "-m", "spike_pipelines.spark.replay")
LOOK_SECONDS = 5.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class SparkReparser:
    """See `SparkJob`."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    command: Sequence[str] = COMMAND
    longest_seconds: float = LONGEST_SECONDS
    look_seconds: float = LOOK_SECONDS

    def reparse(self, order: ReplayOrder, keep_alive: KeepAlive) -> Reparsed:
        job = SparkJob(
            "replay", self.settings, self.environ, self.command, self.longest_seconds, self.look_seconds
        )
        answer = job.run(order.spike, OrderFile.of(order).model_dump_json(), keep_alive)
        return AnswerFile.model_validate_json(answer).reparsed()
