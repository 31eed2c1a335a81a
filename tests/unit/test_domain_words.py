import pytest

from spike_pipelines.domain.words import some


@pytest.mark.parametrize(
    ("things", "told"), [([], ""), ([1], "1"), ([1, 2], "1, 2"), ([1, 2, 3, 4, 5], "1, 2 and 3 more")]
)
def test_some_are_named_and_the_rest_is_counted(things, told):
    assert some(things, most=2) == told
