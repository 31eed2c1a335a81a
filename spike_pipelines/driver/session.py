"""One driver's conversation with the appender: epochs are opened and batches registered here.

Every request may be repeated (I7): a lost reply is answered by sending the same again.
"""

import logging
from collections.abc import Callable
from typing import NoReturn

from pydantic import ValidationError

from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.errors import BatchTooLarge, Conflict, Fenced, SpikeError, Transient
from spike_pipelines.domain.exits import Exit
from spike_pipelines.driver.backoff import back_off_seconds
from spike_pipelines.driver.client import AppenderClient
from spike_pipelines.driver.decisions import (
    Action,
    NewEpoch,
    ReadLess,
    Refusal,
    Retry,
    Stop,
    Wait,
    after_open,
    after_register,
)
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.wire import BatchAccepted, EpochGrant, OpenEpoch, PostBatch

log = logging.getLogger(__name__)

MAX_REGISTER_RETRIES = 40  # with the back-off's cap about a quarter of an hour


class Stopped(SpikeError):
    """The driver was asked to stop while it waited."""


class Halted(SpikeError):
    """The appender's answer ends this driver."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit = code


class Session:
    """`driver` names one process for ever. Not thread-safe: one thread opens and registers."""

    def __init__(
        self,
        client: AppenderClient,
        board: VitalsBoard,
        *,
        driver: str,
        version: str,
        back_off: Callable[[int], float] = back_off_seconds,
    ) -> None:
        self._client = client
        self._board = board
        self._driver = driver
        self._version = version
        self._back_off = back_off
        self._grant: EpochGrant | None = None

    def open(self) -> EpochGrant:
        """The next epoch, once nobody else's is alive. Its offsets are where to go on from.

        Errors: `Fenced`, `Halted`; `Transient` when asking the same again later is right (do: the
        epoch may have been granted already, and only this same request gets it); `Conflict`; `Stopped`.
        """
        after = self._grant.epoch if self._grant else None
        request = OpenEpoch(driver=self._driver, after=after, application_version=self._version)
        self._board.opening()
        while isinstance(answer := self._client.open_epoch(request), Refusal):
            action = after_open(answer)
            if not isinstance(action, Wait):
                _raise(action, answer)
            log.info("waiting for the spike: %s", answer.message)
            self._wait(action.seconds)
        self._grant = answer
        self._board.opened(answer)
        return answer

    def register(self, batch: NewBatch, grant: EpochGrant) -> BatchAccepted:
        """Hand the batch, which began under `grant`, to the ledger; when this returns it is safe, and the
        driver may drop it.

        Errors: `Fenced`, `Halted`; `Conflict` and `Transient` (open a new epoch), of these `BatchTooLarge`
        (and read less at once); `Stopped`.
        """
        if self._grant != grant:
            now = f"epoch {self._grant.epoch} is open now" if self._grant else "none is open"
            raise Conflict(f"a batch of epoch {grant.epoch} comes too late: {now}")
        body = _body(batch, grant)
        retries = 0
        self._board.phase(Phase.POSTING)
        while isinstance(answer := self._client.register(body), Refusal):
            action = after_register(answer)
            if isinstance(action, Wait):
                self._board.phase(Phase.WAITING)
                self._wait(action.seconds)
            elif isinstance(action, Retry) and retries < MAX_REGISTER_RETRIES:
                retries += 1
                log.warning("registering again (%d): %s: %s", retries, answer.code, answer.message)
                self._board.problem(answer.message)
                self._wait(self._back_off(retries))
            else:
                _raise(action, answer)
        self._board.well()
        return answer

    def _wait(self, seconds: float) -> None:
        if self._board.stop.wait(seconds):
            raise Stopped("asked to stop while waiting for the appender")


def _body(batch: NewBatch, grant: EpochGrant) -> PostBatch:
    """Its lists have bounds, which are known here as well as there."""
    try:
        return PostBatch.of(batch, epoch=grant.epoch, nonce=grant.nonce)
    except ValidationError as error:
        long = [e for e in error.errors() if e["type"] == "too_long"]
        if not long:
            raise
        raise BatchTooLarge(f"too_large: {long[0]['loc'][0]}: {long[0]['msg']}") from error


def _raise(action: Action, refusal: Refusal) -> NoReturn:
    text = f"{refusal.code}: {refusal.message}"
    match action:
        case Stop(Exit.FENCED):
            raise Fenced(text)
        case Stop(code):
            raise Halted(text, code)
        case NewEpoch():
            raise Conflict(text)
        case ReadLess():
            raise BatchTooLarge(text)
        case Retry() | Wait():
            raise Transient(text)
