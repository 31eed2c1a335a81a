"""The edges of the platform, as the domain speaks of them.

Each Protocol has one adapter for the real thing, an in-memory one beside it where tests need speed,
and one contract suite under `tests/contract` that both pass. Adapters raise `Transient` when the
other side did not answer or its answer is unknown, and the errors named here; nothing else on purpose.
"""

from spike_pipelines.domain.observed import DriverState, ObservedDriver, Recovery, Refusal
from spike_pipelines.ports.appender import Appender
from spike_pipelines.ports.applications import ApplicationCluster, Clues, Manifest
from spike_pipelines.ports.books import Books, CommittedSums, Coverage, SequenceBook, SwapBook
from spike_pipelines.ports.broker import Broker, FirstRecords, OffsetMirror, Survey, SurveyedTopic, Surveyor
from spike_pipelines.ports.catalog import Catalog, LiveFile, SnapshotCatalog
from spike_pipelines.ports.clock import Clock
from spike_pipelines.ports.cluster import Cluster
from spike_pipelines.ports.deployer import Deployed, Deployer
from spike_pipelines.ports.hours import (
    DatasetHours,
    HourBook,
    HoursLedger,
    HoursTransaction,
    HoursView,
    WrittenHour,
)
from spike_pipelines.ports.lag import LagLedger, LagView, Tally
from spike_pipelines.ports.ledger import Backlog, BatchRecord, DatasetState, HourReport, Ledger
from spike_pipelines.ports.rereading import (
    BackfillOrder,
    DeadLetterReader,
    KeepAlive,
    ReasonCount,
    Reparsed,
    Reparser,
    ReplayOrder,
    Rereader,
    Surveyed,
    SurveyOrder,
)
from spike_pipelines.ports.retention import Condemned, RetentionLedger, StagedFate
from spike_pipelines.ports.shelf import ApplicationShelf
from spike_pipelines.ports.store import ObjectInfo, ObjectStore, ParquetFooter, Upload
from spike_pipelines.ports.supervision import Specs, SupervisionLedger, SupervisionTransaction
from spike_pipelines.ports.swaps import SwapLedger, SwapTransaction
from spike_pipelines.ports.transaction import LedgerTransaction

__all__ = [
    "Appender",
    "ApplicationCluster",
    "ApplicationShelf",
    "BackfillOrder",
    "Backlog",
    "BatchRecord",
    "Books",
    "Broker",
    "Catalog",
    "Clock",
    "Clues",
    "Cluster",
    "CommittedSums",
    "Condemned",
    "Coverage",
    "DatasetHours",
    "DatasetState",
    "DeadLetterReader",
    "Deployed",
    "Deployer",
    "DriverState",
    "FirstRecords",
    "HourBook",
    "HourReport",
    "HoursLedger",
    "HoursTransaction",
    "HoursView",
    "KeepAlive",
    "LagLedger",
    "LagView",
    "Ledger",
    "LedgerTransaction",
    "LiveFile",
    "Manifest",
    "ObjectInfo",
    "ObjectStore",
    "ObservedDriver",
    "OffsetMirror",
    "ParquetFooter",
    "ReasonCount",
    "Recovery",
    "Refusal",
    "Reparsed",
    "Reparser",
    "ReplayOrder",
    "Rereader",
    "RetentionLedger",
    "SequenceBook",
    "SnapshotCatalog",
    "Specs",
    "StagedFate",
    "SupervisionLedger",
    "SupervisionTransaction",
    "Survey",
    "SurveyOrder",
    "Surveyed",
    "SurveyedTopic",
    "Surveyor",
    "SwapBook",
    "SwapLedger",
    "SwapTransaction",
    "Tally",
    "Upload",
    "WrittenHour",
]
