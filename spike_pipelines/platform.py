"""The real parts behind the ports, made from the environment's settings, each when first asked for.

pyiceberg and pandas are imported by those who use them: a recovery run waits for neither.
"""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from socket import gethostname
from typing import TYPE_CHECKING

from spike_pipelines.adapters.appender_probe import AppenderProbe
from spike_pipelines.adapters.applications import Applications, read_applications
from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.kafka_mirror import KafkaMirror
from spike_pipelines.adapters.kafka_survey import KafkaSurveyor
from spike_pipelines.adapters.ledger import SqlLedger
from spike_pipelines.adapters.processes import LocalProcesses
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.lag import LagReport
from spike_pipelines.domain.retention import RetentionTerms
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Cluster, Rereader
from spike_pipelines.services.audit import Auditor
from spike_pipelines.services.close import Closer
from spike_pipelines.services.drain import Drain, Terms
from spike_pipelines.services.fork import Forker
from spike_pipelines.services.observe import Observer
from spike_pipelines.services.operate import Operator
from spike_pipelines.services.project import Projector
from spike_pipelines.services.promote import LeaseTerms, Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.supervise import Supervisor
from spike_pipelines.services.swap import SWAP_LEASE_SECONDS
from spike_pipelines.settings import Settings

if TYPE_CHECKING:
    from spike_pipelines.adapters.iceberg import IcebergCatalog
    from spike_pipelines.adapters.kubernetes import KubernetesCluster
    from spike_pipelines.services.backfill import Backfiller
    from spike_pipelines.services.deep_audit import DeepAuditor
    from spike_pipelines.services.replay import Replayer
    from spike_pipelines.services.retain import Retainer
    from spike_pipelines.services.rollout import Deployment
    from spike_pipelines.services.supervise_applications import ApplicationSupervisor
    from spike_pipelines.services.swap import Swapper
    from spike_pipelines.services.where import Finder

_CONNECTIONS = 64  # kept to the object store; more are made where more is asked at once


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Platform:
    """One process's view of the platform. Safe to use from several threads once a part is made."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()

    @cached_property
    def applications(self) -> Applications:
        """A broken file is told where its spike is shown; the other spikes go on."""
        return read_applications(self.settings.applications_dir)

    @property
    def spikes(self) -> Mapping[str, Spike]:
        return self.applications.spikes

    def close(self) -> None:
        """Give back the connections of the parts that were made. Kafka's have a thread each, which would
        go on for ever."""
        for name in ("backfiller", "surveyor", "mirror", "broker", "kubernetes", "ledger"):
            if (part := self.__dict__.pop(name, None)) is not None:
                part.close()

    @cached_property
    def ledger(self) -> SqlLedger:
        return SqlLedger(self.settings.require("ledger_url"))

    @cached_property
    def broker(self) -> KafkaBroker:
        return KafkaBroker(self.settings.require("kafka_bootstrap"))

    @cached_property
    def surveyor(self) -> KafkaSurveyor:
        return KafkaSurveyor(self.settings.require("kafka_bootstrap"))

    @cached_property
    def mirror(self) -> KafkaMirror:
        return KafkaMirror(self.settings.require("kafka_bootstrap"))

    @cached_property
    def store(self) -> S3ObjectStore:
        return S3ObjectStore(connect(self.settings.s3_endpoint, pool=_CONNECTIONS))

    @cached_property
    def catalog(self) -> "IcebergCatalog":
        from spike_pipelines.adapters.iceberg import IcebergCatalog  # noqa: PLC0415

        return IcebergCatalog.connect(self.settings)

    @cached_property
    def cluster(self) -> Cluster:
        return self.kubernetes if self.settings.cluster == "kubernetes" else LocalProcesses(self.settings)

    @cached_property
    def kubernetes(self) -> "KubernetesCluster":
        from spike_pipelines.adapters.kubernetes import Api, KubernetesCluster  # noqa: PLC0415

        return KubernetesCluster(Api.connect(), self.settings.namespace)

    @cached_property
    def supervisor(self) -> "Supervisor | ApplicationSupervisor":
        appender = AppenderProbe(self.settings.require("appender_url"))
        if self.settings.cluster == "kubernetes":
            from spike_pipelines.services.supervise_applications import ApplicationSupervisor  # noqa: PLC0415

            return ApplicationSupervisor(
                self.ledger,
                self.kubernetes,
                appender,
                self.broker,
                self.spikes,
                self.settings.on_demand_nodes,
            )
        window = timedelta(seconds=self.settings.recovery_window_seconds)
        return Supervisor(self.ledger, self.cluster, appender, self.broker, self.spikes, window)

    @cached_property
    def observer(self) -> Observer:
        return Observer(self.ledger, self.surveyor, self.cluster, self.spikes, self.mirror)

    @cached_property
    def closer(self) -> Closer:
        return Closer(self.ledger, self.broker, self.surveyor, self.spikes)

    @cached_property
    def auditor(self) -> Auditor:
        return Auditor(self.ledger, self.broker, self.store, self.catalog, self.spikes)

    @cached_property
    def deep_auditor(self) -> "DeepAuditor":
        from spike_pipelines.adapters.record_reader import S3RecordReader  # noqa: PLC0415
        from spike_pipelines.services.deep_audit import DeepAuditor  # noqa: PLC0415

        return DeepAuditor(self.ledger, S3RecordReader(self.settings.s3_endpoint), self.spikes)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self.ledger, self.catalog, self.store)

    @cached_property
    def operator(self) -> Operator:
        return Operator(self.ledger, self.broker, self.store)

    @cached_property
    def projector(self) -> Projector:
        return Projector(self.ledger, self.catalog, self.publisher)

    @cached_property
    def finder(self) -> "Finder":
        from spike_pipelines.adapters.record_reader import S3RecordReader  # noqa: PLC0415
        from spike_pipelines.services.where import Finder  # noqa: PLC0415

        return Finder(self.ledger, self.broker, S3RecordReader(self.settings.s3_endpoint), self.spikes)

    @cached_property
    def swapper(self) -> "Swapper":
        from spike_pipelines.services.swap import Swapper  # noqa: PLC0415

        terms = LeaseTerms(f"swap on {gethostname()} pid {os.getpid()}", SWAP_LEASE_SECONDS)
        return Swapper(self.ledger, Promoter(self.ledger, self.store, self.catalog, terms))

    @cached_property
    def backfiller(self) -> "Backfiller":
        from spike_pipelines.services.backfill import Backfiller  # noqa: PLC0415

        return Backfiller(self.ledger, self.swapper, self.broker, self._rereader())

    def _rereader(self) -> Rereader:
        if self.settings.cluster == "kubernetes":
            from spike_pipelines.adapters.kubernetes.rereader import KubernetesRereader  # noqa: PLC0415

            api, namespace = self.kubernetes.api, self.settings.namespace
            return KubernetesRereader(api, namespace, self.store, self.spikes)
        from spike_pipelines.adapters.backfill_job import SparkRereader  # noqa: PLC0415

        return SparkRereader(self.settings)

    @cached_property
    def forker(self) -> Forker:
        return Forker(self.ledger, self.broker)

    @cached_property
    def replayer(self) -> "Replayer":
        from spike_pipelines.adapters.dead_letters import S3DeadLetterReader  # noqa: PLC0415
        from spike_pipelines.adapters.replay_job import SparkReparser  # noqa: PLC0415
        from spike_pipelines.services.replay import Replayer  # noqa: PLC0415

        reader = S3DeadLetterReader(self.settings.s3_endpoint)
        return Replayer(self.ledger, self.swapper, reader, SparkReparser(self.settings))

    @cached_property
    def retainer(self) -> "Retainer":
        from spike_pipelines.services.retain import Retainer  # noqa: PLC0415

        terms = RetentionTerms(
            grace=timedelta(hours=self.settings.retention_grace_hours),
            snapshots=timedelta(hours=self.settings.retention_snapshot_hours),
            keep_snapshots=self.settings.retention_keep_snapshots,
        )
        return Retainer(self.ledger, self.store, self.catalog, self.spikes, terms)

    def deployment(self, tell: Callable[[str], None]) -> "Deployment":
        """`tell` gets a line whenever something else is waited for."""
        from spike_pipelines.adapters.helm import HelmReleases  # noqa: PLC0415
        from spike_pipelines.adapters.kubernetes.shelf import ConfigMapShelf  # noqa: PLC0415
        from spike_pipelines.services.rollout import Deployment  # noqa: PLC0415

        settings = self.settings

        def lag(spike: Spike) -> LagReport:
            alone = {spike.name: spike}
            return Observer(self.ledger, self.surveyor, self.kubernetes, alone).lag()[spike.name]

        return Deployment(
            ledger=self.ledger,
            cluster=self.kubernetes,
            deployer=HelmReleases(settings.namespace, settings.chart, settings.chart_values),
            shelf=ConfigMapShelf(self.kubernetes.api, settings.applications_config_map),
            lag=lag,
            tell=tell,
            wait=time.sleep,
        )

    def drain(self, holder: str, terms: Terms | None = None, run_id: str | None = None) -> Drain:
        """`holder` names the run in its leases; `run_id` is kept with commits."""
        promoter = Promoter(self.ledger, self.store, self.catalog, LeaseTerms(holder, run_id=run_id))
        return Drain(
            ledger=self.ledger,
            promoter=promoter,
            publisher=self.publisher,
            spikes=self.spikes,
            clock=SystemClock(),
            terms=terms or Terms(),
            holder=holder,
            mirror=self.mirror,
        )
