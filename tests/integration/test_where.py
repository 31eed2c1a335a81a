"""Where a record came to, over real PostgreSQL, S3 and Iceberg; a rewind as readers see it."""

import io
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR, World

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.adapters.record_reader import S3RecordReader
from spike_pipelines.adapters.s3 import S3ObjectStore
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.errors import Refused, Transient
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.rewind import Earliest, ToOffsets
from spike_pipelines.domain.spike import Dataset, Location
from spike_pipelines.services.audit import Auditor
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.promote import LeaseTerms, Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.register import EpochToken, staging_prefix
from spike_pipelines.services.where import Fate, Finder
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

BUCKET = "spike-lake"


def body(kind, offsets):
    """Rows of partition 0 as Spark writes them."""
    times = pa.array([HOUR + timedelta(seconds=o) for o in offsets], pa.timestamp("us", "UTC"))
    columns = {
        "kafka_partition": pa.array([0] * len(offsets), pa.int32()),
        "kafka_offset": pa.array(offsets, pa.int64()),
        "kafka_timestamp": times,
    }
    if kind is FileKind.FINAL:
        columns = {"id": pa.array(offsets, pa.int64()), **columns}
    else:
        columns |= {"routed_timestamp": times, "reason": pa.array(["bad"] * len(offsets))}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


class Lake:
    """A spike whose every sixth record is filtered, and the fifth of six a dead letter."""

    def __init__(self, ledger, store, catalog, reader):
        self.world, self.store, self.catalog = World(ledger), store, catalog
        tag = uuid4().hex[:8]
        self.spike = self.world.spike(
            f"lake-{tag}",
            staging=Location(BUCKET, f"{tag}/staging"),
            final=Location(BUCKET, f"{tag}/final"),
            dataset=Dataset(f"lake_{tag}", HOUR),
        )
        self.finder = Finder(ledger, self.world.broker, reader, self.world.spikes)
        self.operator = Operator(ledger, self.world.broker, store)

    def stage(self, driver):
        (p,) = driver.ends
        start = driver.ends[p]
        prefix = staging_prefix(self.spike, driver.token.number)
        files = []
        for i, (kind, offsets) in enumerate(
            ((FileKind.FINAL, [start, start + 1]), (FileKind.FINAL, [start + 2, start + 3]),
             (FileKind.DEAD_LETTER, [start + 4]))
        ):  # fmt: skip
            key = f"a/{start}-{i}.parquet"
            info = self.store.put(BUCKET, prefix + key, body(kind, offsets))
            files.append(StagedFile(key, kind, HOUR, len(offsets), info.size, info.etag))
        batch = NewBatch(
            (OffsetRange(p, start, start + 6),), tuple(files), 6, (HourCounts(HOUR, 4, 1, 1),), "git-abc"
        )
        token = EpochToken(driver.token.number, driver.token.nonce)
        done = self.world.registrar.register(self.spike, token, batch)
        driver.ends[p] = start + 6
        return done.batch.number

    def settle(self):
        terms = LeaseTerms("test", run_id="run-1")
        Promoter(self.world.ledger, self.store, self.catalog, terms).promote(self.spike, limit=9)
        publisher = Publisher(self.world.ledger, self.catalog, self.store)
        publisher.publish(self.spike, self.world.dataset(self.spike))
        publisher.clean(self.spike)

    def offset(self, offset):
        return self.finder.offset(self.spike.topic, 0, offset)

    def rows(self):
        return sum(self.catalog.files(self.spike.dataset.name).values())

    def audit(self):
        auditor = Auditor(self.world.ledger, self.world.broker, self.store, self.catalog, self.world.spikes)
        return {f.invariant: f.breaches for f in auditor.run() if not f.ok}


@pytest.fixture
def lake(ledger, s3, postgres, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    settings = Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)
    with closing(IcebergCatalog.connect(settings)) as catalog:
        yield Lake(ledger, S3ObjectStore(s3.client()), catalog, S3RecordReader(s3.endpoint))


@pytest.fixture
def ran(lake):
    """Two batches committed, one staged: offsets 0 to 18 of 100."""
    driver = lake.world.driver(lake.spike)
    lake.numbers = [lake.stage(driver), lake.stage(driver)]
    lake.settle()
    lake.numbers.append(lake.stage(driver))
    lake.driver = driver
    return lake


def ask(name):
    return Request(f"{name}-{uuid4().hex}", Author("ann", "a test"))


@pytest.mark.parametrize(
    ("offset", "batch", "fate"),
    [
        (0, 0, Fate.FINAL), (3, 0, Fate.FINAL), (4, 0, Fate.DEAD_LETTER), (5, 0, Fate.NO_ROW),
        (8, 1, Fate.FINAL), (12, 2, Fate.FINAL),
    ],
)  # fmt: skip
def test_a_record_is_found_in_its_batch_and_file(ran, offset, batch, fate):
    answer = ran.offset(offset)
    (found,) = answer.found
    assert answer.sentences == ()
    assert (found.record.batch.number, found.fate) == (ran.numbers[batch], fate)
    if found.uri:
        table = pq.read_table(io.BytesIO(read(ran, found.uri)))
        assert offset in table["kafka_offset"].to_pylist()
    if batch < 2:
        assert (found.record.run_id, found.record.batch.application_version) == ("run-1", "git-abc")
        assert f"committed as {ran.spike.dataset.name} #{batch + 1}" in found.sentence
    else:
        assert "staged, not yet committed" in found.sentence
    if fate is Fate.NO_ROW:
        assert "1 record of the batch was filtered" in found.sentence


def read(lake, uri):
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return lake.store._s3.get_object(Bucket=bucket, Key=key)["Body"].read()


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (18, "not staged yet: the next offset to read is 18"),
        (100, "not written yet: Kafka's log ends at 100"),
    ],
)
def test_a_record_that_no_batch_has_yet_is_told(ran, offset, words):
    answer = ran.offset(offset)
    assert answer.found == ()
    assert words in answer.sentences[0]


def test_unknown_topics_partitions_and_files_are_told(ran):
    with pytest.raises(Refused, match="no spike ever read nothing"):
        ran.finder.offset("nothing", 0, 0)
    assert "has no partition 3; it has 1" in ran.finder.offset(ran.spike.topic, 3, 0).sentences[0]
    with pytest.raises(Refused, match="the ledger knows no file x/y"):
        ran.finder.file("s3://spike-lake/x/y")


def test_a_file_leads_back_to_its_batch(ran):
    found = ran.offset(8).found[0]
    for key in (found.uri, found.file.final_key, found.file.staging_key):
        record, file = ran.finder.file(key)
        assert (record.batch.number, file.id) == (ran.numbers[1], found.file.id)
        assert [str(r) for r in record.batch.ranges] == [f"{ran.spike.topic}:0[6,12)"]


def test_a_lost_record_and_one_that_was_read_twice_are_told(ran):
    ran.operator.rewind(ran.spike, ToOffsets(ran.spike.topic, {0: 6}), ask("rewind"))
    ran.settle()
    again = ran.world.driver(ran.spike, "b")
    number = ran.stage(again)
    ran.settle()
    live, *past = ran.offset(8).found
    assert (live.record.batch.number, live.fate) == (number, Fate.FINAL)
    assert [f.record.batch.number for f in past] == [ran.numbers[1]]
    assert past[0].sentence.startswith("superseded at #3")
    ran.world.broker.delete_records(ran.spike.topic, 0, before=50)
    ran.operator.accept_loss(ran.spike, ask("loss"))
    (lost,) = [f for f in ran.offset(30).found if f.record.operations]
    assert (lost.fate, lost.record.operations[0].author.who) == (Fate.LOST, "ann")
    ran.settle()
    assert ran.audit() == {}


# a rewind on real parts


def test_readers_see_a_rewind_in_one_snapshot_of_each_table_and_the_records_again(ran):
    assert ran.rows() == 8
    ran.operator.rewind(ran.spike, Earliest(), ask("rewind"))
    snapshots = len(ran.catalog.load(ran.spike.dataset.name).snapshots())
    ran.settle()
    assert len(ran.catalog.load(ran.spike.dataset.name).snapshots()) == snapshots + 1
    assert ran.rows() == 0
    assert ran.audit() == {}
    again = ran.world.driver(ran.spike, "b")
    for _ in range(3):
        ran.stage(again)
    ran.settle()
    assert ran.rows() == 12
    assert ran.audit() == {}


class Dying:
    """An object store or catalog whose `at`-th effect happens or not, and then the process is gone."""

    def __init__(self, inner, at, after):
        self._inner, self._at, self._after, self.seen, self.died = inner, at, after, 0, False

    def __getattr__(self, name):
        call = getattr(self._inner, name)
        if name not in {"copy", "delete", "publish", "ensure_table"}:
            return call

        def effect(*arguments, **named):
            self.seen += 1
            if self.seen != self._at:
                return call(*arguments, **named)
            if self._after:
                call(*arguments, **named)
            self.died = True
            raise Transient(f"{name} died")

        return effect


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publication_of_a_rewind_that_dies_at_any_effect_is_finished_by_the_next(ran, after):
    ran.operator.rewind(ran.spike, ToOffsets(ran.spike.topic, {0: 6}), ask("rewind"))
    state = ran.world.dataset(ran.spike)
    for at in range(1, 20):
        catalog = Dying(ran.catalog, at, after)
        publisher = Publisher(ran.world.ledger, catalog, ran.store)
        try:
            publisher.publish(ran.spike, state)
        except Transient:
            assert ran.rows() in (4, 8), "a reader saw part of a rewind"
        if not catalog.died:
            break
    assert at > 2  # each of the two tables' publications
    assert ran.rows() == 4
    assert ran.audit() == {}


def test_the_application_of_a_superseded_batch_may_be_gone(ran):
    finder = replace(ran.finder, spikes={})
    (found,) = finder.offset(ran.spike.topic, 0, 0).found
    assert found.fate is Fate.UNKNOWN
    assert "no application file" in found.sentence
