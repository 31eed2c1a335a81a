"""The reader of `spike chaos` on real Iceberg tables: it sees every snapshot, and every wrong one."""

import io
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR, spike

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.domain.batch import FileKind, FileState
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Dataset, Location
from spike_pipelines.ports import LiveFile
from spike_pipelines.settings import Settings
from spike_pipelines.stack.chaos.reader import Reader

pytestmark = pytest.mark.real


class FakeLedger:
    """Says what was live at a sequence number."""

    def __init__(self) -> None:
        self.files: list[LedgerFile] = []
        self.down = False

    def live_files(self, _dataset: str, sequence: int):
        if self.down:
            raise Transient("the database is down")
        removed = lambda f: f.removed is not None and f.removed <= sequence  # noqa: E731
        return tuple(f for f in self.files if f.added <= sequence and not removed(f))


class Bench:
    def __init__(self, catalog, client) -> None:
        name = f"t{uuid4().hex[:12]}"
        self.spike = spike(dataset=Dataset(name, HOUR), final=Location("spike-lake", "final"))
        self.catalog, self.client, self.ledger, self.table = catalog, client, FakeLedger(), name
        self.reader = Reader(catalog, self.ledger, {self.spike.name: self.spike})
        catalog.ensure_table(name, self.spike, dead_letters=False)

    def file(self, key: str, sequence: int, rows: int = 3) -> LiveFile:
        """A file that the ledger made live at this number."""
        body = io.BytesIO()
        columns = {
            "id": pa.array(range(rows), pa.int64()),
            "kafka_partition": pa.array([0] * rows, pa.int32()),
            "kafka_offset": pa.array(range(rows), pa.int64()),
            "kafka_timestamp": pa.array([HOUR] * rows, pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(columns), body)
        self.client.put_object(Bucket="spike-lake", Key=f"final/{self.table}/{key}", Body=body.getvalue())
        number, size = len(self.ledger.files), len(body.getvalue())
        self.ledger.files.append(
            LedgerFile(
                id=number,
                batch=sequence,
                kind=FileKind.FINAL,
                hour=HOUR,
                rows=rows,
                size=size,
                state=FileState.LIVE,
                staging_key=key,
                staging_etag="e",
                final_key=f"final/{self.table}/{key}",
                final_etag="e",
                added=sequence,
                removed=None,
            )
        )
        return LiveFile(f"s3://spike-lake/final/{self.table}/{key}", rows, size, HOUR)

    def publish(self, sequence: int, *files: LiveFile, remove=()) -> None:
        self.catalog.publish(self.table, sequence=sequence, add=files, remove=remove)


@pytest.fixture
def bench(monkeypatch, postgres, s3):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    settings = Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)
    with closing(IcebergCatalog.connect(settings)) as catalog:
        yield Bench(catalog, s3.client())


def test_every_snapshot_is_checked_once_and_whole_ones_are_no_breach(bench):
    for sequence in (1, 2, 4):
        bench.publish(sequence, bench.file(f"{sequence}a", sequence), bench.file(f"{sequence}b", sequence))
    bench.reader.look()
    bench.reader.look()
    assert (bench.reader.snapshots, bench.reader.partial) == (3, [])


def test_snapshot_without_a_file_of_its_commit_is_a_partial_view(bench):
    shown, _hidden = bench.file("a", 1), bench.file("b", 1)
    bench.publish(1, shown)
    bench.reader.look()
    assert len(bench.reader.partial) == 1
    assert "1 live file is missing" in bench.reader.partial[0]


def test_snapshot_with_a_file_of_a_later_commit_is_a_breach(bench):
    bench.publish(1, bench.file("a", 1), bench.file("b", 2))
    bench.reader.look()
    assert "1 file is not live" in bench.reader.partial[0]


def test_file_that_was_removed_since_was_live_in_its_own_time(bench):
    old = bench.file("a", 1)
    bench.publish(1, old)
    bench.ledger.files[0] = replace(bench.ledger.files[0], removed=2)
    bench.publish(2, bench.file("b", 2), remove=[old])
    bench.reader.look()
    assert (bench.reader.snapshots, bench.reader.partial) == (2, [])


def test_what_could_not_be_looked_at_is_looked_at_the_next_time(bench):
    bench.publish(1, bench.file("a", 1))
    bench.ledger.down = True
    with pytest.raises(Transient):
        bench.reader.look()
    assert bench.reader.snapshots == 0
    bench.ledger.down = False
    bench.reader.look()
    assert bench.reader.snapshots == 1
