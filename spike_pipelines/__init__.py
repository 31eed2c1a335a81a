"""Kafka topics to S3 exactly once, with Spark, kept alive by Dagster."""

__version__ = "0.1.0"
