"""The platform as a Dagster resource; S3 comes through dagster-aws."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg
from dagster_aws.s3 import S3Resource

from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.platform import Platform
from spike_pipelines.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class BoundedS3Resource(S3Resource):
    """dagster-aws's resource with this platform's timeouts, retries and pool: its own wait minutes for a
    store that does not answer, and a lease lasts 15 s."""

    def get_client(self) -> "S3Client":
        return connect(self.endpoint_url, region=self.region_name)


class DagsterPlatform(Platform):
    """Takes its S3 client from Dagster's own resource, so that it is configured in one place."""

    def __init__(self, settings: Settings, s3: S3Resource) -> None:
        super().__init__(settings)
        self._s3 = s3

    @cached_property
    def store(self) -> S3ObjectStore:
        return S3ObjectStore(self._s3.get_client())


class PlatformResource(dg.ConfigurableResource[DagsterPlatform]):
    """Reads `SPIKE_*` when it is used, not when definitions load."""

    s3: dg.ResourceDependency[S3Resource]

    def create_resource(self, _context: dg.InitResourceContext) -> DagsterPlatform:
        return DagsterPlatform(Settings.from_env(), self.s3)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[DagsterPlatform]:
        """Connections end with the tick or run: a code server lives for weeks and ticks every few seconds."""
        platform = self.create_resource(context)
        try:
            yield platform
        finally:
            platform.close()


def resources(settings: Settings) -> dict[str, object]:
    s3 = BoundedS3Resource(endpoint_url=settings.s3_endpoint)
    return {"s3": s3, "platform": PlatformResource(s3=s3)}
