"""Payouts by publisher and hour: rows of the dataset in, one Parquet file an hour out. Nothing of Dagster."""

import io
from datetime import datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("publisher_id", "currency", "state", "amount")
_BY = ["publisher_id", "currency"]
_SCHEMA = pa.schema(
    [
        ("hour", pa.timestamp("us", "UTC")),
        ("publisher_id", pa.int64()),
        ("currency", pa.string()),
        ("payouts", pa.int64()),
        ("amount", pa.decimal128(28, 4)),
        ("paid", pa.decimal128(28, 4)),
    ]
)


def report(payouts: pd.DataFrame, hour: datetime) -> pa.Table:
    """One row for each publisher and currency: how many payouts, their `amount`, and how much of it is
    `paid`. Amounts stay decimals: nobody is paid a float."""
    paid = payouts["amount"].where(payouts["state"] == "paid", other=payouts["amount"] * 0)
    grouped = payouts.assign(paid=paid).groupby(_BY, sort=True)
    summed = grouped.agg(payouts=("amount", "size"), amount=("amount", "sum"), paid=("paid", "sum"))
    return pa.Table.from_pandas(summed.reset_index().assign(hour=hour), _SCHEMA, preserve_index=False)


def as_parquet(table: pa.Table) -> bytes:
    body = io.BytesIO()
    pq.write_table(table, body)
    return body.getvalue()
