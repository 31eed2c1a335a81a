"""What counts as a sign of life of the streaming query, and what does not."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest

from spike_pipelines.domain.epochs import Phase
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.spark.engine import watch
from spike_pipelines.spark.progress import measured


@dataclass
class Query:
    """Answers each look from a script, and stops the driver at its end."""

    board: VitalsBoard
    looks: list
    last: tuple = ()

    def __post_init__(self):
        self.lives = []

    def awaitTermination(self, seconds):  # noqa: N802 - PySpark's name
        self.lives.append(self.board.now.progress_at)
        self.last = self.looks.pop(0)
        if not self.looks:
            self.board.stop.set()
        return False

    @property
    def status(self):
        return {"message": self.last[0], "isDataAvailable": False, "isTriggerActive": True}

    @property
    def lastProgress(self):  # noqa: N802 - PySpark's name
        return self.last[1] and progress(f"2026-11-22T{self.last[1]}:00.000Z")


def progress(timestamp, **changes):
    plain = {"triggerExecution": 2500, "addBatch": 2000, "walCommit": 100}
    return SimpleNamespace(
        **{
            "timestamp": timestamp,
            "durationMs": plain,
            "numInputRows": 50,
            "inputRowsPerSecond": 10.0,
            "processedRowsPerSecond": 20.0,
            **changes,
        }
    )


def moves(*looks):
    """Whether each look but the first was taken for a sign of life."""
    board = VitalsBoard()
    board.phase(Phase.READING)
    query = Query(board, list(looks))
    watch(query, board)
    lives = [*query.lives[1:], board.now.progress_at]
    return [b != a for a, b in pairwise(lives)]


STUCK = "Getting offsets from KafkaV2[Subscribe[events]]"


@pytest.mark.parametrize(
    ("looks", "alive"),
    [
        ([("Waiting for next trigger", None)] * 3, [True, True]),
        ([(STUCK, "10:00")] * 3, [False, False]),
        ([(STUCK, None)] * 3, [False, False]),
        ([(STUCK, "10:00"), (STUCK, "10:01"), (STUCK, "10:01")], [True, False]),
        ([(STUCK, None), ("Processing new data", None), ("Processing new data", None)], [True, False]),
    ],
)
def test_only_a_query_that_moves_or_waits_is_alive(looks, alive):
    assert moves(*looks) == alive


def test_every_phase_is_a_sign_of_life():
    board = VitalsBoard()
    assert board.now.progress_at is None
    board.phase(Phase.STAGING)
    assert board.now.progress_at is not None


# what it says of its batches


def test_a_batch_is_told_in_seconds_with_its_steps_apart():
    told = measured(progress("2026-11-22T10:00:00.000Z"))
    assert (told.batch_seconds, told.step_seconds) == (2.5, {"addBatch": 2.0, "walCommit": 0.1})
    assert (told.records, told.input_per_second, told.processed_per_second) == (50, 10.0, 20.0)
    assert told.began_at == datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_a_rate_that_spark_cannot_know_yet_is_not_known_and_not_zero():
    told = measured(progress("2026-11-22T10:00:00.000Z", inputRowsPerSecond=float("nan")))
    assert told.input_per_second is None


def test_the_board_has_the_last_batch_until_the_next_epoch():
    board = VitalsBoard()
    watch(Query(board, [("Waiting for next trigger", "10:00"), ("Waiting for next trigger", "10:01")]), board)
    assert board.now.progress.began_at.minute == 1
    board.opened(SimpleNamespace(offsets=()))
    assert board.now.progress is None
