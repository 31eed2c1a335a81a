"""Reads hours again in a bounded Spark process of this machine (port `Rereader`)."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from spike_pipelines.adapters.backfill_files import (
    HourAnswerFile,
    HourOrderFile,
    SurveyAnswerFile,
    SurveyOrderFile,
)
from spike_pipelines.adapters.spark_worker import SparkWorker
from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.ports import BackfillOrder, KeepAlive, Surveyed, SurveyOrder
from spike_pipelines.settings import Settings

COMMAND = (sys.executable, "-m", "spike_pipelines.spark.backfill")
LOOK_SECONDS = 5.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class SparkRereader:
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

    def reread(self, order: BackfillOrder, keep_alive: KeepAlive) -> NewBatch:
        answer = self._worker.do(order.spike, HourOrderFile.of(order).model_dump_json(), keep_alive)
        return HourAnswerFile.model_validate_json(answer).new_batch()

    def survey(self, order: SurveyOrder, keep_alive: KeepAlive) -> Surveyed:
        answer = self._worker.do(order.spike, SurveyOrderFile.of(order).model_dump_json(), keep_alive)
        return SurveyAnswerFile.model_validate_json(answer).surveyed()

    def close(self) -> None:
        self._worker.close()
