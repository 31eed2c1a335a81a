"""Dagster's entry point: reads the application files, nothing else."""

from dagster import Definitions

from spike_pipelines.adapters.applications import read_applications
from spike_pipelines.examples.definitions import example_definitions
from spike_pipelines.orchestration.build import build
from spike_pipelines.settings import Settings

settings = Settings.from_env()
applications = read_applications(settings.applications_dir)
defs = Definitions.merge(build(applications, settings), example_definitions(applications.spikes))
