"""What every object store does: the one in memory, and S3 (SeaweedFS here)."""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spike_pipelines.adapters.memory_store import MemoryObjectStore
from spike_pipelines.adapters.s3 import S3ObjectStore
from spike_pipelines.domain.contents import Span
from spike_pipelines.domain.errors import (
    AlreadyExists,
    NotParquet,
    ObjectMissing,
    SourceChanged,
    Transient,
)
from spike_pipelines.ports import ObjectStore

BUCKET = "spike-lake"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Bench:
    """A store, and a prefix of its own for each test."""

    store: ObjectStore
    prefix: str
    begin: Callable[[str, int], object]  # an upload to a key, with a part of so many bytes

    def key(self, name):
        return f"{self.prefix}/{name}"

    def put(self, name, body=b"body"):
        return self.store.put(BUCKET, self.key(name), body)

    def copy(self, source, target, etag, *, size=4, **metadata):
        return self.store.copy(
            BUCKET, self.key(source), self.key(target), source_etag=etag, size=size, metadata=metadata
        )

    def footer(self, name, size, etag=None):
        found = self.store.head(BUCKET, self.key(name))
        return self.store.footer(
            BUCKET, self.key(name), size=size, etag=etag or (found and found.etag) or "0"
        )

    def origins(self, name, **changed):
        found = self.store.head(BUCKET, self.key(name))
        footer = self.store.footer(BUCKET, self.key(name), size=found.size, etag=found.etag)
        said = {"size": found.size, "etag": found.etag} | changed
        return self.store.origins(BUCKET, self.key(name), footer=footer, **said)

    def names(self, prefix=""):
        return [o.key.removeprefix(f"{self.prefix}/") for o in self.store.list(BUCKET, self.key(prefix))]


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.real)])
def bench(request):
    if request.param == "memory":
        store = MemoryObjectStore(BUCKET)
        return Bench(store, f"contract/{uuid4().hex}", partial(store.begin_upload, BUCKET))
    return s3_bench(request.getfixturevalue("s3").client())


def s3_bench(client):
    def begin(key, size):
        upload = {"Bucket": BUCKET, "Key": key}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        client.upload_part(**upload, PartNumber=1, Body=b"x" * size)

    store = S3ObjectStore(client, max_copy=6 * MIB, part=5 * MIB)
    return Bench(store, f"contract/{uuid4().hex}", begin)


def parquet(rows, columns=1):
    body = io.BytesIO()
    pq.write_table(pa.table({f"column_{i}": list(range(rows)) for i in range(columns)}), body)
    return body.getvalue()


def test_head_of_an_object_that_is_not_there_is_none(bench):
    assert bench.store.head(BUCKET, bench.key("nothing")) is None


def test_head_tells_size_and_etag_of_what_was_put(bench):
    put = bench.put("a", b"12345")
    head = bench.store.head(BUCKET, bench.key("a"))
    assert head == put
    assert (head.size, '"' in head.etag) == (5, False)


def test_an_object_is_read_whole_or_is_not_there(bench):
    bench.put("a", b"whole")
    assert bench.store.read(BUCKET, bench.key("a")) == b"whole"
    assert bench.store.read(BUCKET, bench.key("b")) is None


def test_copy_keeps_the_bytes_and_replaces_the_metadata(bench):
    source = bench.put("a", b"12345")
    copied = bench.copy("a", "b", source.etag, size=5, **{"spike-batch": "7"})
    assert bench.store.head(BUCKET, bench.key("b")) == copied
    assert (copied.size, copied.metadata) == (5, {"spike-batch": "7"})


def test_copy_never_overwrites(bench):
    first, second = bench.put("a", b"first"), bench.put("b", b"second")
    bench.copy("a", "target", first.etag, whose="first")
    with pytest.raises(AlreadyExists, match="target"):
        bench.copy("b", "target", second.etag, whose="second")
    assert bench.store.head(BUCKET, bench.key("target")).metadata == {"whose": "first"}


def test_copy_of_a_changed_source_is_refused_and_leaves_nothing(bench):
    old = bench.put("a", b"old")
    bench.put("a", b"new")
    with pytest.raises(SourceChanged, match=old.etag):
        bench.copy("a", "b", old.etag)
    assert bench.names() == ["a"]


def test_a_changed_source_is_told_even_where_the_target_is_there(bench):
    bench.put("a", b"new")
    bench.put("b", b"there")
    with pytest.raises(SourceChanged):
        bench.copy("a", "b", "0" * 32)


def test_copy_of_a_missing_source_says_which(bench):
    with pytest.raises(ObjectMissing, match="gone"):
        bench.copy("gone", "b", "0" * 32)


def test_copy_of_a_missing_large_source_says_which(bench):
    with pytest.raises(ObjectMissing, match="gone"):
        bench.copy("gone", "b", "0" * 32, size=7 * MIB)
    assert bench.names() == []


def test_of_many_copies_to_one_key_at_once_exactly_one_wins(bench):
    source = bench.put("a")

    def attempt(number):
        try:
            return bench.copy("a", "b", source.etag, number=str(number)).metadata["number"]
        except AlreadyExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(attempt, range(8)) if n is not None]
    assert winners == [bench.store.head(BUCKET, bench.key("b")).metadata["number"]]


def test_a_large_object_is_copied_whole_and_never_over_another(bench):
    source = bench.put("large", b"0123456789abcdef" * (7 * MIB // 16))
    copied = bench.copy("large", "copy", source.etag, size=source.size, spike="x")
    assert (copied.size, copied.metadata) == (7 * MIB, {"spike": "x"})
    assert bench.store.head(BUCKET, bench.key("copy")) == copied
    with pytest.raises(AlreadyExists):
        bench.copy("large", "copy", source.etag, size=source.size)
    with pytest.raises(SourceChanged):
        bench.copy("large", "other", "0" * 32, size=source.size)
    assert bench.names() == ["copy", "large"]


@pytest.mark.real
def test_no_part_is_copied_to_a_key_that_is_taken(s3):
    """A copy whose answer was lost is asked for again: minutes of parts that the last step would refuse."""
    client = s3.client()
    bench = s3_bench(client)
    source = bench.put("large", b"0123456789abcdef" * (7 * MIB // 16))
    bench.copy("large", "copy", source.etag, size=source.size)
    asked = []
    client.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))
    with pytest.raises(AlreadyExists):
        bench.copy("large", "copy", source.etag, size=source.size)
    assert set(asked) == {"HeadObject"}


@pytest.mark.real
def test_a_copy_in_parts_that_ends_after_another_leaves_that_one_alone(s3):
    """Two appender runs copy the same file, and the slower one does not know that its lease is over."""
    client = s3.client()
    bench = s3_bench(client)
    source = bench.put("large", b"0123456789abcdef" * (7 * MIB // 16))
    faster = []

    def before(model, **_):
        if model.name == "CompleteMultipartUpload" and not faster:
            faster.append(bench.put("copy", b"the faster one's"))

    client.meta.events.register("before-call.s3", before)
    with pytest.raises(AlreadyExists):
        bench.copy("large", "copy", source.etag, size=source.size)
    assert bench.store.head(BUCKET, bench.key("copy")).etag == faster[0].etag


def test_footer_counts_rows(bench):
    body = parquet(rows=321)
    bench.put("f", body)
    assert bench.footer("f", len(body)).rows == 321


def test_footer_larger_than_one_read_is_read_whole(bench):
    body = parquet(rows=2, columns=2_000)
    assert len(body) > 128 * 1024
    bench.put("f", body)
    assert bench.footer("f", len(body)).rows == 2


@pytest.mark.parametrize("size", [0, 5, 20_000_000])
def test_an_etag_that_is_md5_is_that_of_the_content_and_of_a_copy(bench, size):
    body = b"x" * size
    etag = bench.put("a", body).etag
    copied = bench.copy("a", "b", etag)
    heads = [bench.store.head(BUCKET, bench.key(name)) for name in "ab"]
    assert copied.etag == heads[1].etag
    assert {h.etag for h in heads if h.etag_is_md5} <= {hashlib.md5(body).hexdigest()}
    assert size > 5 or all(h.etag_is_md5 for h in heads)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PAR1",
        b"not parquet at all, but long enough for a trailer",
        parquet(5)[:-3],
        b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        b"PAR1" + b"\x00" * 40 + b"\x28\x00\x00\x00PAR1",
    ],
    ids=["empty", "magic only", "text", "cut off", "footer too long", "footer of zeros"],
)
def test_a_broken_file_is_not_parquet(bench, body):
    bench.put("f", body)
    with pytest.raises(NotParquet, match="f"):
        bench.footer("f", len(body))


@pytest.mark.parametrize("difference", [-1, 1, 1_000_000])
def test_footer_of_a_file_with_another_size_is_a_changed_source(bench, difference):
    body = parquet(5)
    bench.put("f", body)
    with pytest.raises(SourceChanged):
        bench.footer("f", len(body) + difference)


def test_footer_of_another_object_of_the_same_size_is_a_changed_source(bench):
    body = parquet(5)
    other = body[:4] + bytes([body[4] ^ 1]) + body[5:]
    etag = bench.put("f", body).etag
    assert bench.footer("f", len(body), etag).rows == 5
    bench.put("f", other)
    with pytest.raises(SourceChanged, match=f"{etag} was registered"):
        bench.footer("f", len(body), etag)


def test_footer_of_a_missing_file_says_which(bench):
    with pytest.raises(ObjectMissing, match="gone"):
        bench.footer("gone", 100)


def test_list_finds_exactly_the_prefix_on_every_page(bench):
    names = [f"a/{number:04d}" for number in range(1_005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(bench.put, [*names, "b/0"]))
    assert bench.names("a/") == names


def test_a_listing_tells_when_an_object_was_written(bench):
    bench.put("a")
    (found,) = bench.store.list(BUCKET, bench.key("a"))
    assert abs(found.modified_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_an_unfinished_upload_is_found_below_its_prefix_and_aborted_twice(bench):
    bench.begin(bench.key("a/part.parquet"), 1_234)
    bench.begin(bench.key("ab"), 1)
    assert bench.names() == []
    (found,) = bench.store.uploads(BUCKET, bench.key("a/"))
    assert (found.key, bench.store.uploaded(BUCKET, found)) == (bench.key("a/part.parquet"), 1_234)
    assert abs(found.begun_at - datetime.now(UTC)) < timedelta(minutes=5)
    for _ in range(2):
        bench.store.abort(BUCKET, found)
    assert bench.store.uploaded(BUCKET, found) == 0
    (other,) = bench.store.uploads(BUCKET, bench.key(""))
    bench.store.abort(BUCKET, other)
    assert list(bench.store.uploads(BUCKET, bench.key(""))) == []


def test_deleting_twice_is_deleting_once(bench):
    bench.put("a")
    bench.put("b")
    keys = [bench.key("a"), bench.key("never there")]
    bench.store.delete(BUCKET, keys)
    bench.store.delete(BUCKET, keys)
    bench.store.delete(BUCKET, [])
    assert bench.names() == ["b"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.head("no-such-bucket", "a"),
        lambda store: store.footer("no-such-bucket", "a", size=100, etag="0"),
        lambda store: list(store.list("no-such-bucket", "")),
        lambda store: list(store.uploads("no-such-bucket", "")),
        lambda store: store.copy("no-such-bucket", "a", "b", source_etag="0", size=1, metadata={}),
    ],
    ids=["head", "footer", "list", "uploads", "copy"],
)
def test_a_missing_bucket_is_worth_waiting_for_and_named(bench, ask):
    with pytest.raises(Transient, match="no-such-bucket"):
        ask(bench.store)


# where records come from


def records(places, **options):
    """Records of these partitions and offsets. What is asked for lies before the payload: not in the tail of
    a large file."""
    index, offsets = zip(*places, strict=True)
    columns = {
        "kafka_partition": pa.array(index, pa.int32()),
        "kafka_offset": pa.array(offsets, pa.int64()),
        "kafka_timestamp": pa.array([3_600_000_000] * len(places), pa.timestamp("us", "UTC")),
        "payload": [hashlib.sha256(f"{place}".encode()).hexdigest() for place in places],
    }
    body = io.BytesIO()
    pq.write_table(pa.table(columns), body, **options)
    return body.getvalue()


def told(groups):
    return [(g.partitions.lowest, g.offsets.lowest, g.offsets.highest) for g in groups]


MIXED = [(i % 3, 1_000 * (i % 3) + i) for i in range(600)]  # one partition's offsets hide the others'
LARGE = [(p, o + 10_000 * i) for i in range(10) for p, o in MIXED]
BY_PARTITION = [(0, 0, 597), (1, 1_001, 1_598), (2, 2_002, 2_599)]


@pytest.mark.parametrize("places", [MIXED, LARGE], ids=["small", "large"])
def test_records_that_share_a_row_group_are_told_by_their_partitions(bench, places):
    """A small file, which comes with its footer, and one that does not."""
    bench.put("a", body := records(places, row_group_size=600))
    many = len(places) // len(MIXED)
    assert (len(body) > 200_000) is (many > 1)
    each = [(p, a + 10_000 * i, b + 10_000 * i) for i in range(many) for p, a, b in BY_PARTITION]
    found = bench.origins("a")
    assert sorted(told(found)) == sorted(each)
    assert all(g.hours == Span(1, 1) and not g.shared for g in found)


def test_only_row_groups_that_are_shared_are_read(bench):
    places = [(0, i) for i in range(600)] + MIXED + [(4, i) for i in range(600)]
    bench.put("a", records(places, row_group_size=600))
    assert told(bench.origins("a")) == [(0, 0, 599), *BY_PARTITION, (4, 0, 599)]
    bench.put("b", records([(0, i) for i in range(600)]))
    assert told(bench.origins("b")) == [(0, 0, 599)]


def test_records_of_another_object_than_was_registered_are_not_asked(bench):
    bench.put("a", records(LARGE))
    with pytest.raises(SourceChanged):
        bench.origins("a", etag="0" * 32)


def test_columns_that_are_not_what_the_footer_says_are_not_parquet(bench):
    body = records(LARGE, compression="none")
    column = pq.read_metadata(io.BytesIO(body)).row_group(0).column(1)
    at = column.dictionary_page_offset or column.data_page_offset
    bench.put("a", body[:at] + b"\xff" * 64 + body[at + 64 :])
    with pytest.raises(NotParquet, match="a"):
        bench.origins("a")
