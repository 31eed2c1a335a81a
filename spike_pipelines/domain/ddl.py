"""A spike's schema: the part of Spark's DDL that a JSON record, Parquet and Iceberg all can hold.

Grammar (Spark's `SqlBaseParser.g4`, rules `colTypeList` and `complexColTypeList`):

    schema := column ("," column)*
    column := name [":"] type ["NOT" "NULL"] ["COMMENT" string]    the colon only inside STRUCT
    type   := primitive | DECIMAL["(" precision ["," scale] ")"]
            | STRUCT "<" schema ">" | ARRAY "<" type ">" | MAP "<" type "," type ">"

Left out on purpose, with an error that says so: INTERVAL, VOID, VARIANT, CHAR and VARCHAR, collations,
defaults, an empty STRUCT, and maps whose keys are not strings (a JSON object has no other).
Names are compared as Spark does, without regard to case.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, TypeAlias

from spike_pipelines.domain.errors import InvalidSpec

RESERVED_COLUMNS = frozenset({"kafka_partition", "kafka_offset", "kafka_timestamp"})
MAX_COLUMNS = 2_000  # of one schema, nested ones included
MAX_DEPTH = 32


class DdlError(InvalidSpec):
    """`line` and `column` count from 1 within the DDL string; `problem` is the message without them."""

    def __init__(self, problem: str, *, line: int, column: int) -> None:
        super().__init__(f"schema, line {line}, column {column}: {problem}")
        self.problem = problem
        self.line = line
        self.column = column


class Primitive(StrEnum):
    """Types without parameters, by the name Spark SQL prints."""

    BOOLEAN = "BOOLEAN"
    TINYINT = "TINYINT"
    SMALLINT = "SMALLINT"
    INT = "INT"
    BIGINT = "BIGINT"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    DATE = "DATE"
    TIMESTAMP = "TIMESTAMP"  # an instant
    TIMESTAMP_NTZ = "TIMESTAMP_NTZ"  # a wall clock without zone
    STRING = "STRING"
    BINARY = "BINARY"


@dataclass(frozen=True, slots=True)
class Decimal:
    precision: int
    scale: int

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})"


@dataclass(frozen=True, slots=True)
class Array:
    """Elements may always be null: Spark's DDL cannot say otherwise."""

    element: "Type"

    def __str__(self) -> str:
        return f"ARRAY<{self.element}>"


@dataclass(frozen=True, slots=True)
class Map:
    """Values may always be null, keys never."""

    key: "Type"
    value: "Type"

    def __str__(self) -> str:
        return f"MAP<{self.key}, {self.value}>"


@dataclass(frozen=True, slots=True)
class Struct:
    fields: "tuple[Column, ...]"

    def __str__(self) -> str:
        return f"STRUCT<{', '.join(str(field) for field in self.fields)}>"


Type: TypeAlias = Primitive | Decimal | Array | Map | Struct


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: Type
    nullable: bool = True
    comment: str | None = None

    def __str__(self) -> str:
        null = "" if self.nullable else " NOT NULL"
        comment = "" if self.comment is None else f" COMMENT {_quote(self.comment)}"
        return f"`{self.name}` {self.type}{null}{comment}"


def parse(ddl: str) -> tuple[Column, ...]:
    """The columns of a schema, in order. Raises `DdlError` at the first thing that is wrong."""
    parser = _Parser(ddl)
    columns = parser.columns(depth=0)
    parser.expect_end()
    return columns


def render(columns: tuple[Column, ...]) -> str:
    """DDL that `parse` and Spark read back to the same columns."""
    return ", ".join(str(column) for column in columns)


_PRIMITIVES = {p.value: p for p in Primitive} | {
    "BYTE": Primitive.TINYINT,
    "SHORT": Primitive.SMALLINT,
    "INTEGER": Primitive.INT,
    "LONG": Primitive.BIGINT,
    "REAL": Primitive.FLOAT,
    "TIMESTAMP_LTZ": Primitive.TIMESTAMP,
}
_DECIMALS = ("DECIMAL", "DEC", "NUMERIC")
TYPE_NAMES = (*(p.value for p in Primitive), "DECIMAL(p,s)", "STRUCT<…>", "ARRAY<…>", "MAP<STRING, …>")
_UNSUPPORTED = {
    "CHAR": "use STRING",
    "CHARACTER": "use STRING",
    "VARCHAR": "use STRING",
    "INTERVAL": "Iceberg has none: use BIGINT and put the unit in the name",
    "VOID": "give the column a type",
    "VARIANT": "use STRING and parse it when reading",
}

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/)
      | (?P<word>[A-Za-z0-9_]+)
      | `(?P<quoted>(?:[^`]|``)*)`
      | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<mark>[<>(),:])""",
    re.VERBOSE | re.DOTALL,
)
_UNUSABLE = re.compile(r"[\s,;{}()=.`]")  # what Parquet, or a path in SQL and Iceberg, cannot have in a name


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # word, quoted, string, mark, bad or end
    text: str
    at: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words

    def is_mark(self, mark: str) -> bool:
        return self.kind == "mark" and self.text == mark

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text}'"


def _tokens(ddl: str) -> Iterator[_Token]:
    at = 0
    while at < len(ddl):
        match = _TOKEN.match(ddl, at)
        if match is None or match.lastgroup is None:
            yield _Token("bad", ddl[at], at)
            return
        if match.lastgroup != "skip":
            yield _Token(match.lastgroup, match[match.lastgroup], at)
        at = match.end()
    yield _Token("end", "", len(ddl))


class _Parser:
    """Recursive descent over the tokens of one DDL string."""

    def __init__(self, ddl: str) -> None:
        self._ddl = ddl
        self._tokens = tuple(_tokens(ddl))
        self._next = 0
        self._seen = 0

    def columns(self, depth: int) -> tuple[Column, ...]:
        found: list[Column] = []
        names: set[str] = set()
        while True:
            start = self._peek()
            column = self._column(depth)
            self._check_name(start, column.name, names, depth)
            names.add(column.name.lower())
            found.append(column)
            if not self._accept(","):
                return tuple(found)

    def expect_end(self) -> None:
        token = self._peek()
        if token.kind != "end":
            self._fail(token, f"expected ',' or the end, found {token}")

    def _column(self, depth: int) -> Column:
        name = self._take()
        if name.kind not in ("word", "quoted") or not name.text:
            self._fail(name, f"expected a column name, found {name}")
        if depth > 0:
            self._accept(":")
        kind = self._type(name.text, depth)
        return Column(name.text.replace("``", "`"), kind, self._nullable(), self._comment())

    def _check_name(self, at: _Token, name: str, names: set[str], depth: int) -> None:
        self._seen += 1
        if self._seen > MAX_COLUMNS:
            self._fail(at, f"more than {MAX_COLUMNS} columns")
        if _UNUSABLE.search(name):
            self._fail(at, f"column name '{name}' has a space or one of , ; {{ }} ( ) = . `: rename it")
        if name.lower() in names:
            self._fail(at, f"column '{name}' is there twice (case does not count)")
        if depth == 0 and name.lower() in RESERVED_COLUMNS:
            self._fail(at, f"column '{name}' is one the platform adds itself: rename it")

    def _type(self, column: str, depth: int) -> Type:
        token = self._take()
        name = token.text.upper()
        if depth >= MAX_DEPTH:
            self._fail(token, f"nested deeper than {MAX_DEPTH}")
        if token.kind != "word":
            self._fail(token, f"column '{column}': expected a type, found {token}")
        if name in _PRIMITIVES:
            return _PRIMITIVES[name]
        if name in _DECIMALS:
            return self._decimal(token)
        if name in ("ARRAY", "MAP", "STRUCT"):
            return self._nested(token, column, depth + 1)
        hint = _UNSUPPORTED.get(name, f"one of {', '.join(TYPE_NAMES)}")
        return self._fail(token, f"column '{column}': type {token.text} is not supported: {hint}")

    def _nested(self, name: _Token, column: str, depth: int) -> Type:
        self._expect("<", after=name.text)
        kind: Type
        if name.is_word("STRUCT"):
            kind = Struct(self.columns(depth))
        elif name.is_word("ARRAY"):
            kind = Array(self._type(column, depth))
        else:
            kind = self._map(name, column, depth)
        self._expect(">", after=f"the types of {name.text}")
        return kind

    def _map(self, name: _Token, column: str, depth: int) -> Map:
        key = self._type(column, depth)
        if key is not Primitive.STRING:
            self._fail(name, f"column '{column}': keys of a MAP are STRING (records are JSON), not {key}")
        self._expect(",", after="the key type of MAP")
        return Map(key, self._type(column, depth))

    def _decimal(self, name: _Token) -> Decimal:
        if not self._accept("("):
            return Decimal(10, 0)  # Spark's default
        precision = self._number()
        scale = self._number() if self._accept(",") else 0
        self._expect(")", after="DECIMAL's precision and scale")
        if not 1 <= precision <= 38 or scale > precision:
            self._fail(name, f"DECIMAL({precision},{scale}): precision is 1 to 38 and scale at most that")
        return Decimal(precision, scale)

    def _nullable(self) -> bool:
        if not self._peek().is_word("NOT"):
            return True
        self._take()
        token = self._take()
        if not token.is_word("NULL"):
            self._fail(token, f"expected NULL after NOT, found {token}")
        return False

    def _comment(self) -> str | None:
        if not self._peek().is_word("COMMENT"):
            return None
        self._take()
        token = self._take()
        if token.kind != "string":
            self._fail(token, f"expected a quoted text after COMMENT, found {token}")
        return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)

    def _number(self) -> int:
        token = self._take()
        if token.kind != "word" or not re.fullmatch(r"[0-9]{1,4}", token.text):
            self._fail(token, f"expected a number, found {token}")
        return int(token.text)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _accept(self, mark: str) -> bool:
        if not self._peek().is_mark(mark):
            return False
        self._take()
        return True

    def _expect(self, mark: str, *, after: str) -> None:
        token = self._take()
        if not token.is_mark(mark):
            self._fail(token, f"expected '{mark}' after {after}, found {token}")

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        before = self._ddl[: token.at]
        line = before.count("\n") + 1
        raise DdlError(problem, line=line, column=token.at - (before.rfind("\n") + 1) + 1)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
