"""What becomes of each Kafka record, as Spark SQL: text in, text out, nothing runs here.

Columns of the platform itself begin with `__spike_`, so that they meet no column of a schema. The order
of `reasons` is the order of the rules: the first that holds names the dead letter. Rules are Spark's
own for JSON (`from_json`, PERMISSIVE): unknown fields are ignored, a number is accepted for a STRING
column. But a record is one object: Spark itself does not look at what follows, `_not_one_object` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from spike_pipelines.domain import ddl
from spike_pipelines.domain.registration import MAX_FUTURE

PARTITION, OFFSET, TIMESTAMP = "kafka_partition", "kafka_offset", "kafka_timestamp"
KAFKA_COLUMNS = (PARTITION, OFFSET, TIMESTAMP)

_LAST_INSTANT = "TIMESTAMP '9999-12-31 23:59:59.999999Z'"

REASON = "__spike_reason"
DETAIL = "__spike_detail"
KEPT = "__spike_kept"
HOUR = "__spike_hour"  # hours since 1970, of the timestamp the record is routed by
ROUTED = "__spike_routed"  # the Kafka timestamp where it is in range, else when the batch was planned
DECIDED = "__spike_decided"  # of a dead letter that is parsed again: the timestamp it was routed by then

_TOPIC, _KEY, _VALUE = "__spike_topic", "__spike_key", "__spike_value"
_TEXT_AT_SOURCE = "cast(value AS string)"
_TEXT = f"cast({_VALUE} AS string)"
_RECORD = "__spike_record"
_CORRUPT = "__spike_corrupt"


@dataclass(frozen=True, slots=True)
class Reason:
    """`holds` and `detail` are SQL expressions, the latter for people."""

    name: str
    holds: str
    detail: str | None = None


def quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def text_literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def instant_literal(moment: datetime) -> str:
    """A moment as a decimal of seconds, to compare with `cast(timestamp as decimal(20, 6))`.

    Not a TIMESTAMP literal: Spark writes that into the code it generates, and a moment that changes
    with each batch would have the whole stage compiled again for each batch.
    """
    return f"cast('{moment.astimezone(UTC).timestamp():.6f}' as decimal(20, 6))"


def steps(
    columns: tuple[ddl.Column, ...], start: datetime, planned_at: datetime, *, again: bool = False
) -> tuple[tuple[str, ...], ...]:
    """The projections to apply one after the other to the Kafka source's columns; the outcome has
    `KAFKA_COLUMNS`, `REASON`, `DETAIL`, `ROUTED`, `HOUR`, the schema's columns, and the raw record of
    dead letters. The same for every run over the same batch: `planned_at` stands in for a clock. `again`:
    the records have a column `DECIDED`, and what is still out of range stays where that says."""
    reasons = tuple(_reasons(columns, start, planned_at))
    planned = DECIDED if again else f"cast({instant_literal(planned_at)} AS timestamp)"
    return _parsed(columns, again=again), _judged(reasons, planned), _routed(columns, reasons)


def _parsed(columns: tuple[ddl.Column, ...], *, again: bool) -> tuple[str, ...]:
    schema = f"{ddl.render(_nullable(columns))}, {_CORRUPT} STRING"
    options = f"map('mode', 'PERMISSIVE', 'columnNameOfCorruptRecord', '{_CORRUPT}')"
    return (
        *((DECIDED,) if again else ()),
        f"partition AS {PARTITION}",
        f"offset AS {OFFSET}",
        f"timestamp AS {TIMESTAMP}",
        f"topic AS {_TOPIC}",
        f"key AS {_KEY}",
        f"value AS {_VALUE}",
        f"from_json({_TEXT_AT_SOURCE}, {text_literal(schema)}, {options}) AS {_RECORD}",
    )


def _judged(reasons: tuple[Reason, ...], otherwise: str) -> tuple[str, ...]:
    """Reason of a dead letter (null for a good record), and the timestamp the record is routed by: its
    own, or `otherwise`."""
    rules = " ".join(f"WHEN {r.holds} THEN '{r.name}'" for r in reasons)
    routed = f"CASE WHEN {reasons[0].holds} THEN {otherwise} ELSE {TIMESTAMP} END"
    return ("*", f"CASE {rules} END AS {REASON}", f"{routed} AS {ROUTED}")


def _routed(columns: tuple[ddl.Column, ...], reasons: tuple[Reason, ...]) -> tuple[str, ...]:
    dead = f"{REASON} IS NOT NULL"
    details = " ".join(f"WHEN '{r.name}' THEN {r.detail}" for r in reasons if r.detail)
    return (
        PARTITION,
        OFFSET,
        # Further ahead it is a dead letter, which somebody is to read.
        f"least({TIMESTAMP}, {_LAST_INSTANT}) AS {TIMESTAMP}",
        *(f"CASE WHEN {dead} THEN {raw} END AS {raw}" for raw in (_TOPIC, _KEY, _VALUE)),
        REASON,
        f"CASE {REASON} {details} END AS {DETAIL}",
        ROUTED,
        f"{hour_number(ROUTED)} AS {HOUR}",
        *(f"{_RECORD}.{quoted(c.name)} AS {quoted(c.name)}" for c in columns),
    )


def kept(predicate: str | None) -> str:
    """Whether a record becomes a final row: it is good, and the filter is true (not false, not null)."""
    passes = "true" if predicate is None else f"coalesce(({predicate}), false)"
    return f"({REASON} IS NULL AND {passes}) AS {KEPT}"


def transform_columns(columns: tuple[ddl.Column, ...]) -> tuple[str, ...]:
    """What a transform gets, and has to give."""
    return (*(quoted(c.name) for c in columns), *KAFKA_COLUMNS)


def after_transform() -> tuple[str, ...]:
    """The platform's columns, which the transform never sees, for the good records it gave."""
    return (f"cast(NULL AS string) AS {REASON}", f"{hour_number(TIMESTAMP)} AS {HOUR}")


def final_columns(columns: tuple[ddl.Column, ...], hour: str) -> tuple[str, ...]:
    return (*(quoted(c.name) for c in columns), *KAFKA_COLUMNS, f"{HOUR} AS {hour}")


def dead_letter_columns(hour: str) -> tuple[str, ...]:
    return (
        f"{_TOPIC} AS kafka_topic",
        *KAFKA_COLUMNS,
        f"{ROUTED} AS routed_timestamp",
        f"{_KEY} AS key",
        f"{_VALUE} AS value",
        f"{REASON} AS reason",
        f"{DETAIL} AS detail",
        f"{HOUR} AS {hour}",
    )


def _reasons(columns: tuple[ddl.Column, ...], start: datetime, planned_at: datetime) -> Iterator[Reason]:
    """In order; the first is the timestamp rule (design, 3.2), which decides the routing as well."""
    at = f"cast({TIMESTAMP} AS decimal(20, 6))"
    early, late = f"{at} < {instant_literal(start)}", f"{at} > {instant_literal(planned_at + MAX_FUTURE)}"
    too_early = text_literal(f"before the dataset's start, {start.astimezone(UTC).isoformat()}")
    detail = f"CASE WHEN {early} THEN {too_early} ELSE 'more than an hour ahead' END"
    yield Reason("timestamp_out_of_range", f"({early} OR {late})", detail)
    yield Reason("null_value", f"{_VALUE} IS NULL")
    yield Reason("empty_value", f"trim({_TEXT}) = ''")
    yield Reason("invalid_utf8", f"NOT is_valid_utf8({_TEXT})")
    unread = f"({_RECORD} IS NULL OR {_RECORD}.{_CORRUPT} IS NOT NULL)"
    yield Reason("malformed_json", f"({unread} AND try_parse_json({_TEXT}) IS NULL)")
    yield Reason("wrong_type", unread, _mistyped(columns))
    yield Reason("not_one_object", _not_one_object())
    names = count()
    strange = tuple(_out_of_years(columns, _RECORD, names))
    if strange:
        holds = " OR ".join(condition for _, condition in strange)
        yield Reason("value_out_of_range", f"({holds})", _listed(strange))
    missing = tuple(_required(columns, _RECORD, names))
    if missing:
        holds = " OR ".join(condition for _, condition in missing)
        yield Reason("null_in_required_column", f"({holds})", _listed(missing))


def _not_one_object() -> str:
    """Whether something follows the object that `from_json` made a row of: it reads no further.

    In a list of the text and a 0 there are two elements if it is one value, and not the head of a list (`}`
    ends it). `json_array_length` only counts tokens; what it cannot read (NaN, which `from_json` takes) is
    parsed.
    """
    both = f"concat('[', {_TEXT}, ',0]')"
    counted = f"json_array_length({both}) <=> 2"
    parsed = f"size(from_json({both}, 'ARRAY<STRING>')) <=> 2"
    ended = f"endswith(rtrim(' \\t\\n\\r', {_TEXT}), '}}')"
    return f"(NOT ({ended}) OR (NOT ({counted}) AND NOT ({parsed})))"


def _required(
    columns: tuple[ddl.Column, ...], parent: str, names: Iterator[int]
) -> Iterator[tuple[str, str]]:
    """(path, condition under which a NOT NULL column is null), nested ones included."""
    for column in columns:
        value = f"{parent}.{quoted(column.name)}"
        if not column.nullable:
            yield column.name, f"{value} IS NULL"
        for path, condition in _required_within(column.type, value, names):
            yield f"{column.name}{path}", f"({value} IS NOT NULL AND {condition})"


def _required_within(kind: ddl.Type, value: str, names: Iterator[int]) -> Iterator[tuple[str, str]]:
    match kind:
        case ddl.Struct(fields):
            for path, condition in _required(fields, value, names):
                yield f".{path}", condition
        case ddl.Array(element):
            yield from _required_of_each(element, value, "[]", names)
        case ddl.Map(_, inner):
            yield from _required_of_each(inner, f"map_values({value})", "{}", names)
        case _:
            return


def _required_of_each(
    kind: ddl.Type, values: str, mark: str, names: Iterator[int]
) -> Iterator[tuple[str, str]]:
    """A null element is no breach: Spark's DDL lets elements be null."""
    one = f"__spike_x{next(names)}"
    for path, condition in _required_within(kind, one, names):
        yield f"{mark}{path}", f"exists({values}, {one} -> {one} IS NOT NULL AND {condition})"


_YEARS = {  # what every reader knows: Python's datetime, and so pyiceberg and pandas, ends there
    ddl.Primitive.DATE: "DATE '0001-01-01' AND DATE '9999-12-31'",
    ddl.Primitive.TIMESTAMP: f"TIMESTAMP '0001-01-01 00:00:00Z' AND {_LAST_INSTANT}",
    ddl.Primitive.TIMESTAMP_NTZ: (
        "TIMESTAMP_NTZ '0001-01-01 00:00:00' AND TIMESTAMP_NTZ '9999-12-31 23:59:59.999999'"
    ),
}


def _out_of_years(
    columns: tuple[ddl.Column, ...], parent: str, names: Iterator[int]
) -> list[tuple[str, str]]:
    """(path, condition under which a date or time is outside the years 1 to 9999), nested ones included."""
    return [
        (f"{column.name}{path}", condition)
        for column in columns
        for path, condition in _out_of_years_within(column.type, f"{parent}.{quoted(column.name)}", names)
    ]


def _out_of_years_within(kind: ddl.Type, value: str, names: Iterator[int]) -> Iterator[tuple[str, str]]:
    match kind:
        case ddl.Struct(fields):
            for path, condition in _out_of_years(fields, value, names):
                yield f".{path}", condition
        case ddl.Array(element):
            yield from _any_out_of_years(element, value, "[]", names)
        case ddl.Map(_, inner):
            yield from _any_out_of_years(inner, f"map_values({value})", "{}", names)
        case ddl.Primitive() if kind in _YEARS:
            yield "", f"coalesce({value} NOT BETWEEN {_YEARS[kind]}, false)"
        case _:
            return


def _any_out_of_years(
    kind: ddl.Type, values: str, mark: str, names: Iterator[int]
) -> Iterator[tuple[str, str]]:
    one = f"__spike_x{next(names)}"
    for path, condition in _out_of_years_within(kind, one, names):
        yield f"{mark}{path}", f"coalesce(exists({values}, {one} -> {condition}), false)"


def _mistyped(columns: tuple[ddl.Column, ...]) -> str | None:
    """Names the top-level columns that the JSON has and the parser could not read."""
    candidates = tuple(
        (c.name, f"{_RECORD}.{quoted(c.name)} IS NULL AND get_json_object({_TEXT}, '$.{c.name}') IS NOT NULL")
        for c in columns
        if c.name.isidentifier()
    )
    return _listed(candidates) if candidates else None


def _listed(conditions: tuple[tuple[str, str], ...]) -> str:
    items = ", ".join(f"CASE WHEN {holds} THEN {text_literal(name)} END" for name, holds in conditions)
    return f"nullif(concat_ws(', ', {items}), '')"


def hour_number(timestamp: str) -> str:
    return f"cast(floor(unix_seconds({timestamp}) / 3600) AS int)"


def _nullable(columns: tuple[ddl.Column, ...]) -> tuple[ddl.Column, ...]:
    """Without NOT NULL and comments at the top: the parser is to read what is there."""
    return tuple(ddl.Column(c.name, c.type) for c in columns)
