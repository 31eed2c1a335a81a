"""`python -m spike_pipelines.spark APPLICATION.yaml`: one driver of one spike, until it is stopped."""

import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from types import FrameType

from pyspark.sql import SparkSession

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.client import AppenderClient
from spike_pipelines.driver.heartbeat import HeartbeatThread
from spike_pipelines.driver.life import Driver
from spike_pipelines.driver.metrics import announce, served
from spike_pipelines.driver.priority import give_way
from spike_pipelines.driver.session import Session
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.spark.batch import Plan
from spike_pipelines.spark.engine import SparkEngine
from spike_pipelines.spark.environment import Environment
from spike_pipelines.spark.session import start_spark, tasks_of

log = logging.getLogger("spike_pipelines.spark")

STOP_SECONDS = 45.0  # from being told to stop to ending without ceremony


def main(arguments: list[str]) -> Exit:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # its traces are of errors that are told in one line
    if len(arguments) != 1:
        log.error("usage: python -m spike_pipelines.spark APPLICATION.yaml")
        return Exit.INVALID
    try:
        spike, env = load_application(Path(arguments[0])), Environment.from_env()
        plan = Plan.of(spike, tasks=tasks_of(spike))
    except InvalidSpec as error:
        log.error("%s", error)  # noqa: TRY400 the message is complete
        return Exit.INVALID
    return drive(spike, env, plan)


def drive(spike: Spike, env: Environment, plan: Plan) -> Exit:
    board = VitalsBoard()
    _stop_on_signals(board)
    client = AppenderClient(env.appender_url, spike.name, env.bearer, driver=env.driver_id)
    session = Session(client, board, driver=env.driver_id, version=spike.version)
    store = S3ObjectStore(connect(env.s3_endpoint))
    with served(board, spike, env.metrics_port) as page, HeartbeatThread(client, board):
        engine = SparkEngine(partial(begin, spike, env, page), spike, env, store, plan)
        code = Driver(session, engine, board, settled=give_way).run()
        board.phase(Phase.STOPPING)
    log.info("driver %s ends: %s", env.driver_id, code.name)
    if (spark := SparkSession.getActiveSession()) is not None:
        spark.stop()
    return code


def begin(spike: Spike, env: Environment, page: str | None) -> SparkSession:
    """Asked for when an epoch is open: from now on this driver is the one to scrape."""
    announce(env.state_dir, spike.name, page)
    return start_spark(spike, env)


def _stop_on_signals(board: VitalsBoard) -> None:
    def stop(signum: int, _: FrameType | None) -> None:
        log.info("%s: stopping", signal.Signals(signum).name)
        board.stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    threading.Thread(target=_end_without_ceremony, args=(board,), daemon=True, name="last-resort").start()


def _end_without_ceremony(board: VitalsBoard) -> None:
    """A driver that is fenced or told to stop ends, also when Spark does not answer any more."""
    board.stop.wait()
    threading.Event().wait(STOP_SECONDS)
    log.error("still here %.0f s after being told to stop: ending at once", STOP_SECONDS)
    os._exit(Exit.GAVE_UP if board.fenced is None else Exit.FENCED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
