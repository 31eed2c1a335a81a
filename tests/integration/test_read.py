"""Reading a dataset into pandas, from Python and from a shell; also what a real Spark wrote."""

import io
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from spike_pipelines import read
from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.cli import read as command
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.ports import LiveFile
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

HOUR = datetime(2026, 11, 22, 21, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


class Ddl:
    """As much of a spike as a catalog looks at."""

    def __init__(self, schema):
        self.schema = schema


@pytest.fixture(scope="module")
def environment(postgres, s3):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        patch.setenv("SPIKE_CATALOG_URL", postgres.url("iceberg"))
        patch.setenv("SPIKE_S3_ENDPOINT", s3.endpoint)
        yield Settings.from_env()


@pytest.fixture(scope="module")
def catalog(environment):
    with closing(IcebergCatalog.connect(environment)) as catalog:
        yield catalog


def put(s3, key, table, hour):
    body = io.BytesIO()
    pq.write_table(table, body)
    s3.client().put_object(Bucket="spike-lake", Key=key, Body=body.getvalue())
    return LiveFile(f"s3://spike-lake/{key}", table.num_rows, len(body.getvalue()), hour)


def rows(hour, ids, first_offset):
    count = len(ids)
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "kafka_partition": pa.array([0] * count, pa.int32()),
            "kafka_offset": pa.array(range(first_offset, first_offset + count), pa.int64()),
            "kafka_timestamp": pa.array([hour] * count, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def dataset(catalog, s3):
    """Sequence 1: a and b in HOUR. 3: c in NEXT, and one dead letter. 4: d instead of a and b."""
    name = f"d{uuid4().hex[:10]}"
    catalog.ensure_table(name, Ddl("id STRING"), dead_letters=False)
    first = put(s3, f"final/{name}/1", rows(HOUR, ["a", "b"], 0), HOUR)
    second = put(s3, f"final/{name}/2", rows(NEXT, ["c"], 2), NEXT)
    third = put(s3, f"final/{name}/3", rows(HOUR, ["d"], 3), HOUR)
    catalog.publish(name, sequence=1, add=[first], remove=[])
    catalog.publish(name, sequence=3, add=[second], remove=[])
    catalog.publish(name, sequence=4, add=[third], remove=[first])
    dead = f"{name}_dead_letters"
    catalog.ensure_table(dead, Ddl(""), dead_letters=True)
    letter = pa.table(
        {
            "reason": pa.array(["malformed"], pa.string()),
            "value": pa.array([b"\xffno json"], pa.binary()),
            "routed_timestamp": pa.array([HOUR], pa.timestamp("us", "UTC")),
        }
    )
    catalog.publish(dead, sequence=3, add=[put(s3, f"final/{dead}/1", letter, HOUR)], remove=[])
    return name


def ids(frame):
    return sorted(frame["id"])


def test_a_dataset_is_what_was_published_last(dataset):
    assert ids(read.read(dataset)) == ["c", "d"]


@pytest.mark.parametrize(
    ("hour", "expected"),
    [(HOUR, ["d"]), (HOUR + timedelta(minutes=59), ["d"]), (NEXT.replace(tzinfo=None), ["c"]),
     (HOUR - timedelta(hours=1), [])],
    ids=["the hour", "a time within it", "without a zone", "an hour without rows"],
)  # fmt: skip
def test_an_hour_of_a_dataset(dataset, hour, expected):
    assert ids(read.read(dataset, hour)) == expected


def test_only_the_columns_asked_for(dataset):
    assert list(read.read(dataset, columns=["kafka_offset"]).columns) == ["kafka_offset"]


@pytest.mark.parametrize(
    ("sequence", "expected"), [(1, ["a", "b"]), (2, ["a", "b"]), (3, ["a", "b", "c"]), (4, ["c", "d"])]
)
def test_as_of_a_sequence_number(dataset, sequence, expected):
    assert ids(read.read(dataset, as_of=sequence)) == expected


def test_both_tables_are_read_at_one_number(dataset):
    seen = {
        number: (ids(read.read(dataset, as_of=number)), len(read.dead_letters(dataset, as_of=number)))
        for number in (3, 4)
    }
    assert seen == {3: (["a", "b", "c"], 1), 4: (["c", "d"], 1)}


def test_a_snapshot_that_others_made_is_of_the_number_before_it(catalog, s3):
    """A compaction carries no number: it is not read as of numbers from before it."""
    name = f"d{uuid4().hex[:10]}"
    catalog.ensure_table(name, Ddl("id STRING"), dead_letters=False)
    first = put(s3, f"final/{name}/1", rows(HOUR, ["a"], 0), HOUR)
    second = put(s3, f"final/{name}/2", rows(HOUR, ["b"], 1), HOUR)
    catalog.publish(name, sequence=1, add=[first], remove=[])
    catalog.publish(name, sequence=2, add=[second], remove=[])
    catalog.load(name).add_files([put(s3, f"final/{name}/3", rows(HOUR, ["others"], 2), HOUR).uri])
    assert ids(read.read(name, as_of=1)) == ["a"]
    assert ids(read.read(name, as_of=2)) == ["a", "b", "others"]


def test_as_of_a_time(dataset, catalog):
    second = catalog.load(dataset).metadata.snapshots[1].timestamp_ms
    assert ids(read.read(dataset, as_of=datetime.fromtimestamp(second / 1000, UTC))) == ["a", "b", "c"]


def test_a_moment_before_the_kept_history_says_what_is_kept(dataset):
    with pytest.raises(InvalidSpec, match="oldest that is kept is sequence 1"):
        read.read(dataset, as_of=0)
    with pytest.raises(InvalidSpec, match="oldest"):
        read.read(dataset, as_of=datetime(2020, 1, 1, tzinfo=UTC))


def test_an_unknown_dataset_lists_what_exists(dataset):
    with pytest.raises(InvalidSpec, match=rf"no dataset nothing_here; there are: .*{dataset}"):
        read.read("nothing_here")


def test_an_hour_that_is_a_text_is_refused(dataset):
    with pytest.raises(InvalidSpec, match="'2026-11-22T21' is no time: give a datetime"):
        read.read(dataset, "2026-11-22T21")


def test_an_unknown_column_lists_what_exists(dataset):
    with pytest.raises(InvalidSpec, match="no column idd; it has: id, kafka_partition"):
        read.read(dataset, columns=["idd"])


def test_dead_letters_have_bytes_and_reason(dataset):
    letters = read.dead_letters(dataset, HOUR)
    assert letters[["reason", "value"]].to_numpy().tolist() == [["malformed", b"\xffno json"]]
    assert read.dead_letters(dataset, NEXT).empty


def test_hours_come_from_the_metadata(dataset):
    frame = read.hours(dataset)
    assert frame.index.tolist() == [pd.Timestamp(HOUR), pd.Timestamp(NEXT)]
    assert frame[["rows", "files"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    assert (frame["bytes"] > 0).all()
    assert read.hours(dataset, as_of=1)["rows"].tolist() == [2]


def test_datasets_are_listed_without_their_dead_letters(dataset):
    names = read.datasets()
    assert dataset in names
    assert f"{dataset}_dead_letters" not in names


def test_a_catalog_that_is_down_is_transient(environment):
    down = environment.model_copy(update={"catalog_url": "postgresql+psycopg2://x@127.0.0.1:1/x"})
    with pytest.raises(Transient):
        read.read("any", settings=down)


def test_without_settings_the_error_says_how_to_set_them():
    with pytest.raises(InvalidSpec, match="SPIKE_CATALOG_URL is not set"):
        read.read("any", settings=Settings())


@pytest.fixture
def spike(dataset):
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *options: CliRunner().invoke(app, ["read", dataset, *options])


def test_a_shell_gets_a_table(spike):
    result = spike("--hour", "2026-11-22T21")
    assert result.exit_code == 0
    assert " d " in result.output
    assert "rows: 1" in result.output


def test_a_shell_gets_json_lines(spike):
    result = spike("-o", "json", "--as-of", "1", "--limit", "1", "-c", "id")
    assert json.loads(result.output) == {"id": "a"}


def test_a_shell_gets_csv_for_dagsters_partition_key(spike):
    assert spike("-o", "csv", "--hour", "2026-11-22-22:00", "-c", "id").output == "id\nc\n"


def test_a_shell_gets_parquet(spike):
    assert pq.read_table(io.BytesIO(spike("-o", "parquet").stdout_bytes)).num_rows == 2


def test_a_shell_gets_the_hours(spike):
    assert (
        spike("--hours", "-o", "csv", "--as-of", "1")
        .output.splitlines()[1]
        .startswith("2026-11-22 21:00:00+00:00,2,1,")
    )


def test_a_shell_gets_dead_letters(spike):
    assert json.loads(spike("--dead-letters", "-o", "json", "-c", "reason").output) == {"reason": "malformed"}
    assert "\\xffno json" in spike("--dead-letters", "-c", "value").output


@pytest.mark.parametrize("options", [["--as-of", "yesterday"], ["-c", "nothing"]])
def test_a_shell_gets_one_clear_line_for_an_error(spike, options):
    result = spike(*options)
    assert result.exit_code == 1
    assert options[-1] in result.output
    assert "Traceback" not in result.output
