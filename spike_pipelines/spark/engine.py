"""The Spark engine: one streaming query for each epoch, and what happens in each micro-batch."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from spike_pipelines.domain.batch import NewBatch
from spike_pipelines.domain.epochs import Phase
from spike_pipelines.domain.errors import InvariantBroken, SpikeError, Transient
from spike_pipelines.domain.offsets import total
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.life import Register, summary
from spike_pipelines.driver.offsetlog import PlannedBatch, planned_ranges, read_planned
from spike_pipelines.driver.pace import Pace
from spike_pipelines.driver.staging import new_attempt, staged_files
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.ports import ObjectStore
from spike_pipelines.spark.batch import Plan, classified, counted, write
from spike_pipelines.spark.config import checkpoint_root, fetch_bytes, kafka_source
from spike_pipelines.spark.environment import Environment
from spike_pipelines.spark.progress import measured
from spike_pipelines.spark.session import memory_of
from spike_pipelines.wire import EpochGrant, PartitionOffset

log = logging.getLogger(__name__)

POLL_SECONDS = 1  # whole seconds, says PySpark
QUERY = "live"  # its name in Spark's metrics, the same over restarts


class SparkEngine:
    """Implements `driver.life.Engine`.

    `spark` gives the session, and starts it the first time: by then an epoch is open, so that heartbeats
    tell a slow start from a driver that hangs.
    """

    def __init__(
        self,
        spark: Callable[[], SparkSession],
        spike: Spike,
        env: Environment,
        store: ObjectStore,
        plan: Plan,
    ) -> None:
        self._spark = spark
        self._spike = spike
        self._env = env
        self._store = store
        self._plan = plan
        self._pace = Pace(
            min(spike.max_offsets_per_trigger, env.max_offsets_per_trigger or spike.max_offsets_per_trigger)
        )

    def run(self, grant: EpochGrant, register: Register, board: VitalsBoard) -> None:
        checkpoint = fresh_checkpoint(checkpoint_root(self._env, self._spike), grant)
        batches = MicroBatches(
            self._spike,
            self._plan,
            self._store,
            grant=grant,
            checkpoint=checkpoint,
            register=register,
            board=board,
        )
        query = self._start(grant, checkpoint, batches)
        board.phase(Phase.READING)
        try:
            watch(query, board)
        except Exception as error:
            raise batches.error or error from error
        finally:
            self._pace = self._pace.after(
                batches.error, registered=batches.registered, offsets=batches.offsets
            )
            query.stop()
            shutil.rmtree(checkpoint, ignore_errors=True)

    def _start(self, grant: EpochGrant, checkpoint: Path, batches: "MicroBatches") -> StreamingQuery:
        log.info("epoch %d: reading %s from %s", grant.epoch, self._spike.topic, starting_offsets(grant))
        most = self._pace.max_offsets(len(grant.offsets))
        if self._pace.limit is not None:
            log.warning("reading at most %d offsets at once: the last batch was too large", most)
        fetch = fetch_bytes(memory_of(self._spike), len(grant.offsets))
        options = kafka_source(self._spike, self._env, starting_offsets(grant), max_offsets=most, fetch=fetch)
        records = self._spark().readStream.format("kafka").options(**options).load()
        return (
            records.writeStream.queryName(QUERY)
            .foreachBatch(batches.process)
            .option("checkpointLocation", checkpoint.as_uri())
            .trigger(processingTime=f"{int(self._spike.trigger.total_seconds() * 1000)} milliseconds")
            .start()
        )


class BatchFailed(SpikeError):
    """Tells Spark to end the query; what happened is in `MicroBatches.error`."""


class MicroBatches:
    """The batches of one epoch, in order. `error` is what ended them, `registered` whether any was,
    `offsets` how many the last one had."""

    def __init__(
        self,
        spike: Spike,
        plan: Plan,
        store: ObjectStore,
        *,
        grant: EpochGrant,
        checkpoint: Path,
        register: Register,
        board: VitalsBoard,
    ) -> None:
        self._spike = spike
        self._plan = plan
        self._store = store
        self._grant = grant
        self._checkpoint = checkpoint
        self._register = register
        self._board = board
        self._topic_id = topic_id(grant, spike.topic)
        self._ends = {o.partition: o.offset for o in grant.offsets}
        self.error: Exception | None = None
        self.registered = False
        self.offsets = 0

    def process(self, records: DataFrame, batch_id: int) -> None:
        """Spark's callback. Its error goes to Spark in a few words only: Spark searches the text with
        regular expressions that overflow the stack on a long trace, and the query would hang."""
        try:
            self._process(records, batch_id)
        except Exception as error:  # noqa: BLE001 `run` raises it
            self.error = error
        if self.error is not None:
            raise BatchFailed(type(self.error).__name__)

    def _process(self, records: DataFrame, batch_id: int) -> None:
        planned = read_planned(self._checkpoint, batch_id, self._spike.topic)
        self._board.phase(Phase.STAGING, batch_started_at=planned.planned_at)
        batch = self._staged(records, batch_id, planned)
        if batch is not None:
            self.offsets = total(batch.ranges)
            self._register(batch)
            self.registered = True
        self._ends = dict(planned.ends)
        self._board.read(self._read_offsets())
        self._board.phase(Phase.READING)

    def _staged(self, records: DataFrame, batch_id: int, planned: PlannedBatch) -> NewBatch | None:
        """The batch, written; None if no partition moved."""
        ranges = planned_ranges(self._spike.topic, self._topic_id, self._ends, planned.ends)
        if not ranges:
            return None
        prefix, attempt = self._grant.staging_prefix, new_attempt(batch_id)
        bucket = self._spike.staging.bucket
        try:
            with classified(records, self._plan, planned.planned_at) as rows:
                read, hours = counted(rows)
                write(rows, self._plan, hours, f"s3a://{bucket}/{prefix}{attempt}")
        except (Py4JError, PySparkException) as error:
            place = f"reading {self._spike.topic} and staging to s3://{bucket}/{prefix}"
            raise Transient(f"{place}: {summary(error)}") from error
        files = staged_files(self._store, bucket, prefix, attempt) if hours else ()
        return NewBatch(ranges, files, read, hours, self._spike.version)

    def _read_offsets(self) -> list[PartitionOffset]:
        return [
            PartitionOffset(topic=self._spike.topic, topic_id=self._topic_id, partition=index, offset=end)
            for index, end in sorted(self._ends.items())
        ]


def watch(query: StreamingQuery, board: VitalsBoard) -> None:
    """Until the driver is to stop, or the query fails. A query that waits for data or for its trigger
    has read Kafka without an error: what was wrong before is over. Where neither its status nor its
    progress moves, or the JVM does not answer, nothing is said: then the supervisor hears how long."""
    before = None
    while not board.stop.is_set():
        if query.awaitTermination(POLL_SECONDS):
            raise InvariantBroken("the streaming query ended without an error and without being asked to")
        status, progress = query.status, query.lastProgress
        waits = status["message"].startswith("Waiting")
        if waits or (status, progress and progress.timestamp) != before:
            board.alive()
        if progress:
            board.progressed(measured(progress))
        before = (status, progress and progress.timestamp)
        if waits and board.now.phase is Phase.READING and board.now.problem:
            board.well()


def starting_offsets(grant: EpochGrant) -> str:
    """Spark's `startingOffsets`: exactly the grant's offsets, of every partition."""
    found: dict[str, dict[str, int]] = {}
    for offset in grant.offsets:
        found.setdefault(offset.topic, {})[str(offset.partition)] = offset.offset
    return json.dumps(found, sort_keys=True)


def topic_id(grant: EpochGrant, topic: str) -> str:
    ids = {o.topic_id for o in grant.offsets if o.topic == topic}
    if len(ids) != 1:
        raise InvariantBroken(
            f"epoch {grant.epoch}: expected offsets of one topic {topic}, found ids {sorted(ids)}"
        )
    return ids.pop()


def fresh_checkpoint(root: Path, grant: EpochGrant) -> Path:
    """An empty directory named by the epoch. Those of older epochs go: a newer one was granted. One of
    a newer epoch stays: then this driver is the one that is fenced, and does not know it yet."""
    checkpoint = root / f"{grant.epoch:09d}-{grant.nonce[:16]}"
    checkpoint.mkdir(parents=True)
    for other in root.iterdir():
        if other.name < checkpoint.name:
            shutil.rmtree(other, ignore_errors=True)
    return checkpoint
