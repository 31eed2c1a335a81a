"""What a spike is called in Kubernetes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.kubernetes_names import advice_on, resource_name


def test_dots_become_dashes():
    assert resource_name("crt-payout-v1-1.0") == "crt-payout-v1-1-0"


@pytest.mark.parametrize(
    "display_name", ["", "1st", "-a", "a-", "a.", ".a", "A", "a_b", "a/b", "a" * 51, "a\n", "ä"]
)
def test_what_is_no_name_in_kubernetes_is_refused(display_name):
    with pytest.raises(InvalidSpec, match="cannot be a name in Kubernetes"):
        resource_name(display_name)


@given(st.from_regex(r"[a-z](?:[a-z0-9.-]{0,48}[a-z0-9])?", fullmatch=True))
def test_whatever_an_application_file_may_be_called_fits_kubernetes(display_name):
    name = resource_name(display_name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert resource_name(name) == name
    assert advice_on(name) is None


def test_a_dotted_resource_found_in_a_cluster_comes_with_what_to_do():
    advice = advice_on("crt-payout-v1-1.0")
    assert advice is not None
    assert "spike deploy crt-payout-v1-1.0" in advice
    assert "kubectl delete sparkapplication crt-payout-v1-1.0" in advice


def test_a_resource_that_no_spike_can_be_called_says_so():
    assert "another name" in (advice_on("x" * 60) or "")
