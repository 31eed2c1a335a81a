"""`docs/protocol.md` speaks of what is there, and leaves nothing out."""

import ast
import re
import sys
from pathlib import Path

import pytest

from spike_pipelines.domain.batch import BatchState

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/protocol.md").read_text()
PLACES = sorted(set(re.findall(r"`([\w/]+\.py)(?::(\w+))?`", TEXT)))


def rules() -> list[str]:
    """Names of the machine's rules, from their sources."""
    sources = [ROOT / f"tests/model/{name}.py" for name in ("model_machine", "model_people")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if any("rule(" in ast.unparse(d)[:5] for d in f.decorator_list)]


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_named_places_exist(path, name):
    file = next(f for f in (ROOT / path, ROOT / "spike_pipelines" / path) if f.exists())
    assert not name or re.search(rf"^\s*def {name}\(", file.read_text(), re.MULTILINE)


def test_every_rule_of_the_model_is_an_action():
    assert len(rules()) > 30
    actions = set(re.findall(r"`(\w+)`", TEXT.partition("## Actions")[2].partition("## Invariants")[0]))
    assert set(rules()) == actions


def test_every_failure_sequence_is_acted_out_somewhere():
    section = TEXT.partition("## Failure sequences")[2].partition("## Protections")[0]
    sequences = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    assert len(sequences) == 22
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for sequence in sequences:
        names = re.findall(r"`(\w+)`", sequence)
        acted = [name for name in names if re.search(rf"^\s*def {name}\(", sources, re.MULTILINE)]
        assert acted, sequence
        assert set(names) - set(acted) <= set(BatchState), sequence


def test_every_invariant_is_there():
    design = {f"I{i}" for i in range(1, 13)}
    assert set(re.findall(r"^\| (I\d+) ", TEXT, re.MULTILINE)) == design


def test_every_protection_is_there(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests/model"), *sys.path])
    from model_protections import PROTECTIONS  # noqa: PLC0415 - its folder is on the path only now
    from model_protections_people import PROTECTIONS as OF_PEOPLE  # noqa: PLC0415

    rows = re.findall(
        r"^\| ([^|]+) \| `([^`|]+)` \| ([^|]+) \|$", TEXT.partition("## Protections")[2], re.MULTILINE
    )
    assert rows == [(p.name, p.code, p.promise) for p in (*PROTECTIONS, *OF_PEOPLE)]
