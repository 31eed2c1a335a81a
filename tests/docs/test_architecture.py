"""What the documents claim and code can tell."""

import ast
import re
from pathlib import Path

import pytest

from spike_pipelines.adapters.applications import load_applications
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


def imported(package: Path) -> set[str]:
    """The packages and modules of ours that a package or module imports, by their first name."""
    files = package.rglob("*.py") if package.is_dir() else [package.with_suffix(".py")]
    trees = [ast.parse(file.read_text()) for file in files]
    names = [node.module for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    froms = [
        f"{node.module}.{alias.name}"
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return {name.split(".")[1] for name in [*names, *froms] if name and name.startswith("spike_pipelines.")}


def test_every_arrow_between_layers_is_an_import():
    diagram = text("docs/architecture.md").partition("flowchart TD")[2].partition("```")[0]
    arrows = re.findall(r"^  (\w+) --> (\w+)$", diagram, re.MULTILINE)
    assert len(arrows) > 10
    missing = [(a, b) for a, b in arrows if b not in imported(ROOT / "spike_pipelines" / a)]
    assert not missing


def test_datasets_in_examples_are_those_that_ship():
    shipped = {s.dataset.name for s in load_applications(ROOT / "deployments" / "applications")}
    named = {
        name
        for page in PAGES
        for name in re.findall(
            r"""spike read (\w+)|(?:read|hours|dead_letters)\("(\w+)\"""", page.read_text()
        )
        for name in name
        if name
    }
    assert named
    assert named <= shipped


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_parse(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        ast.parse(block)


def test_the_map_names_every_package_and_every_service():
    rows = dict(re.findall(r"^\| (`[^|]+) \| (.+) \|$", text("docs/architecture.md"), re.MULTILINE))
    packages = {f"{p.parent.name}/" for p in (ROOT / "spike_pipelines").glob("*/__init__.py")}
    assert packages <= {name for cell in rows for name in re.findall(r"`([\w/]+)`", cell)}
    services = {p.stem.replace("_", " ") for p in (ROOT / "spike_pipelines/services").glob("[a-z]*.py")}
    assert services <= set(re.split(r"[,;:] ", rows["`services/`"]))


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
