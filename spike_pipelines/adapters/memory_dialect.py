"""The ledger's SQL, spoken by SQLite: a dialect for tests that need speed.

Nothing is rewritten on the way: the same statements run, and what PostgreSQL says otherwise than SQLite is
translated here. Times are whole microseconds since 1970, so that adding seconds to them is adding.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, JSON, DateTime, Interval
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteTypeCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.sql.elements import CollectionAggregate
from sqlalchemy.sql.operators import any_op

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


class _Time(DateTime):
    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else micros(value)

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return lambda value: None if value is None else _EPOCH + value * _MICROSECOND


class _Span(Interval):
    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else value // _MICROSECOND


class _Json(JSON):
    def bind_processor(self, dialect: Any) -> Any:
        return json.dumps

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return lambda value: None if value is None else json.loads(value)


class _Array(ARRAY[Any]):
    """As JSON; PostgreSQL's own empty one is `{}`, from which nothing comes either."""

    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else json.dumps(list(value))

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return lambda value: None if value is None else list(json.loads(value))


class _Compiler(SQLiteCompiler):
    def visit_values(
        self, element: Any, asfrom: Any = False, from_linter: Any = None, visiting_cte: Any = None, **kw: Any
    ) -> str:
        """`(VALUES …) AS name (columns)`: SQLite calls them column1, column2 …"""
        name = self.preparer.quote(element.name)
        columns = ", ".join(
            f"column{i} AS {self.preparer.quote(c.name)}" for i, c in enumerate(element.columns, 1)
        )
        if from_linter:
            from_linter.froms[element._de_clone()] = element.name
        values = self._render_values(element, **kw)  # type: ignore[no-untyped-call]
        return f"(SELECT {columns} FROM ({values})) AS {name}"

    def visit_binary(self, binary: Any, *arguments: Any, **kw: Any) -> str:
        """`= ANY (array)` and `<> ALL (array)`, whose array is JSON here."""
        if not isinstance(binary.right, CollectionAggregate):
            said: str = super().visit_binary(binary, *arguments, **kw)  # type: ignore[no-untyped-call]
            return said
        array = self.process(binary.right.element, **kw)
        word = "IN" if binary.right.operator is any_op else "NOT IN"
        return f"{self.process(binary.left, **kw)} {word} (SELECT value FROM json_each({array}))"

    def visit_bool_and_func(self, function: Any, **kw: Any) -> str:
        return f"min{self.function_argspec(function, **kw)}"


class _TypeCompiler(SQLiteTypeCompiler):
    def visit_BIGINT(self, type_: Any, **kw: Any) -> str:
        """Only an INTEGER key numbers itself."""
        return "INTEGER"

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:
        return "INTEGER"

    def visit_ARRAY(self, type_: Any, **kw: Any) -> str:
        return "TEXT"

    def visit_JSONB(self, type_: Any, **kw: Any) -> str:
        return "TEXT"


class MemoryDialect(SQLiteDialect_pysqlite):
    supports_statement_cache = True
    statement_compiler = _Compiler
    type_compiler_cls = _TypeCompiler
    colspecs = {  # noqa: RUF012 - the base class has it so
        **SQLiteDialect_pysqlite.colspecs,
        ARRAY: _Array,
        DateTime: _Time,
        Interval: _Span,
        JSON: _Json,
    }


registry.register("sqlite.ledger", __name__, "MemoryDialect")
