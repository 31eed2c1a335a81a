"""Dagster's entry point: reads the application files, nothing else."""

from dagster import Definitions

from spike_pipelines.adapters.applications import fingerprint, read_applications
from spike_pipelines.examples.definitions import example_definitions
from spike_pipelines.orchestration.build import build
from spike_pipelines.settings import Settings

settings = Settings.from_env()
loaded = fingerprint(settings.applications_dir)  # first: what changes meanwhile is loaded again
applications = read_applications(settings.applications_dir)
defs = Definitions.merge(build(applications, settings, loaded), example_definitions(applications.spikes))
