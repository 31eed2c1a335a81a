"""docs/lag.md knows every word that `spike status` and `spike lag` say."""

import re
from pathlib import Path

from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.domain.supervision import Verdict

TEXT = (Path(__file__).parents[2] / "docs" / "lag.md").read_text()


def words(heading):
    """The words in capitals of the first column of the table under a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {word for cell in first for word in re.findall(r"\b[A-Z_]{2,}\b", cell)}


def test_every_lag_verdict_is_explained():
    assert words("Verdicts, worst first") == set(LagVerdict)


def test_every_word_of_the_supervisor_has_its_place_beside_the_lag_verdicts():
    status_only = {"INVALID", "NO_APPLICATION"}
    assert words("The words of `spike status`") == set(Verdict) - {Verdict.RUNNING} | status_only
