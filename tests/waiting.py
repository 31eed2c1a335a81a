"""Waiting, with an end, for what comes about in its own time."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from spike_pipelines.adapters.ledger import SqlLedger

T = TypeVar("T")
_PAUSE_SECONDS = 0.05


def until(
    holds: Callable[[], T], seconds: float = 150, what: str = "it came true", *, every: float = _PAUSE_SECONDS
) -> T:
    """What the condition says once that is true; it is asked `every` so many seconds."""
    deadline = time.monotonic() + seconds
    while not (said := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}, last {said!r}"
        time.sleep(every)
    return said


def once_free_of(error: type[Exception], act: Callable[[], T], seconds: float = 150) -> T:
    """What `act` answers once it no longer raises `error`, which is raised when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except error:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def until_it_waits_for_a_lock(ledger: SqlLedger, work: Future[object]) -> None:
    """Until somebody waits for a lock in the ledger's database; `work`, which should, may not end before."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def waits() -> bool:
        assert not work.done(), "it waited for nobody"
        with ledger._engine.connect() as db:
            return bool(db.exec_driver_sql(query).scalar_one())

    until(waits, what="it waits for a lock")
