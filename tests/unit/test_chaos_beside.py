"""Looks repeated beside everything else."""

import threading

from spike_pipelines.domain.errors import Transient
from spike_pipelines.stack.chaos.beside import Beside

TIMEOUT = 10


def test_look_is_repeated_whatever_it_raises_and_only_what_is_ours_is_a_problem():
    errors = [Transient("the database is down"), KeyError("a bug of ours")]
    enough = threading.Event()

    def look() -> None:
        if errors:
            raise errors.pop(0)
        enough.set()

    beside = Beside("the reader", look, 0.001)
    with beside.going():
        assert enough.wait(TIMEOUT)
    assert beside.problems == ["the reader broke: KeyError: 'a bug of ours'"]


def test_problems_are_bounded():
    looks = []
    many = threading.Event()

    def look() -> None:
        looks.append(1)
        if len(looks) > 100:
            many.set()
        raise ValueError

    beside = Beside("it", look, 0.0)
    with beside.going():
        assert many.wait(TIMEOUT)
    assert len(beside.problems) == 20
