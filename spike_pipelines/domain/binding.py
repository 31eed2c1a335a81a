"""What a spike's rows in the ledger are bound to, and so what its application file cannot change any more.

Committed files lie at one place and belong to one dataset, offsets to one topic, staged files are below one
prefix. A file that names others would leave what is there without an owner.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from spike_pipelines.domain.ddl import Array, Column, Decimal, Map, Primitive, Struct, Type, parse
from spike_pipelines.domain.errors import SpecChanged
from spike_pipelines.domain.spike import Location, Spike


@dataclass(frozen=True, slots=True)
class Binding:
    """What a spike was opened with. `schema` is Spark DDL."""

    topic: str
    dataset: str
    staging: Location
    final: Location
    schema: str

    @classmethod
    def of(cls, spike: Spike) -> "Binding":
        return cls(spike.topic, spike.dataset.name, spike.staging, spike.final, spike.schema)


@dataclass(frozen=True, slots=True)
class Written:
    """With what a batch was written: its application's version, and the schema (DDL) that it was registered
    with; None for one that is older than this was written down."""

    version: str
    schema: str | None


def schema_of(spike: Spike, written: Written) -> str:
    """The schema of a batch's files, whatever this process's application file says by now. A file of the same
    version is the one that the batch was written with."""
    return spike.schema if written.version == spike.version else written.schema or spike.schema


def check_unmoved(spike: Spike, bound: Binding | None) -> None:
    """Raise `SpecChanged` if the spike's file names another place than its rows are bound to; None: it has
    none that would be left behind."""
    if bound is None:
        return
    places = (
        ("topic", bound.topic, spike.topic),
        ("dataset.name", bound.dataset, spike.dataset.name),
        ("staging", bound.staging.uri(), spike.staging.uri()),
        ("final", bound.final.uri(), spike.final.uri()),
    )
    for key, before, now in places:
        if before != now:
            raise SpecChanged(
                f"{key}: spike {spike.name} has batches or files with {before}, its application file says "
                f"{now}, which would leave them behind: put {before} back, or describe a spike of another "
                f"name (`spike backfill {spike.name} --as NEW` reads its topic again into a new one)"
            )


def check_schema(spike: Spike, schemas: Iterable[str]) -> None:
    """Raise `SpecChanged`, naming the column, unless the spike's schema extends every one that its batches
    were written with: their table has those columns for ever."""
    for schema in schemas:
        if problem := _struct_problem("", parse(schema), parse(spike.schema)):
            raise SpecChanged(
                f"schema: {problem} in spike {spike.name}'s table: keep the type, or give the new one "
                "another name"
            )


_WHOLE = (Primitive.TINYINT, Primitive.SMALLINT, Primitive.INT, Primitive.BIGINT)
# Either may follow the other: the table takes the wider one, as Iceberg promotes.
_FAMILIES = (_WHOLE, (Primitive.FLOAT, Primitive.DOUBLE), (Primitive.STRING, Primitive.BINARY))


def _struct_problem(path: str, have: Iterable[Column], want: Iterable[Column]) -> str | None:
    old = {column.name.lower(): column for column in have}
    for column in want:
        known = old.get(column.name.lower())
        if known is None:
            continue
        name = f"{path}{column.name}"
        if known.name != column.name:
            return f"column '{name}' is written '{path}{known.name}'"
        if problem := _type_problem(name, known.type, column.type):
            return problem
    return None


def _type_problem(name: str, have: Type, want: Type) -> str | None:
    match have, want:
        case Struct(before), Struct(now):
            return _struct_problem(f"{name}.", before, now)
        case Array(before), Array(now):
            return _type_problem(f"{name}.element", before, now)
        case Map(_, before), Map(_, now):
            return _type_problem(f"{name}.value", before, now)
        case Decimal(_, before), Decimal(_, now) if before == now:
            return None
        case Primitive(), Primitive() if have == want or any({have, want} <= {*f} for f in _FAMILIES):
            return None
    return f"column '{name}' is {have} and cannot become {want}"
