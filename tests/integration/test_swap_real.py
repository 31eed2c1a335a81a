"""A swap and its retention on PostgreSQL, S3 and Iceberg: what readers see, and what is left in the end."""

import io
from contextlib import closing, contextmanager
from datetime import timedelta
from threading import Event, Thread

import builders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOUR, World, stage_file
from dying import Trap, expire_leases
from test_swap import breaches, dying, planned, swapper

from spike_pipelines.adapters.iceberg import IcebergCatalog
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.retention import Kind, RetentionTerms
from spike_pipelines.domain.swap import SwapState
from spike_pipelines.services.register import staging_prefix
from spike_pipelines.services.retain import Retainer
from spike_pipelines.services.swap import swap_prefix
from spike_pipelines.settings import Settings

pytestmark = pytest.mark.real

BUCKET = "spike-lake"
TIME = pa.timestamp("us", tz="UTC")
KAFKA = {"kafka_partition": pa.int32(), "kafka_offset": pa.int64(), "kafka_timestamp": TIME}
COLUMNS = {
    FileKind.FINAL: {"id": pa.int64(), **KAFKA},
    FileKind.DEAD_LETTER: {
        "kafka_topic": pa.string(), **KAFKA, "routed_timestamp": TIME, "key": pa.binary(),
        "value": pa.binary(), "reason": pa.string(), "detail": pa.string(),
    },
}  # fmt: skip


def body(kind, hour, rows, index=0, start=0):
    values = {
        "id": list(range(rows)),
        "kafka_partition": [index] * rows,
        "kafka_offset": list(range(start, start + rows)),
        "kafka_timestamp": [hour] * rows,
        "routed_timestamp": [hour] * rows,
    }
    columns = COLUMNS[kind]
    table = pa.table({c: pa.array(values.get(c, [None] * rows), t) for c, t in columns.items()})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def put(driver, key, kind, hour, rows, index=0, start=0):  # noqa: PLR0917 - as `builders.Driver._put`
    if rows == 0:
        return None
    prefix, made = staging_prefix(driver.spike, driver.token.number), body(kind, hour, rows, index, start)
    return stage_file(driver.world.store, prefix, key, kind, hour, rows, made)


@pytest.fixture
def real(ledger, postgres, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setattr(builders, "BUCKET", BUCKET)
    monkeypatch.setattr(builders.Driver, "_put", put)
    settings = Settings(catalog_url=postgres.url("iceberg"), s3_endpoint=s3.endpoint)
    store = S3ObjectStore(connect(s3.endpoint))
    for left in ("final/", "staging/"):
        store.delete(BUCKET, [info.key for info in store.list(BUCKET, left)])
    with closing(IcebergCatalog.connect(settings)) as catalog:
        for table in catalog.tables():
            catalog._catalog.drop_table(("spikes", table))
        yield World(ledger, store=store, catalog=catalog)


@pytest.fixture
def ran(real):
    driver = real.driver(real.spike())
    driver.stage(4, 2, 1)
    driver.stage(4, 2, 1)
    real.settle(driver.spike)
    return driver


def producing(world, spike, *, final):
    def produce(swap, replaced, keep_alive):
        counts = {FileKind.FINAL: final, FileKind.DEAD_LETTER: sum(f.rows for f in replaced) - final}
        prefix = swap_prefix(spike, swap)
        files = tuple(
            stage_file(world.store, prefix, f"a/{kind}.parquet", kind, HOUR, n, body(kind, HOUR, n))
            for kind, n in counts.items()
        )
        hours = (HourCounts(HOUR, final, counts[FileKind.DEAD_LETTER], 0),)
        return NewBatch((), files, sum(counts.values()), hours, "2.0")

    return produce


@contextmanager
def watched(world, table):
    """What a reader sees of a table all the while: sums of rows."""
    seen, stop = set(), Event()

    def look():
        while not stop.is_set():
            seen.add(sum(world.catalog.files(table).values()))

    reader = Thread(target=look)
    reader.start()
    yield seen
    stop.set()
    reader.join()
    seen.add(sum(world.catalog.files(table).values()))


def keys(world, prefix):
    return {info.key for info in world.store.list(BUCKET, prefix)}


def test_readers_see_each_table_before_or_after_and_a_live_batch_that_came_between_stays(real, ran):
    swap = planned(real, ran.spike)
    with watched(real, "payouts") as final, watched(real, "payouts_dead_letters") as dead:
        swapper(real).finish(ran.spike, swap.number, producing(real, ran.spike, final=3))
        ran.stage(4, 2, 1)
        real.promoter().promote(ran.spike, limit=9)
        real.publisher.publish(ran.spike, real.dataset(ran.spike))
    assert final <= {8, 15}
    assert dead <= {4, 3}
    assert 15 in final
    assert 3 in dead
    real.publisher.clean(ran.spike)
    assert keys(real, "staging/") == set()
    assert breaches(real) == {}


@pytest.mark.parametrize(
    ("effect", "after"),
    [("store.copy", False), ("store.copy", True), ("ledger.commit", True), ("catalog.publish", True)],
)
def test_a_swap_killed_on_the_way_ends_as_if_it_had_not_been(real, ran, effect, after):
    swap = planned(real, ran.spike)
    produce = producing(real, ran.spike, final=3)
    if effect == "catalog.publish":
        swapper(real).finish(ran.spike, swap.number, produce)
        publish = real.catalog.publish
        real.catalog.publish = lambda *a, **k: publish(*a, **k) and (_ for _ in ()).throw(Transient("killed"))
        with pytest.raises(Transient):
            real.settle(ran.spike)
        del real.catalog.publish
    else:
        for at in range(1, 9):
            trap = Trap(effect, at, after)
            try:
                dying(real, trap).finish(ran.spike, swap.number, produce)
            except Transient:
                assert breaches(real) == {}
            expire_leases(real)
    end = swapper(real).finish(ran.spike, swap.number, produce)
    assert end.state is SwapState.SWAPPED
    real.settle(ran.spike)
    assert sum(real.catalog.files("payouts").values()) == 11
    assert sum(real.catalog.files("payouts_dead_letters").values()) == 1
    assert breaches(real) == {}


def test_retention_removes_what_was_replaced_once_no_snapshot_shows_it(real, ran):
    swap = planned(real, ran.spike)
    swapper(real).finish(ran.spike, swap.number, producing(real, ran.spike, final=3))
    real.settle(ran.spike)
    before = keys(real, "final/")

    def retained(snapshots):
        terms = RetentionTerms(timedelta(microseconds=1), snapshots, 1)
        runs = Retainer(real.ledger, real.store, real.catalog, real.spikes, terms).run()
        return {r.kind: r.objects for r in runs}

    assert retained(timedelta(days=1))[Kind.SUPERSEDED] == 0
    assert keys(real, "final/") == before
    found = retained(timedelta(microseconds=1))
    assert (found[Kind.SUPERSEDED], found[Kind.SNAPSHOT] >= 2) == (0, True), "a reader may still be at it"
    assert retained(timedelta(days=1))[Kind.SUPERSEDED] == 2
    live = {f.final_key for f in real.ledger.live_files("payouts", 3)}
    assert keys(real, "final/") == live
    assert real.catalog.sequence("payouts_dead_letters") == 3
    assert breaches(real) == {}
