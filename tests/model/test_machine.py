"""The state machine, run. `HYPOTHESIS_PROFILE=nightly` runs fifty times as many examples."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from model_machine import Protocol

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
pytestmark = pytest.mark.timeout(0 if PROFILE == "nightly" else 2400)

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


@pytest.fixture(autouse=True)
def seldom_collected() -> Iterator[None]:
    """What is imported by now lives on, and examples leave little behind: a fifth of the time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, *before[1:])
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


TestProtocol = Protocol.TestCase
TestProtocol.settings = PROFILES[PROFILE]
