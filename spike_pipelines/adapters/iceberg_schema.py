"""The columns of a spike's tables, as Iceberg has them.

Every column is optional: what a record lacked is null, and Parquet that Spark wrote says so of all of them.
"""

from collections.abc import Iterable
from itertools import count
from typing import assert_never

from pyiceberg.exceptions import ResolveError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids, promote
from pyiceberg.transforms import HourTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from spike_pipelines.domain.ddl import Array, Column, Decimal, Map, Primitive, Struct, Type, parse
from spike_pipelines.domain.errors import InvalidSpec

FINAL_TIME = "kafka_timestamp"
DEAD_LETTER_TIME = "routed_timestamp"  # the record's own timestamp may be the reason it is dead

_PRIMITIVES: dict[Primitive, IcebergType] = {
    Primitive.BOOLEAN: BooleanType(),
    Primitive.TINYINT: IntegerType(),
    Primitive.SMALLINT: IntegerType(),
    Primitive.INT: IntegerType(),
    Primitive.BIGINT: LongType(),
    Primitive.FLOAT: FloatType(),
    Primitive.DOUBLE: DoubleType(),
    Primitive.DATE: DateType(),
    Primitive.TIMESTAMP: TimestamptzType(),
    Primitive.TIMESTAMP_NTZ: TimestampType(),
    Primitive.STRING: StringType(),
    Primitive.BINARY: BinaryType(),
}
_KAFKA = (
    Column("kafka_partition", Primitive.INT),
    Column("kafka_offset", Primitive.BIGINT),
    Column("kafka_timestamp", Primitive.TIMESTAMP),
)
DEAD_LETTER_COLUMNS = (
    Column("kafka_topic", Primitive.STRING),
    *_KAFKA,
    Column(DEAD_LETTER_TIME, Primitive.TIMESTAMP),
    Column("key", Primitive.BINARY),
    Column("value", Primitive.BINARY),
    Column("reason", Primitive.STRING),
    Column("detail", Primitive.STRING),
)


def final_schema(ddl: str) -> Schema:
    """The spike's own columns and then where each record came from. Raises `InvalidSpec`."""
    return _schema((*parse(ddl), *_KAFKA))


def dead_letter_schema() -> Schema:
    return _schema(DEAD_LETTER_COLUMNS)


def hour_spec(schema: Schema, *, dead_letters: bool) -> PartitionSpec:
    source = schema.find_field(DEAD_LETTER_TIME if dead_letters else FINAL_TIME)
    return PartitionSpec(
        PartitionField(source.field_id, 1000, HourTransform(), f"{source.name}_hour"), spec_id=0
    )


def check_extends(table: str, have: Schema, want: Schema) -> None:
    """Raise `InvalidSpec` unless a table with `have` can take `want` by adding and widening columns.

    Columns that `want` no longer names stay, and are null from then on.
    """
    _check_struct(table, "", have.as_struct(), want.as_struct())


def _check_struct(table: str, path: str, have: StructType, want: StructType) -> None:
    for field in want.fields:
        name = f"{path}{field.name}"
        old = have.field_by_name(field.name, case_sensitive=False)
        if old is None:
            continue
        if old.name != field.name:
            raise InvalidSpec(
                f"schema: column '{name}' is '{path}{old.name}' in table {table}: write it the same way"
            )
        _check_type(table, name, old.field_type, field.field_type)


def _check_type(table: str, name: str, have: IcebergType, want: IcebergType) -> None:
    match have, want:
        case StructType(), StructType():
            _check_struct(table, f"{name}.", have, want)
        case ListType(), ListType():
            _check_type(table, f"{name}.element", have.element_type, want.element_type)
        case MapType(), MapType():
            _check_type(table, f"{name}.value", have.value_type, want.value_type)
        case _ if not (have == want or _promotes(want, have) or _promotes(have, want)):
            raise InvalidSpec(
                f"schema: column '{name}' is {have} in table {table} and cannot become {want}: "
                "keep the type, or give the new one another name"
            )


def _promotes(old: IcebergType, new: IcebergType) -> bool:
    if isinstance(old, DecimalType) and isinstance(new, DecimalType) and old.scale != new.scale:
        return False  # pyiceberg 0.12 compares the old scale with itself
    try:
        promote(old, new)
    except ResolveError:
        return False
    return True


def _schema(columns: Iterable[Column]) -> Schema:
    return assign_fresh_schema_ids(Schema(*_fields(columns, count(1))))


def _fields(columns: Iterable[Column], ids: "count[int]") -> tuple[NestedField, ...]:
    return tuple(
        NestedField(next(ids), column.name, _type(column.type, ids), required=False, doc=column.comment)
        for column in columns
    )


def _type(kind: Type, ids: "count[int]") -> IcebergType:
    match kind:
        case Primitive():
            return _PRIMITIVES[kind]
        case Decimal(precision, scale):
            return DecimalType(precision, scale)
        case Array(element):
            return ListType(next(ids), _type(element, ids), element_required=False)
        case Map(key, value):
            return MapType(next(ids), _type(key, ids), next(ids), _type(value, ids), value_required=False)
        case Struct(fields):
            return StructType(*_fields(fields, ids))
        case _:
            assert_never(kind)
