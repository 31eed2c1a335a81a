"""Dagster's entry point: reads the application files, nothing else."""

from spike_pipelines.adapters.applications import read_applications
from spike_pipelines.orchestration.build import build
from spike_pipelines.settings import Settings

settings = Settings.from_env()
defs = build(read_applications(settings.applications_dir), settings)
