"""The state machine, run. `HYPOTHESIS_PROFILE=nightly` runs fifty times as many examples."""

import os

import pytest
from model_shards import Attack, run

PROFILES = {
    "ci": Attack(2_000),
    "nightly": Attack(100_000, steps=40, repeatable=False),
    "quick": Attack(200),
}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")


@pytest.mark.timeout(0 if PROFILE == "nightly" else 2400)
def test_whatever_happens_the_invariants_hold():
    found = run(PROFILES[PROFILE])
    assert not found, "\n".join(found)
