"""Functions that application files name under `transform`, applied by the driver to the parsed rows.

A transform takes a DataFrame and gives one back with the same columns and one row for each row (the
driver counts). It sees the Kafka columns too and must leave them alone. It runs again when a batch
is retried, so it must give the same answer for the same row.
"""
