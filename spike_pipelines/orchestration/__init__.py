"""Dagster: sensors decide, runs act, checks judge, assets are what exists. Decorated functions stay thin."""
