"""Two readers, pyiceberg and Spark, while batches, rewinds and swaps go on: each snapshot that either of them
sees has exactly the files and rows that the ledger says were live at its sequence number."""

import itertools
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import pytest
from pyspark.sql import SparkSession
from spark_jvm import own_jvm
from sqlalchemy.engine import make_url
from test_operate import ask, operator, to
from test_swap import planned, swapper
from test_swap_real import producing, real  # noqa: F401 - `real` is a fixture

from spike_pipelines.spark.config import S3A
from spike_pipelines.stack.chaos.reader import Reader
from spike_pipelines.stack.jars import iceberg_jars, spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark, pytest.mark.timeout(600)]

ROUNDS = 2
BATCH = 7  # records: 4 final ones in two hours, 2 dead letters, 1 filtered


@pytest.fixture(scope="module")
def session(postgres, s3):
    """As docs/reading.md has it."""
    url = make_url(postgres.url("iceberg"))
    settings = {
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.spikes": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.spikes.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "spark.sql.catalog.spikes.uri": f"jdbc:postgresql://{url.host}:{url.port}/{url.database}",
        "spark.sql.catalog.spikes.jdbc.user": url.username,
        "spark.sql.catalog.spikes.jdbc.password": url.password,
        "spark.sql.catalog.spikes.warehouse": "s3://spike-lake/warehouse",
        "spark.sql.catalog.spikes.cache-enabled": "false",
        "spark.hadoop.fs.s3.impl": S3A["impl"],
        "spark.hadoop.fs.s3a.endpoint": s3.endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.access.key": s3.access_key,
        "spark.hadoop.fs.s3a.secret.key": s3.secret_key,
        "spark.jars": ",".join(str(jar) for jar in (*spark_jars(), *iceberg_jars())),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "700m",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
    }
    builder = SparkSession.builder.master("local[1]").config(map=settings)
    with own_jvm(builder.getOrCreate) as session:
        yield session


@dataclass(slots=True)
class SparkReader(Reader):
    """The same checks; what a snapshot shows is counted by a query, file by file."""

    session: SparkSession = field(kw_only=True)

    def _files(self, name, table, snapshot) -> Mapping[str, int]:
        then = f"spikes.spikes.{name} VERSION AS OF {snapshot.snapshot_id}"
        rows = self.session.sql(f"SELECT _file, count(*) FROM {then} GROUP BY _file").collect()
        return dict(map(tuple, rows))


@dataclass
class Writer:
    """Everything that changes what readers see, one after the other, each shown by a snapshot of its own."""

    world: object
    spike: object
    names: itertools.count = field(default_factory=itertools.count)
    done: Counter = field(default_factory=Counter)

    def run(self) -> None:
        for _ in range(ROUNDS):
            driver = self.world.driver(self.spike, f"driver-{next(self.names)}")
            for _ in range(3):
                driver.stage(4, 2, 1)
                self._show("batch")
            swap = planned(self.world, self.spike)
            swapper(self.world).finish(
                self.spike, swap.number, producing(self.world, self.spike, final=self.done["swap"] + 1)
            )
            self._show("swap")
            driver.stage(4, 2, 1)
            self._show("batch")
            back = self._end() - BATCH
            operator(self.world).rewind(self.spike, to(self.spike, back), ask())
            self._show("rewind")

    def _end(self) -> int:
        (position,) = self.world.ledger.all_positions()[self.spike.name].values()
        return position.committed_end

    def _show(self, what: str) -> None:
        self.world.settle(self.spike)
        self.done[what] += 1


@contextmanager
def beside(work):
    """`work` in a thread of its own, told when to stop; what it raised is raised here."""
    stop, raised = Event(), []

    def run():
        try:
            work(stop)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]


def look_on(reader):
    def work(stop):
        while not stop.is_set():
            reader.look()

    return work


def test_each_snapshot_that_pyiceberg_and_spark_see_is_the_ledger_at_its_sequence_number(session, real):  # noqa: F811
    spike = real.spike(records=1000)
    writer = Writer(real, spike)
    parts = (real.catalog, real.ledger, real.spikes)
    other, spark = Reader(*parts), SparkReader(*parts, session=session)
    with beside(look_on(other)), beside(lambda _: writer.run()) as writing:
        while writing.is_alive():
            spark.look()
    other.look()
    spark.look()
    assert writer.done == {"batch": 4 * ROUNDS, "swap": ROUNDS, "rewind": ROUNDS}
    assert (other.partial, spark.partial) == ([], [])
    tables = 2
    assert min(other.snapshots, spark.snapshots) >= tables * writer.done.total()
    assert spark.looks > 2, "it looked while others wrote"


def test_a_reader_notices_a_snapshot_that_is_not_the_ledger(session, real):  # noqa: F811
    """Or the test above could not fail."""
    spike = real.spike(records=100)
    driver = real.driver(spike)
    driver.stage(4, 2, 1)
    real.settle(spike)
    real.execute("UPDATE files SET rows = rows + 1")
    parts = (real.catalog, real.ledger, real.spikes)
    for reader in (Reader(*parts), SparkReader(*parts, session=session)):
        reader.look()
        assert len(reader.partial) == 2, "of both tables"
