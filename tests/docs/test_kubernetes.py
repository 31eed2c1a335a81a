"""`docs/kubernetes.md` says what the code decides."""

import re
import sys
from pathlib import Path

from spike_pipelines.domain.ladder import TRANSITIONS
from spike_pipelines.domain.supervision import Verdict

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import build_kubernetes  # noqa: E402  # a script beside the page

TEXT = (ROOT / "docs/kubernetes.md").read_text()


def test_the_tables_are_what_the_code_decides():
    assert build_kubernetes.built(TEXT) == TEXT, "run `.venv/bin/python docs/build_kubernetes.py`"


def test_the_diagram_is_the_transition_table():
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", TEXT, re.MULTILINE))
    table = {
        (a.replace("-", "_"), b.replace("-", "_")) for a, targets in TRANSITIONS.items() for b in targets
    }
    assert drawn == table
    assert len(drawn) > 10


def test_no_driver_that_is_heard_is_ended_by_the_table():
    rows = [
        r.split(" | ") for r in TEXT.partition("generated: states")[2].partition("<!-- end")[0].splitlines()
    ]
    heard = {row[0].strip("| `"): row[-1].strip(" |") for row in rows[3:] if len(row) == 6}
    ended = {
        state for state, said in heard.items() if ": " in said and not said.endswith((": kick", ": page"))
    }
    assert ended == {"COMPLETED", "FAILED"}


def test_for_every_word_of_the_supervisor_it_says_what_a_person_does():
    section = TEXT.split("## What a person does\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    said = {word for cell in first for word in re.findall(r"\b[A-Z_]{2,}\b", cell)}
    assert said == set(Verdict) - {Verdict.RUNNING} | {"INVALID", "NO_APPLICATION"}
