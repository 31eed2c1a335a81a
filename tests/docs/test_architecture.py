"""What the documents claim and code can tell."""

import re
from pathlib import Path

import pytest

from spike_pipelines.cli.main import app
from spike_pipelines.domain.batch import TRANSITIONS
from spike_pipelines.domain.swap import SWAP_TRANSITIONS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def text(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize(("heading", "table"), [("a batch", TRANSITIONS), ("a swap", SWAP_TRANSITIONS)])
def test_the_state_diagram_is_the_transition_table(heading, table):
    section = text("docs/architecture.md").split(f"## States of {heading}\n")[1].split("\n## ")[0]
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", section, re.MULTILINE))
    assert drawn == {(old.value, new.value) for old, targets in table.items() for new in targets}


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_is_named_exists(page):
    named = set(re.findall(r"`([\w./-]+/[\w./-]*)`", text(page)))
    missing = {
        path
        for path in named
        if not any((base / path).exists() for base in (ROOT, ROOT / "spike_pipelines", ROOT / "docs"))
    }
    assert named
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert not {link for link in links if not (page.parent / link).exists()}


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", text("README.md"))) <= targets


def test_every_spike_command_in_the_readme_exists():
    known = {c.name or c.callback.__name__ for c in app.registered_commands} | {
        g.name for g in app.registered_groups
    }
    assert set(re.findall(r"(?:`|bin/)spike ([a-z]+)", text("README.md"))) <= known
