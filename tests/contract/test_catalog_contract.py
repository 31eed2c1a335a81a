"""What every catalog does: the one in memory, and Iceberg tables in PostgreSQL and S3."""

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2

from spike_pipelines.adapters import iceberg_files, parquet
from spike_pipelines.adapters.iceberg import NAMESPACE, IcebergCatalog
from spike_pipelines.adapters.iceberg_files import data_files
from spike_pipelines.adapters.iceberg_history import (
    Moment,
    Retention,
    expirable,
    linear,
    neighbours,
    sequences,
)
from spike_pipelines.adapters.memory_catalog import MemoryCatalog
from spike_pipelines.domain.errors import (
    Conflict,
    InvalidSpec,
    InvariantBroken,
    ObjectMissing,
    TableAltered,
    Transient,
)
from spike_pipelines.domain.spike import (
    Dataset,
    Location,
    Objectives,
    Resources,
    Spike,
    Start,
)
from spike_pipelines.ports import Catalog, LiveFile, ParquetFooter
from spike_pipelines.settings import Settings

HOUR = datetime(2026, 11, 22, 21, tzinfo=UTC)
DDL = (
    "id STRING, amount DECIMAL(10,2), geo STRUCT<country: STRING>, tags ARRAY<STRING>, m MAP<STRING, DOUBLE>"
)
COLUMNS = {
    "id": pa.string(),
    "amount": pa.decimal128(10, 2),
    "geo": pa.struct([("country", pa.string())]),
    "tags": pa.list_(pa.string()),
    "m": pa.map_(pa.string(), pa.float64()),
    "kafka_partition": pa.int32(),
    "kafka_offset": pa.int64(),
    "kafka_timestamp": pa.timestamp("us", "UTC"),
}


def a_spike(dataset, ddl=DDL):
    location = Location("spike-lake", "final")
    second = timedelta(seconds=1)
    return Spike(
        name="crt-payout-v1-1.0",
        description="",
        version="1.0",
        topic="crt.payout",
        start=Start.EARLIEST,
        schema=ddl,
        filter=None,
        transform=None,
        trigger=second,
        max_offsets_per_trigger=1,
        max_staged_batches=1,
        driver=Resources(1, "512m"),
        executor=Resources(1, "512m"),
        staging=location,
        final=location,
        dataset=Dataset(dataset, HOUR),
        objectives=Objectives(second, second, second),
    )


@dataclass(frozen=True)
class Bench:
    """A catalog, the table of one test, and a way to make files for it."""

    catalog: Catalog
    table: str
    put: object = None
    body: object = None

    def file(self, name, hour=HOUR, rows=10, columns=COLUMNS, **values):
        """A Parquet file with `rows` rows, all in `hour`."""
        if self.put is None:
            return LiveFile(f"s3://spike-lake/final/{self.table}/{name}", rows, 100, hour)
        values = {"kafka_offset": range(rows), "kafka_timestamp": [hour] * rows} | values
        arrays = {c: pa.array(values.get(c, [None] * rows), t) for c, t in columns.items()}
        body = io.BytesIO()
        pq.write_table(pa.table(arrays), body)
        key = f"final/{self.table}/{name}"
        self.put("spike-lake", key, body.getvalue())
        return LiveFile(f"s3://spike-lake/{key}", rows, len(body.getvalue()), hour)

    def publish(self, sequence, add=(), remove=(), base=None):
        return self.catalog.publish(self.table, sequence=sequence, add=add, remove=remove, base=base)

    def names(self):
        return {uri.rpartition("/")[2]: rows for uri, rows in self.catalog.files(self.table).items()}

    def ensure(self, ddl=DDL, *, dead_letters=False):
        self.catalog.ensure_table(self.table, a_spike(self.table, ddl), dead_letters=dead_letters)


@pytest.fixture
def settings(monkeypatch, postgres, s3):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)


@pytest.fixture
def iceberg(settings, s3):
    client = s3.client()

    def put(bucket, key, body):
        client.put_object(Bucket=bucket, Key=key, Body=body)

    with closing(IcebergCatalog.connect(settings)) as catalog:

        def body(file):
            key = file.uri.removeprefix("s3://spike-lake/")
            return client.get_object(Bucket="spike-lake", Key=key)["Body"].read()

        bench = Bench(catalog, f"t{uuid4().hex[:12]}", put, body)
        bench.ensure()
        yield bench


@pytest.fixture(params=["memory", pytest.param("iceberg", marks=pytest.mark.real)])
def bench(request):
    if request.param == "iceberg":
        return request.getfixturevalue("iceberg")
    bench = Bench(MemoryCatalog(), "t")
    bench.ensure()
    return bench


def test_a_new_table_is_empty_at_sequence_0(bench):
    bench.ensure()
    assert (bench.catalog.sequence(bench.table), bench.names()) == (0, {})


def test_a_table_that_is_not_there_is_at_sequence_0_and_takes_no_files(bench):
    assert bench.catalog.sequence("never_made") == 0
    with pytest.raises(Conflict, match="never_made"):
        bench.catalog.publish("never_made", sequence=1, add=[], remove=[])


def test_files_are_added_and_removed_in_one_publication(bench):
    a, b, c = bench.file("a"), bench.file("b", rows=5), bench.file("c", HOUR + timedelta(hours=1))
    assert bench.publish(1, add=[a, b], base=0)
    assert bench.publish(2, add=[c], remove=[a], base=1)
    assert bench.names() == {"b": 5, "c": 10}
    assert bench.catalog.sequence(bench.table) == 2


def test_files_are_removed_by_their_uri_alone(bench):
    a, b = bench.file("a"), bench.file("b", HOUR + timedelta(hours=1))
    bench.publish(1, add=[a, b])
    bench.publish(2, remove=[a.uri])
    assert bench.names() == {"b": 10}


@pytest.mark.parametrize("base", [None, 0])
def test_a_number_is_applied_once(bench, base):
    a = bench.file("a")
    assert bench.publish(3, add=[a], base=base)
    assert not bench.publish(3, add=[a], base=base)
    assert not bench.publish(2, remove=[a])
    assert bench.names() == {"a": 10}


def test_a_change_computed_from_another_state_is_refused(bench):
    a, b = bench.file("a"), bench.file("b")
    bench.publish(1, add=[a], base=0)
    with pytest.raises(Conflict, match="begins at 0"):
        bench.publish(2, add=[a, b], base=0)
    assert bench.names() == {"a": 10}


def test_without_a_base_a_file_that_is_there_is_not_added_again(bench):
    a, b = bench.file("a"), bench.file("b")
    bench.publish(1, add=[a])
    assert bench.publish(2, add=[a, b])
    assert bench.names() == {"a": 10, "b": 10}


def test_removing_what_is_not_there_is_no_error(bench):
    a = bench.file("a")
    bench.publish(1, add=[a])
    assert bench.publish(2, remove=[a, "s3://spike-lake/never"])
    assert bench.publish(3, remove=[a])
    assert bench.names() == {}


def test_a_file_to_remove_that_the_table_lost_ends_a_publication_that_knows_its_base(bench):
    """A foreign compaction put its rows into another file: they would stay, beside what replaces them."""
    a, compacted, new = bench.file("a"), bench.file("compacted"), bench.file("new")
    bench.publish(1, add=[a], base=0)
    bench.publish(2, add=[compacted], remove=[a], base=1)
    with pytest.raises(TableAltered, match=rf"{bench.table} lacks 1 file .*/a.*spike ledger project"):
        bench.publish(3, add=[new], remove=[a, compacted], base=2)
    assert bench.names() == {"compacted": 10}
    assert bench.publish(3, add=[new], remove=[compacted], base=2)


def test_a_file_that_comes_and_goes_in_one_publication_is_not_missed(bench):
    a, b = bench.file("a"), bench.file("b")
    assert bench.publish(1, add=[a, b], remove=[a], base=0)
    assert bench.names() == {"b": 10}


def test_a_publication_without_files_advances_the_number(bench):
    assert bench.publish(5)
    assert bench.publish(6, add=[bench.file("a")], base=5)
    assert bench.publish(7, base=6)
    assert (bench.catalog.sequence(bench.table), bench.names()) == (7, {"a": 10})


# how far back readers can go


def test_old_snapshots_expire_but_for_the_newest_and_the_number_stays(bench):
    for number in range(1, 6):
        bench.publish(number, [bench.file(f"{number}")])
    now = datetime.now(UTC)
    assert bench.catalog.oldest_sequence(bench.table) == 1
    assert bench.catalog.expirable(bench.table, before=now - timedelta(hours=1), keep=1) == 0
    assert bench.catalog.expire(bench.table, before=now - timedelta(hours=1), keep=1) == 0
    later = now + timedelta(hours=1)
    assert bench.catalog.expirable(bench.table, before=later, keep=2) == 3
    assert bench.catalog.expire(bench.table, before=later, keep=2) == 3
    assert bench.catalog.oldest_sequence(bench.table) == 4
    assert bench.catalog.expire(bench.table, before=later, keep=2) == 0
    assert (bench.catalog.sequence(bench.table), len(bench.names())) == (5, 5)
    assert not bench.publish(5, [bench.file("again")])
    assert bench.publish(6, [bench.file("6")], base=5)


def test_what_readers_saw_at_a_time_is_told_by_the_snapshots_that_are_kept(bench):
    start = datetime.now(UTC)
    for number in (2, 5):
        bench.publish(number, [bench.file(f"{number}")])
    end = datetime.now(UTC)
    at = [bench.catalog.sequence_at(bench.table, moment) for moment in (start - timedelta(hours=1), end)]
    assert at == [0, 5]
    bench.catalog.expire(bench.table, before=end + timedelta(hours=1), keep=1)
    assert bench.catalog.sequence_at(bench.table, end) == 5
    assert bench.catalog.sequence_at("nowhere", end) == 0


def test_the_current_snapshot_never_expires(bench):
    bench.publish(1, [bench.file("1")])
    assert bench.catalog.expire(bench.table, before=datetime.now(UTC) + timedelta(hours=1), keep=1) == 0
    assert bench.names() == {"1": 10}


def test_a_table_that_is_not_there_has_no_history(bench):
    later = datetime.now(UTC) + timedelta(hours=1)
    assert bench.catalog.oldest_sequence("nowhere") == 0
    assert bench.catalog.expirable("nowhere", before=later, keep=1) == 0
    assert bench.catalog.expire("nowhere", before=later, keep=1) == 0


def test_a_snapshot_that_others_made_shows_what_the_one_before_it_did():
    assert sequences([None, "3", None, "5"]) == (0, 3, 3, 5)


def test_of_many_publishers_of_one_number_exactly_one_applies_it(bench):
    a = bench.file("a")
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: bench.publish(1, add=[a], base=0), range(4))) == 1
    assert bench.names() == {"a": 10}


def judged(bench, *files, ddl=DDL, table=None):
    footers, table = [(file, footer(bench, file)) for file in files], table or bench.table
    return bench.catalog.misfit(table, a_spike(table, ddl), footers, dead_letters=False)


def footer(bench, file):
    if bench.body is None:
        return ParquetFooter(file.rows, b"", ())
    return parquet.footer(file.uri, bench.body(file))


def test_judging_a_file_makes_no_table(bench):
    assert judged(bench, bench.file("a"), table="not_yet") is None
    with pytest.raises(Conflict, match="ensure it first"):
        bench.catalog.publish("not_yet", sequence=1, add=[], remove=[])


def test_a_file_that_does_not_fit_is_judged_so(bench):
    file = bench.file("a")
    problem = bench.catalog.misfit(
        bench.table,
        a_spike(bench.table),
        [(dataclasses.replace(file, rows=11), footer(bench, file))],
        dead_letters=False,
    )
    assert problem.startswith(file.uri)


def test_a_schema_that_is_none_is_refused_by_the_judge_too(bench):
    with pytest.raises(InvalidSpec):
        judged(bench, ddl="id STRANGE")


@pytest.mark.real
def test_judging_a_file_gives_the_table_no_column(iceberg):
    """Whoever judged may give up: then nobody may ever have such a column."""
    wider = iceberg.file("new", columns=COLUMNS | {"note": pa.string()})
    assert judged(iceberg, wider, ddl=DDL + ", note STRING") is None
    assert "note" in judged(iceberg, wider)
    assert "note" not in [f.name for f in iceberg.catalog.load(iceberg.table).schema().fields]
    iceberg.ensure(DDL + ", note BIGINT")
    with pytest.raises(InvalidSpec, match="column 'note'"):
        judged(iceberg, wider, ddl=DDL + ", note STRING")


@pytest.mark.real
def test_a_file_that_was_judged_is_not_read_again_to_be_published(iceberg, monkeypatch):
    """The columns that its spike gained are made in between."""
    columns = COLUMNS | {"note": pa.string()}
    a, b = (iceberg.file(name, columns=columns, note=[name] * 10) for name in "ab")
    assert judged(iceberg, a, ddl=DDL + ", note STRING") is None
    iceberg.ensure(DDL + ", note STRING")
    read, once = [], iceberg_files._from_footer

    def reading(name, metadata, file, source):
        read.append(file)
        return once(name, metadata, file, source)

    monkeypatch.setattr(iceberg_files, "_from_footer", reading)
    iceberg.publish(1, add=[a, b], base=0)
    assert read == [b]
    found = {f.file_path: f for f in iceberg_files.data_files(iceberg.catalog.load(iceberg.table))}
    assert found.keys() == {a.uri, b.uri}
    assert found[a.uri].lower_bounds != found[b.uri].lower_bounds
    assert iceberg.catalog.load(iceberg.table).scan("note = 'a'").to_pandas()["note"].tolist() == ["a"] * 10


@pytest.mark.real
def test_what_was_judged_for_other_columns_is_read_again(iceberg):
    """Another column took the number that this one would have had."""
    plain, noted = iceberg.file("plain"), COLUMNS | {"note": pa.string()}
    file = iceberg.file("a", columns=noted, note=["a"] * 10)
    assert judged(iceberg, file, plain, ddl=DDL + ", note STRING") is None
    iceberg.ensure(DDL + ", other BIGINT, note STRING")
    iceberg.publish(1, add=[file, plain], base=0)
    table = iceberg.catalog.load(iceberg.table)
    note = table.schema().find_field("note").field_id
    (found,) = (f for f in iceberg_files.data_files(table) if f.file_path == file.uri)
    assert found.lower_bounds[note] == b"a"
    assert table.schema().find_field("other").field_id not in found.lower_bounds


def test_what_was_judged_is_forgotten_before_it_is_much():
    kept = iceberg_files.Judged(most=2)
    files = [LiveFile(f"s3://a/{n}", 1, 1, HOUR) for n in range(3)]
    for file in files:
        kept.keep("table", file, file)
    assert [kept.of("table", file) for file in files] == [None, *files[1:]]
    assert kept.of("another", files[2]) is None


def test_a_schema_that_is_none_is_refused(bench):
    with pytest.raises(InvalidSpec):
        bench.catalog.ensure_table("broken", a_spike("broken", "id STRANGE"), dead_letters=False)


@pytest.mark.real
def test_a_snapshot_carries_its_number_and_is_the_only_one(iceberg):
    a, b = iceberg.file("a"), iceberg.file("b")
    iceberg.publish(4, add=[a])
    iceberg.publish(9, add=[b], remove=[a])
    snapshots = iceberg.catalog.load(iceberg.table).metadata.snapshots
    assert [s.summary.additional_properties["spike.sequence"] for s in snapshots] == ["4", "9"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"rows": 11}, "11"), ({"size": 1}, "1"), ({"hour": HOUR + timedelta(hours=1)}, "hour")],
    ids=["rows", "bytes", "hour"],
)
def test_a_file_that_is_not_what_the_ledger_says_is_refused(iceberg, change, complaint):
    file = dataclasses.replace(iceberg.file("a"), **change)
    with pytest.raises(InvariantBroken, match=complaint):
        iceberg.publish(1, add=[file])
    assert (iceberg.catalog.sequence(iceberg.table), iceberg.names()) == (0, {})


@pytest.mark.real
def test_a_file_with_rows_of_two_hours_is_refused(iceberg):
    file = iceberg.file("a", rows=2, kafka_timestamp=[HOUR, HOUR + timedelta(hours=1)])
    with pytest.raises(InvariantBroken, match="a does not fit"):
        iceberg.publish(1, add=[file])


@pytest.mark.real
def test_a_file_with_a_column_the_table_lacks_is_refused(iceberg):
    file = iceberg.file("a", columns=COLUMNS | {"surprise": pa.string()})
    with pytest.raises(InvariantBroken, match="surprise"):
        iceberg.publish(1, add=[file])


@pytest.mark.real
def test_a_missing_file_is_named_and_nothing_is_published(iceberg):
    with pytest.raises(ObjectMissing, match="never-put"):
        iceberg.publish(1, add=[LiveFile("s3://spike-lake/never-put", 1, 1, HOUR)])
    assert iceberg.catalog.sequence(iceberg.table) == 0


@pytest.mark.real
def test_a_table_takes_the_columns_its_spike_gained(iceberg):
    iceberg.publish(1, add=[iceberg.file("old")])
    iceberg.ensure(DDL.replace("country: STRING", "country: STRING, city: STRING") + ", note STRING")
    wider = COLUMNS | {
        "note": pa.string(),
        "geo": pa.struct([("country", pa.string()), ("city", pa.string())]),
    }
    iceberg.publish(2, add=[iceberg.file("new", columns=wider, note=["n"] * 10, geo=[{"city": "c"}] * 10)])
    rows = iceberg.catalog.load(iceberg.table).scan().to_pandas()
    assert sorted(rows["note"].dropna().tolist()) == ["n"] * 10
    assert len(rows) == 20


@pytest.mark.real
def test_a_column_left_out_of_the_schema_stays_in_the_table(iceberg):
    iceberg.ensure("id STRING")
    assert "amount" in [f.name for f in iceberg.catalog.load(iceberg.table).schema().fields]


@pytest.mark.real
@pytest.mark.parametrize(
    ("ddl", "column"),
    [
        (DDL.replace("DECIMAL(10,2)", "STRING"), "amount"),
        (DDL.replace("country: STRING", "country: INT"), "geo.country"),
        (DDL.replace("ARRAY<STRING>", "ARRAY<INT>"), "tags.element"),
        (DDL.replace("MAP<STRING, DOUBLE>", "MAP<STRING, DATE>"), "m.value"),
        (DDL.replace("STRUCT<country: STRING>", "STRING"), "geo"),
        (DDL.replace("id STRING", "ID STRING"), "ID"),
    ],
)
def test_a_change_of_type_or_case_names_the_column(iceberg, ddl, column):
    with pytest.raises(InvalidSpec, match=f"column '{column}'"):
        iceberg.ensure(ddl)


@pytest.mark.real
def test_dead_letters_are_filed_by_the_hour_of_routing(iceberg):
    dead = dataclasses.replace(iceberg, table=f"{iceberg.table}_dead_letters")
    dead.ensure(dead_letters=True)
    stamp, binary, text = pa.timestamp("us", "UTC"), pa.binary(), pa.string()
    columns = {
        "kafka_topic": text,
        "kafka_partition": pa.int32(),
        "kafka_offset": pa.int64(),
        "kafka_timestamp": stamp,
        "routed_timestamp": stamp,
        "key": binary,
        "value": binary,
        "reason": text,
        "detail": text,
    }
    old = [datetime(1970, 1, 1, tzinfo=UTC)]
    file = dead.file(
        "d", rows=1, columns=columns, kafka_timestamp=old, routed_timestamp=[HOUR], value=[b"\xff"]
    )
    assert dead.publish(1, add=[file], base=0)
    assert dead.names() == {"d": 1}


@pytest.mark.real
def test_two_processes_that_make_the_same_table_both_find_it(settings):
    name = f"t{uuid4().hex[:12]}"
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        catalogs = [stack.enter_context(closing(IcebergCatalog.connect(settings))) for _ in range(3)]
        list(pool.map(lambda c: c.ensure_table(name, a_spike(name), dead_letters=False), catalogs))
        assert catalogs[0].sequence(name) == 0
        assert name in catalogs[0].tables()


@pytest.mark.real
def test_a_commit_whose_answer_was_lost_is_found_done(iceberg, monkeypatch):
    table = iceberg.catalog.load(iceberg.table)
    commit = type(table.catalog).commit_table

    def commit_and_lose_the_answer(self, *args):
        commit(self, *args)
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(type(table.catalog), "commit_table", commit_and_lose_the_answer)
    assert iceberg.publish(1, add=[iceberg.file("a")], base=0)
    assert (iceberg.catalog.sequence(iceberg.table), iceberg.names()) == (1, {"a": 10})


@pytest.mark.real
def test_a_commit_that_did_not_happen_is_transient_and_can_be_repeated(iceberg, monkeypatch):
    table = iceberg.catalog.load(iceberg.table)

    def refuse(self, *args):
        raise ConnectionResetError("never arrived")

    file = iceberg.file("a")
    with monkeypatch.context() as patch:
        patch.setattr(type(table.catalog), "commit_table", refuse)
        with pytest.raises(Transient, match="never arrived"):
            iceberg.publish(1, add=[file], base=0)
    assert iceberg.publish(1, add=[file], base=0)
    assert iceberg.names() == {"a": 10}


@pytest.mark.real
def test_history_and_metadata_files_stay_bounded_and_readable(iceberg, s3):
    retention = Retention(newest=3, hourly=timedelta(0), at_once=4)
    catalog = IcebergCatalog(iceberg.catalog._catalog, retention)
    bench = dataclasses.replace(iceberg, catalog=catalog)
    for number in range(1, 21):
        bench.publish(number, add=[bench.file(f"f{number}", rows=1)], base=number - 1)
    table = catalog.load(bench.table)
    assert len(table.metadata.snapshots) <= 3 + 4
    assert len(bench.names()) == 20
    for snapshot in table.metadata.snapshots:  # every kept moment can still be read
        table.scan(snapshot_id=snapshot.snapshot_id).to_pandas()
    prefix = f"warehouse/{NAMESPACE}/{bench.table}/"
    found = s3.client().list_objects_v2(Bucket="spike-lake", Prefix=prefix)["Contents"]
    names = [o["Key"].rpartition("/")[2] for o in found]
    assert len([n for n in names if n.startswith("snap-")]) == len(table.metadata.snapshots)
    assert len([n for n in names if n.endswith(".json")]) <= 11


@pytest.mark.real
def test_snapshots_that_others_tagged_or_rolled_back_to_do_not_stop_publication(iceberg):
    catalog = IcebergCatalog(iceberg.catalog._catalog, Retention(newest=1, hourly=timedelta(0), at_once=1))
    bench = dataclasses.replace(iceberg, catalog=catalog)
    bench.publish(1, add=[bench.file("a")])
    tagged = catalog.load(bench.table).current_snapshot().snapshot_id
    catalog.load(bench.table).manage_snapshots().create_tag(tagged, "audited").commit()
    bench.publish(2, add=[bench.file("b")])
    catalog.load(bench.table).manage_snapshots().rollback_to_snapshot(tagged).commit()
    for number in (3, 4, 5):
        bench.publish(number, add=[bench.file(f"f{number}")])
    table = catalog.load(bench.table)
    assert sorted(bench.names()) == ["a", "f3", "f4", "f5"]
    assert len(table.scan(snapshot_id=tagged).to_pandas()) == 10
    assert len(table.scan().to_pandas()) == 40


class _Deletes(ManifestWriterV2):
    def content(self):
        return ManifestContent.DELETES

    @property
    def _meta(self):
        return super()._meta | {"content": "deletes"}


def hide_the_first_row(bench, file):
    """What `DELETE FROM` of another engine does to a table (merge on read)."""
    table = bench.catalog.load(bench.table)
    (data,) = data_files(table)
    body, key = io.BytesIO(), f"warehouse/{bench.table}-delete.parquet"
    pq.write_table(pa.table({"file_path": [file.uri], "pos": pa.array([0], pa.int64())}), body)
    bench.put("spike-lake", key, body.getvalue())
    hidden = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"s3://spike-lake/{key}",
        file_format=FileFormat.PARQUET,
        partition=data.partition,
        record_count=1,
        file_size_in_bytes=len(body.getvalue()),
    )
    hidden.spec_id = data.spec_id
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as update:
        writer = update.new_manifest_writer
        update.new_manifest_writer = lambda spec: _deletes_of(writer(spec))
        update.append_data_file(hidden)
    return hidden.file_path


def _deletes_of(writer):
    writer.__class__ = _Deletes
    return writer


@pytest.mark.real
def test_rows_that_somebody_else_hides_are_told(iceberg):
    a = iceberg.file("a")
    iceberg.publish(1, add=[a], base=0)
    hidden = hide_the_first_row(iceberg, a)
    assert len(iceberg.catalog.load(iceberg.table).scan().to_pandas()) == 9
    assert iceberg.catalog.files(iceberg.table) == {a.uri: 10, hidden: -1}


@pytest.mark.real
def test_a_database_that_is_down_is_transient(settings):
    down = settings.model_copy(update={"catalog_url": "postgresql+psycopg2://nobody@127.0.0.1:1/x"})
    with pytest.raises(Transient, match="database does not answer"):
        IcebergCatalog.connect(down)


def test_a_catalog_url_that_is_none_is_named():
    with pytest.raises(InvalidSpec, match="SPIKE_CATALOG_URL"):
        IcebergCatalog.connect(Settings(catalog_url="what is this"))


def history_of(*minutes):
    start = HOUR
    return [Moment(i, i - 1 if i else None, start + timedelta(minutes=m)) for i, m in enumerate(minutes)]


def test_the_newest_snapshots_and_the_last_of_each_hour_are_kept():
    history = history_of(0, 10, 50, 60, 110, 120, 121, 122)
    retention = Retention(newest=3, hourly=timedelta(days=1), at_once=1)
    assert expirable(history, retention, HOUR + timedelta(hours=3)) == (0, 1, 3)


def test_hours_beyond_the_limit_go_too():
    history = history_of(0, 60, 120, 121)
    retention = Retention(newest=1, hourly=timedelta(hours=1, minutes=30), at_once=1)
    assert expirable(history, retention, HOUR + timedelta(minutes=121)) == (0,)


def test_nothing_expires_until_enough_have_come_together():
    retention = Retention(newest=1, hourly=timedelta(0), at_once=3)
    assert expirable(history_of(0, 1, 2), retention, HOUR + timedelta(hours=1)) == ()
    assert len(expirable(history_of(0, 1, 2, 3), retention, HOUR + timedelta(hours=1))) == 3


def test_neighbours_of_expired_snapshots_are_the_kept_ones_beside_them():
    history = history_of(0, 1, 2, 3, 4, 5, 6)
    assert neighbours(history, [0, 1, 3, 4]) == {2, 5}


def test_a_history_with_a_rollback_is_not_linear():
    history = history_of(0, 1, 2)
    assert linear(history)
    assert not linear([*history, Moment(9, 0, HOUR)])
