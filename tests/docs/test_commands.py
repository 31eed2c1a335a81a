"""Every `spike …` that a page or a file of deployments/ shows is a command with the options shown."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main
from typer._click.exceptions import UsageError  # typer carries its own click
from typer.core import TyperGroup

from spike_pipelines.cli import main

ROOT = Path(__file__).parents[2]
SUFFIXES = {".md", ".gotmpl", ".txt", ".yaml", ".tpl", ""}
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(path for path in (ROOT / "deployments").rglob("*") if path.is_file() and path.suffix in SUFFIXES),
]
FENCED = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
IN_WORDS = re.compile(r"`(?:\.venv/bin/)?spike ([a-z][^`]*)`")
A_LINE = re.compile(r"(?:^|[(;&|] *|bin/)spike ([a-z].*)", re.MULTILINE)
SUBSTITUTED = re.compile(r"\$\([^()]*\)|\$\{\w+\}|\{\{.*?\}\}")
COMMAND = typer.main.get_command(main.app)


def shown(page: Path) -> Iterator[str]:
    """What follows `spike` wherever a command is shown: between backticks, and in blocks for a shell."""
    text = page.read_text()
    yield from (found.replace("\n", " ") for found in IN_WORDS.findall(text))
    blocks = [text] if page.name == "NOTES.txt" else FENCED.findall(text)
    for block in blocks:
        yield from A_LINE.findall(re.sub(r"\\\n\s*", "", block.replace("\n  spike", "\nspike")))


def words(line: str) -> list[str]:
    """As a shell would split them, without comment and redirection."""
    line = re.split(r"\)\"|[;&>] |\s#", SUBSTITUTED.sub("X", line))[0].removesuffix(')"')
    return shlex.split(line)


def alternatives(line: str) -> list[str]:
    """`list|show x` is two commands."""
    several = re.search(r"[\w-]+(?:\|[\w-]+)+", line)
    return [line.replace(several[0], one) for one in several[0].split("|")] if several else [line]


def problem(line: str) -> str | None:
    """Why the command line would be refused; None if it would not."""
    command, rest = COMMAND, words(line)
    while isinstance(command, TyperGroup) and rest:
        found = command.get_command(typer.Context(command), rest[0])
        if found is None:
            return f"no command {rest[0]!r}"
        command, rest = found, rest[1:]
    context = typer.Context(command)
    try:
        _, left, _ = command.make_parser(context).parse_args(rest)
    except UsageError as error:
        return None if "requires an argument" in error.message else error.message
    return f"no argument {left[0]!r}" if left and not isinstance(command, TyperGroup) else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists_with_its_options(page):
    refused = {
        line: why
        for shown_line in shown(page)
        for line in alternatives(shown_line)
        if (why := problem(line)) is not None
    }
    assert not refused


def test_commands_are_found_and_wrong_ones_are_told():
    assert {"deploy crt-payout-v1-1.0", "lag -o json"} <= {
        " ".join(words(line)) for page in PAGES for line in shown(page)
    }
    assert problem("deploi x") == "no command 'deploi'"
    assert problem("stack kil x") == "no command 'kil'"
    assert problem("audit --deeper") == "No such option: --deeper"
    assert problem("audit twice") == "no argument 'twice'"


def test_every_module_with_commands_is_registered():
    modules = [
        importlib.import_module(f"spike_pipelines.cli.{path.stem}")
        for path in (ROOT / "spike_pipelines" / "cli").glob("[a-z]*.py")
    ]
    named = {module.__name__ for module in modules if hasattr(module, "register")}
    assert named == {module.__name__ for module in main.COMMANDS}
