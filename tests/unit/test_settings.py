"""A wrong environment is told by the variable's name, the value, and the way out."""

import pytest

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.settings import Settings


@pytest.mark.parametrize(
    ("variable", "value", "way_out"),
    [
        ("SPIKE_CLUSTER", "k8s", "'processes' or 'kubernetes'"),
        ("SPIKE_RETENTION_GRACE_HOURS", "a day", "number"),
        ("SPIKE_APPLICATIONS_CONFIG_MAP", "spike-applications", "pattern"),
    ],
)
def test_a_value_that_is_refused_is_told_with_its_variable(variable, value, way_out):
    with pytest.raises(InvalidSpec) as refused:
        Settings.from_env({variable: value})
    said = str(refused.value)
    assert said.startswith(f"{variable}: ")
    assert way_out in said
    assert repr(value) in said
    assert "\n" not in said


def test_all_that_are_refused_are_told():
    with pytest.raises(InvalidSpec, match=r"SPIKE_CLUSTER: .*; SPIKE_RETENTION_KEEP_SNAPSHOTS: "):
        Settings.from_env({"SPIKE_CLUSTER": "k8s", "SPIKE_RETENTION_KEEP_SNAPSHOTS": "0"})


def test_what_is_missing_is_told_with_both_ways_to_set_it():
    with pytest.raises(InvalidSpec, match=r'SPIKE_LEDGER_URL is not set.*"\$\(spike env\)".*deploying\.md'):
        Settings.from_env({}).require("ledger_url")
