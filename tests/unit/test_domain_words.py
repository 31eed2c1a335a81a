"""Counts and lists in sentences for people."""

import pytest

from spike_pipelines.domain.words import count_of, some


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 dead letters"), (1, "1 dead letter"), (2, "2 dead letters"), (1200, "1,200 dead letters")],
)
def test_one_is_singular_and_all_else_is_plural(number, told):
    assert count_of(number, "dead letter") == told


def test_what_agrees_with_the_count_is_given_in_both_numbers():
    waits = ("batch waits", "batches wait")
    assert (count_of(1, *waits), count_of(3, *waits)) == ("1 batch waits", "3 batches wait")


@pytest.mark.parametrize(
    ("things", "told"), [([], ""), ([1], "1"), ([1, 2], "1, 2"), ([1, 2, 3, 4, 5], "1, 2 and 3 more")]
)
def test_some_are_named_and_the_rest_is_counted(things, told):
    assert some(things, most=2) == told
