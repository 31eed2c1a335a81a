"""The life of a driver: open an epoch, let the engine work, and when it fails open another one.

A failure outside (S3, Kafka, the appender) is a line in the log, a `problem` in the heartbeat and a
back-off; only a driver whose failures do not end gives up. A fenced driver never opens again (I6).
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.errors import Fenced, InvalidSpec
from spike_pipelines.domain.exits import Exit
from spike_pipelines.driver.backoff import Failures, back_off_seconds
from spike_pipelines.driver.session import Halted, Session, Stopped
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.wire import EpochGrant

log = logging.getLogger(__name__)

Register = Callable[[NewBatch], None]


class Engine(Protocol):
    """What reads, classifies and stages."""

    def run(self, grant: EpochGrant, register: Register, board: VitalsBoard) -> None:
        """Read from the grant's offsets until `board.stop` is set. Whatever fails is raised: the errors
        of `register` unchanged, and anything else as it comes."""


class Driver:
    """`clock` is monotonic, in seconds; `settled` is told after each batch that the ledger has."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        board: VitalsBoard,
        *,
        settled: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        back_off: Callable[[int], float] = back_off_seconds,
    ) -> None:
        self._session = session
        self._engine = engine
        self._board = board
        self._settled = settled
        self._clock = clock
        self._back_off = back_off
        self._failures = Failures()

    def run(self) -> Exit:
        while not self._board.stop.is_set():
            code = self._live_once()
            if code is not None:
                return code
        if self._board.fenced is not None:
            log.error("fenced, stopping for good: %s", self._board.fenced)
            return Exit.FENCED
        return Exit.STOPPED

    def _live_once(self) -> Exit | None:
        """One epoch, from opening to its end; the exit code if it is the driver's end too."""
        try:
            grant = self._session.open()
            self._engine.run(grant, partial(self._register, grant), self._board)
        except Stopped:
            return None
        except Fenced as error:
            self._board.fence(str(error))
            return None
        except Halted as error:
            log.error("stopping, a person has to decide: %s", error)  # noqa: TRY400 the message is complete
            return error.exit
        except InvalidSpec as error:
            log.error("stopping, the application is wrong: %s", error)  # noqa: TRY400 the message is complete
            return Exit.INVALID
        except Exception as error:  # noqa: BLE001 an engine may raise anything; all of it is a failed epoch
            return self._failed(error)
        return None

    def _failed(self, error: Exception) -> Exit | None:
        if self._board.stop.is_set():
            return None
        self._failures = self._failures.add(self._clock())
        text = summary(error)
        log.warning("failure %d in a row, opening a new epoch: %s", self._failures.count, text)
        log.debug("in full", exc_info=error)
        if self._failures.hopeless():
            log.error("giving up after %d failures", self._failures.count)
            return Exit.GAVE_UP
        self._board.problem(text)
        self._board.stop.wait(self._back_off(self._failures.count))
        return None

    def _register(self, grant: EpochGrant, batch: NewBatch) -> None:
        accepted = self._session.register(batch, grant)
        self._failures = Failures()
        self._settled()
        log.info(
            "batch %d %s: %s; read %d, files %d",
            accepted.number,
            accepted.state,
            " ".join(str(r) for r in batch.ranges),
            batch.read,
            len(batch.files),
        )


def summary(error: BaseException) -> str:
    """The error's own first line and the innermost cause's: what a person needs of a long trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    first = lines[0] if lines else repr(error)
    return f"{type(error).__name__}: {first}" + (f" | {causes[-1]}" if causes else "")
