"""The state machine, run. `HYPOTHESIS_PROFILE=nightly` runs fifty times as many examples."""

import os

import pytest
from hypothesis import HealthCheck, settings
from model_machine import Protocol

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
pytestmark = pytest.mark.timeout(0 if PROFILE == "nightly" else 900)

_PLAIN = settings(
    max_examples=2_000,
    stateful_step_count=20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
PROFILES = {
    "ci": settings(_PLAIN, derandomize=True),
    "nightly": settings(_PLAIN, max_examples=100_000, stateful_step_count=40),
    "quick": settings(_PLAIN, max_examples=200),
}

TestProtocol = Protocol.TestCase
TestProtocol.settings = PROFILES[PROFILE]
