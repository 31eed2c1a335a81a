"""A bounded Spark process: told by one JSON file, answers with another. `adapters/spark_job.py` starts it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from spike_pipelines.adapters.spark_job import INVALID
from spike_pipelines.domain.errors import InvalidSpec, SpikeError
from spike_pipelines.driver.life import summary

log = logging.getLogger("spike_pipelines.spark")

Work: TypeAlias = Callable[[Path, bytes], str]  # of the application file and the order, to the answer


def run_job(arguments: list[str], work: Work) -> int:
    """The exit status. An answer is written only where all went well; what did not is one line in the log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    if len(arguments) != 3:
        log.error("usage: APPLICATION.yaml ORDER.json ANSWER.json")
        return INVALID
    application, told, answer = map(Path, arguments)
    try:
        answer.write_text(work(application, told.read_bytes()))
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
