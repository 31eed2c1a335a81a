"""A YAML file as plain values, with the place of each: what an error needs to name its line.

Only what a values file needs: one document of maps, lists and scalars. Anchors and aliases are
refused (a few lines of them can grow without bound), and so is a key that is there twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spike_pipelines.domain.errors import InvalidSpec

Path: TypeAlias = tuple[str | int, ...]
MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in the text: first line (from 1) and character span `[start, end)`."""

    line: int
    start: int
    end: int
    block: bool  # a block scalar: its text begins on the line after


@dataclass(frozen=True, slots=True)
class Document:
    """`root` holds dict, list, str, int, float, bool and None; timestamps stay text."""

    source: str
    text: str
    root: Any
    values: Mapping[Path, Place]
    keys: Mapping[Path, Place]
    problems: tuple[str, ...]

    def line_of(self, path: Path) -> int:
        """The line of the key at `path`, or of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            place = self.keys.get(path[:end]) or self.values.get(path[:end])
            if place is not None:
                return place.line
        return 1


def read(text: str, source: str) -> Document:
    """Parse one YAML document. `source` is the name errors give. Raises `InvalidSpec`."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidSpec(f"{source}: longer than {MAX_CHARACTERS} characters")
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise InvalidSpec(f"{source}:{line}: not YAML: {error.problem or error.context}") from error
    return _Reader(source, text).document(node)


class _Reader:
    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._text = text
        self._values: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}
        self._seen: set[int] = set()
        self._problems: list[str] = []

    def document(self, node: Node | None) -> Document:
        root = {} if node is None else self._value(node, ())
        return Document(
            self._source, self._text, root, self._values, self._keys, problems=tuple(self._problems)
        )

    def _value(self, node: Node, path: Path) -> Any:
        place = _place(node)
        self._values[path] = place
        if id(node) in self._seen:
            raise InvalidSpec(
                f"{self._source}:{place.line}: anchors and aliases are not read: repeat the value"
            )
        if len(path) > MAX_DEPTH:
            raise InvalidSpec(f"{self._source}:{place.line}: nested deeper than {MAX_DEPTH}")
        self._seen.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(str(node.tag), str(node.value))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node)
            if not isinstance(key_node, ScalarNode):
                raise InvalidSpec(f"{self._source}:{place.line}: a key must be plain text")
            key = str(key_node.value)
            if key in found:
                first = self._keys[(*path, key)].line
                self._problems.append(
                    f"{self._source}:{place.line}: key '{key}' is there twice: keep this or line {first}"
                )
                continue
            self._keys[(*path, key)] = place
            found[key] = self._value(value_node, (*path, key))
        return found


def _place(node: Node) -> Place:
    start, end = node.start_mark, node.end_mark
    return Place(start.line + 1, start.index, end.index, getattr(node, "style", None) in ("|", ">"))


_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    """By the tag YAML 1.2's core schema gives; what it has no name for stays text."""
    tag = tag.rpartition(":")[2]
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "int" and _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if tag == "float":
        return float(text.replace("_", ""))
    return text
