"""Structured Streaming's own progress report, as a value that knows no Spark."""

import math
from datetime import datetime

from pyspark.sql.streaming.listener import StreamingQueryProgress

from spike_pipelines.driver.vitals import Progress

WHOLE = "triggerExecution"  # the step that contains the others


def measured(progress: StreamingQueryProgress) -> Progress:
    """Spark counts in milliseconds; a rate that it cannot know yet is NaN, which is left out."""
    steps = {step: milliseconds / 1000 for step, milliseconds in progress.durationMs.items()}
    return Progress(
        began_at=datetime.fromisoformat(progress.timestamp),
        batch_seconds=steps.pop(WHOLE, 0.0),
        step_seconds=steps,
        records=progress.numInputRows,
        input_per_second=_known(progress.inputRowsPerSecond),
        processed_per_second=_known(progress.processedRowsPerSecond),
    )


def _known(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None
