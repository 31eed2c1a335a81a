"""The one place for a spike's own code: a Python function from DataFrame to DataFrame.

It gets the good records (the schema's columns and `kafka_partition`, `kafka_offset`, `kafka_timestamp`)
and gives one row for each, with the same columns.
"""

import importlib
from collections.abc import Callable
from typing import cast

from pyspark.sql import DataFrame

from spike_pipelines.domain.errors import InvalidSpec

Transform = Callable[[DataFrame], DataFrame]


def load_transform(reference: str) -> Transform:
    """`module:function`. Raises `InvalidSpec` naming the reference and what is missing."""
    module_name, _, function_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidSpec(f"transform {reference!r}: {module_name} cannot be imported: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InvalidSpec(f"transform {reference!r}: {module_name} has no function {function_name!r}")
    return cast("Transform", function)


def check_columns(before: DataFrame, after: DataFrame) -> None:
    """Raise `InvalidSpec` unless both have the same columns with the same types, in any order."""
    wanted = {(f.name, f.dataType.simpleString()) for f in before.schema.fields}
    found = {(f.name, f.dataType.simpleString()) for f in after.schema.fields}
    if wanted != found:
        missing = ", ".join(f"{name} {kind}" for name, kind in sorted(wanted - found)) or "none"
        more = ", ".join(f"{name} {kind}" for name, kind in sorted(found - wanted)) or "none"
        raise InvalidSpec(
            f"the transform must give the columns it gets; missing: {missing}; not in the schema: {more}. "
            "Put a new column into the spike's schema and let the transform fill it"
        )
