"""What an application file may still change once batches are there."""

from dataclasses import replace
from itertools import product

import pytest
from builders import spike

from spike_pipelines.adapters.iceberg_schema import check_extends, final_schema
from spike_pipelines.domain.binding import Binding, check_schema, check_unmoved
from spike_pipelines.domain.errors import InvalidSpec, SpecChanged
from spike_pipelines.domain.spike import Location

PLAIN = spike()
BOUND = Binding.of(PLAIN)
MOVES = {
    "topic": {"topic": "other"},
    "dataset.name": {"dataset": replace(PLAIN.dataset, name="other")},
    "staging": {"staging": Location("elsewhere", "staging")},
    "final": {"final": Location("lake", "elsewhere")},
}


@pytest.mark.parametrize(("key", "change"), MOVES.items(), ids=MOVES.keys())
def test_what_rows_are_bound_to_cannot_be_changed_and_the_way_out_is_named(key, change):
    with pytest.raises(SpecChanged, match=rf"^{key}: .* put .* back, or describe a spike of another name"):
        check_unmoved(replace(PLAIN, **change), BOUND)


def test_everything_else_may_change_and_without_rows_everything():
    check_unmoved(replace(PLAIN, version="2", filter="id > 0", max_offsets_per_trigger=9), BOUND)
    for change in MOVES.values():
        check_unmoved(replace(PLAIN, **change), None)


TYPES = [
    "BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DATE", "TIMESTAMP",
    "TIMESTAMP_NTZ", "STRING", "BINARY", "DECIMAL(9,2)", "DECIMAL(12,2)", "DECIMAL(12,3)",
    "ARRAY<INT>", "ARRAY<BIGINT>", "ARRAY<STRING>", "MAP<STRING,INT>", "MAP<STRING,DATE>",
    "STRUCT<a: INT>", "STRUCT<a: DATE, b: INT>", "STRUCT<A: INT>",
]  # fmt: skip


def allows(check, *arguments):
    try:
        check(*arguments)
    except (InvalidSpec, SpecChanged):
        return False
    return True


def test_a_schema_may_change_as_its_table_may():
    """For every pair of types, also nested ones: as the Iceberg table judges it."""
    for have, want in product(TYPES, TYPES):
        ours = allows(check_schema, spike(schema=f"x {want}"), [f"x {have}"])
        tables = allows(check_extends, "t", final_schema(f"x {have}"), final_schema(f"x {want}"))
        assert ours == tables, (have, want)


def test_columns_come_and_go_and_one_that_comes_back_has_its_type_of_before():
    check_schema(spike(schema="b STRING"), ["a INT, b STRING"])
    with pytest.raises(SpecChanged, match="column 'a' is INT and cannot become STRING"):
        check_schema(spike(schema="a STRING"), ["b STRING", "a INT, b STRING"])


def test_a_column_is_written_in_the_same_case():
    with pytest.raises(SpecChanged, match="'Id' is written 'id'"):
        check_schema(spike(schema="Id BIGINT"), ["id BIGINT"])
