"""Clean-up of payout events."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  # the name everybody knows it by


def normalise(rows: DataFrame) -> DataFrame:
    """Currencies come as `eur`, ` EUR` and `EUR`: one of these reaches readers."""
    return rows.withColumn("currency", F.upper(F.trim("currency")))
