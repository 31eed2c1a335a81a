"""A bounded Spark process, as `adapters/spark_job.py` starts it: what it is told, logs, and ends with."""

import logging
from collections.abc import Callable
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from spike_pipelines.adapters.spark_job import INVALID
from spike_pipelines.domain.errors import InvalidSpec, SpikeError
from spike_pipelines.driver.life import summary

log = logging.getLogger("spike_pipelines.spark")


def run_job(usage: str, arguments: list[str], work: Callable[..., None]) -> int:
    """Call `work` with as many paths as `usage` has words; the exit status. A failure is one logged line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    if len(arguments) != len(usage.split()):
        log.error("usage: %s", usage)
        return INVALID
    try:
        work(*map(Path, arguments))
    except InvalidSpec as error:
        log.error("%s", error)  # noqa: TRY400 the message is complete
        return INVALID
    except (Py4JError, PySparkException) as error:
        log.error("%s", summary(error))  # noqa: TRY400 its trace is the JVM's
        return 1
    except SpikeError as error:
        log.error("%s", error)  # noqa: TRY400 the message is complete
        return 1
    return 0
