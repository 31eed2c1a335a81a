"""The Spark engine of a driver: `python -m spike_pipelines.spark APPLICATION.yaml`."""
