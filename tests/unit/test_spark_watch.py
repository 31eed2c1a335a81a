"""What counts as a sign of life of the streaming query, and what does not."""

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest

from spike_pipelines.domain.epochs import Phase
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.spark.engine import watch


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
        return self.last[1] and SimpleNamespace(timestamp=self.last[1])


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
