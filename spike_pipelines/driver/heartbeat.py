"""The thread that tells the appender what the driver does: a waiting driver is told from a hung one."""

import logging
import threading
from types import TracebackType
from typing import Self

from spike_pipelines.driver.client import AppenderClient
from spike_pipelines.driver.decisions import Refusal
from spike_pipelines.driver.vitals import Vitals, VitalsBoard
from spike_pipelines.wire import EpochGrant
from spike_pipelines.wire import Heartbeat as Beat

log = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.05
WITHOUT_EPOCH_SECONDS = 1.0


class HeartbeatThread:
    """Beats from entering to leaving the block; one last beat (`stopping`) when it is left.

    `fenced` in an answer stops the driver for good; any other refusal is left to the requests that matter.
    """

    def __init__(self, client: AppenderClient, board: VitalsBoard) -> None:
        self._client = client
        self._board = board
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._beat(self._board.now)

    def _run(self) -> None:
        while not self._done.wait(self._beat(self._board.now)):
            pass

    def _beat(self, vitals: Vitals) -> float:
        """Send one; the seconds until the next."""
        grant = vitals.grant
        if grant is None:
            return WITHOUT_EPOCH_SECONDS
        answer = self._client.heartbeat(_message(vitals, grant))
        if isinstance(answer, Refusal):
            log.warning("heartbeat refused: %s: %s", answer.code, answer.message)
            if answer.code == "fenced":
                self._board.fence(answer.message, epoch=grant.epoch)
        return max(SHORTEST_SECONDS, grant.heartbeat_seconds)


def _message(vitals: Vitals, grant: EpochGrant) -> Beat:
    return Beat(
        epoch=grant.epoch,
        nonce=grant.nonce,
        phase=vitals.phase,
        read_offsets=list(vitals.read_offsets),
        batch_started_at=vitals.batch_started_at,
        progress_at=vitals.progress_at,
        problem=vitals.problem,
    )
