"""Counts in sentences for people."""

import pytest

from spike_pipelines.domain.words import count_of


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 dead letters"), (1, "1 dead letter"), (2, "2 dead letters"), (1200, "1,200 dead letters")],
)
def test_one_is_singular_and_all_else_is_plural(number, told):
    assert count_of(number, "dead letter") == told


def test_what_agrees_with_the_count_is_given_in_both_numbers():
    waits = ("batch waits", "batches wait")
    assert (count_of(1, *waits), count_of(3, *waits)) == ("1 batch waits", "3 batches wait")
