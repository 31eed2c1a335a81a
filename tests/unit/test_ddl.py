"""The schema language: what is read, what is refused and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.domain.ddl import (
    MAX_DEPTH,
    Array,
    Column,
    DdlError,
    Decimal,
    Map,
    Primitive,
    Struct,
    Type,
    parse,
    render,
)

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
LEAVES = st.one_of(
    st.sampled_from(Primitive),
    st.integers(1, 38).flatmap(lambda p: st.builds(Decimal, st.just(p), st.integers(0, p))),
)


def columns(types: st.SearchStrategy[Type]) -> st.SearchStrategy[tuple[Column, ...]]:
    column = st.builds(Column, NAMES, types, st.booleans(), st.none() | st.text('it\'s "a" \\ n', max_size=8))
    return st.lists(column, min_size=1, max_size=4, unique_by=lambda c: c.name).map(tuple)


TYPES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Array, inner),
        st.builds(Map, st.just(Primitive.STRING), inner),
        st.builds(Struct, columns(inner)),
    ),
    max_leaves=8,
)


@given(columns(TYPES))
def test_what_is_rendered_is_read_back(schema):
    assert parse(render(schema)) == schema


def test_types_have_sparks_names_and_aliases():
    found = parse("a LONG, b integer, c Dec, d numeric(5), e TIMESTAMP_LTZ, f REAL, g BYTE, h short")
    assert [str(c.type) for c in found] == [
        "BIGINT", "INT", "DECIMAL(10,0)", "DECIMAL(5,0)", "TIMESTAMP", "FLOAT", "TINYINT", "SMALLINT",
    ]  # fmt: skip


def test_nullability_comments_and_sql_comments():
    schema = """
        id STRING NOT NULL COMMENT 'it\\'s', -- the key
        geo STRUCT<lat: DOUBLE NOT NULL, `long` DOUBLE COMMENT "east"> /* both */
    """
    geo = Struct(
        (Column("lat", Primitive.DOUBLE, nullable=False), Column("long", Primitive.DOUBLE, comment="east"))
    )
    assert parse(schema) == (
        Column("id", Primitive.STRING, nullable=False, comment="it's"),
        Column("geo", geo),
    )


@pytest.mark.parametrize(
    ("schema", "line", "column", "problem"),
    [
        ("", 1, 1, "expected a column name"),
        ("a INT,", 1, 7, "expected a column name, found the end"),
        ("a", 1, 2, "column 'a': expected a type"),
        ("a INT b INT", 1, 7, "expected ',' or the end"),
        ("a INT,\n  b STIRNG", 2, 5, "type STIRNG is not supported: one of BOOLEAN"),
        ("a VARCHAR(9)", 1, 3, "use STRING"),
        ("a INTERVAL", 1, 3, "Iceberg has none"),
        ("a STRUCT<b: INT", 1, 16, "expected '>'"),
        ("a STRUCT<>", 1, 10, "expected a column name"),
        ("a ARRAY INT", 1, 9, "expected '<'"),
        ("a MAP<INT, INT>", 1, 3, "keys of a MAP are STRING"),
        ("a DECIMAL(39,2)", 1, 3, "precision is 1 to 38"),
        ("a DECIMAL(5,6)", 1, 3, "scale at most that"),
        ("a INT NOT nil", 1, 11, "expected NULL"),
        ("a INT COMMENT b", 1, 15, "quoted text"),
        ("a INT, A STRING", 1, 8, "there twice"),
        ("a STRUCT<b: INT, B: INT>", 1, 18, "there twice"),
        ("kafka_offset BIGINT", 1, 1, "the platform adds itself"),
        ("`a b` INT", 1, 1, "rename it"),
        ("`a.b` INT", 1, 1, "rename it"),
        ("a INT; DROP", 1, 6, "expected ',' or the end"),
        ("a: INT", 1, 2, "expected a type"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(schema, line, column, problem):
    with pytest.raises(DdlError) as caught:
        parse(schema)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert problem in caught.value.problem


def test_kafkas_columns_are_reserved_only_at_the_top():
    assert parse("meta STRUCT<kafka_offset: BIGINT>")


def test_nesting_is_bounded():
    with pytest.raises(DdlError, match="nested deeper"):
        parse(f"a {'ARRAY<' * (MAX_DEPTH + 1)}INT{'>' * (MAX_DEPTH + 1)}")
