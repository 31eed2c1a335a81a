"""`spike audit`: a good run is clean, and each breach turns its own invariant red."""

import io
import weakref
from dataclasses import replace
from threading import RLock

import pandas as pd
import pyarrow.parquet as pq
import pytest
import test_swap
from builders import BUCKET, HOUR, parquet

from spike_pipelines.domain.errors import NotParquet, ObjectMissing, Transient
from spike_pipelines.domain.operations import Author
from spike_pipelines.ports import LiveFile
from spike_pipelines.services.audit import Auditor
from spike_pipelines.services.deep_audit import DeepAuditor
from spike_pipelines.services.operate import Request
from spike_pipelines.services.project import Projector

pytestmark = pytest.mark.real


@pytest.fixture
def ran(world):
    """Three batches published, one more waits; a second spike beside."""
    driver = world.driver(world.spike())
    for _ in range(3):
        driver.stage()
    world.settle(driver.spike)
    driver.stage()
    other = world.driver(world.spike("session"))
    other.stage()
    world.settle(other.spike)
    return world


def red(world):
    return {invariant for invariant, finding in world.audit().items() if not finding.ok}


def live(world):
    return world.keys("final/payouts/")[0]


def test_a_good_run_is_clean_and_every_finding_has_a_figure(ran):
    findings = ran.audit()
    assert [*findings] == ["I1", "I2", "I3", "I4", "I5", "I6", "I8", "I9", "I10"]
    assert all(f.ok and f.figure and not f.breaches for f in findings.values())
    assert findings["I8"].figure == "24 = 16 + 4 + 4"
    assert findings["I5"].figure.startswith("6 offsets staged")


def test_an_empty_platform_is_clean(world):
    world.spike()
    assert red(world) == set()


def delete_live(world):
    world.store.delete(BUCKET, [live(world)])


def overwrite_live(world):
    world.store.put(BUCKET, live(world), parquet(5))


def add_stranger(world):
    world.store.put(BUCKET, "final/payouts/hour=2026-11-22T21/stranger.parquet", parquet(2))


def add_dead_stranger(world):
    world.store.put(BUCKET, "final/payouts_dead_letters/stranger", b"")


def delete_staged(world):
    world.store.delete(BUCKET, [world.keys("staging/")[0]])


def replace_staged(world):
    world.store.put(BUCKET, world.keys("staging/")[0], parquet(2, start=90))


def table_ahead(world):
    """As after a restore of the ledger that lost a commit and the rewind of it."""
    world.catalog._tables["payouts"].sequence = 5


def table_lost_a_file(world):
    files = world.catalog._tables["payouts"].files
    del files[next(iter(files))]


def table_has_a_stranger(world):
    stranger = LiveFile("s3://lake/final/payouts/stranger", 1, 1, HOUR)
    world.catalog._tables["payouts"].files[stranger.uri] = stranger


def somebody_hides_rows(world):
    """As `DELETE FROM` of another engine does."""
    hidden = LiveFile("s3://lake/final/payouts/deletes", -1, 1, HOUR)
    world.catalog._tables["payouts"].files[hidden.uri] = hidden


def table_went_back(world):
    world.catalog._tables["payouts"].sequence = 1
    files = world.catalog._tables["payouts"].files
    for uri in list(files)[2:]:
        del files[uri]


def table_was_dropped(world):
    del world.catalog._tables["payouts"]


def topic_made_again(world):
    world.broker.delete("payouts-topic")
    world.broker.create("payouts-topic")


def topic_deleted(world):
    world.broker.delete("payouts-topic")


def next_record_deleted(world):
    world.broker.delete_records("payouts-topic", 0, before=25)


def application_gone_and_table_dropped(world):
    del world.spikes["payouts"]
    del world.catalog._tables["payouts"]


def application_gone_and_object_deleted(world):
    del world.spikes["payouts"]
    delete_live(world)


def application_gone_and_staged_deleted(world):
    del world.spikes["payouts"]
    delete_staged(world)


def nobody_knows_the_place(world):
    del world.spikes["payouts"]
    world.execute("UPDATE bindings SET used = false WHERE spike = 'payouts'")


def log_cut_off(world):
    world.broker.truncate("payouts-topic", 0, 23)


FIRST = "(SELECT min(number) FROM batches WHERE spike = 'payouts')"
SECOND = "(SELECT min(number) + 1 FROM batches WHERE spike = 'payouts')"
THIRD = "(SELECT min(number) + 2 FROM batches WHERE spike = 'payouts')"


def sql(*statements):
    def alter(world):
        for statement in statements:
            world.execute(statement)

    return alter


def of_gaps(*statements):
    """Of a topic where numbers of records and of offsets differ."""

    def alter(world):
        world.spikes["payouts"] = replace(world.spikes["payouts"], topic_has_gaps=True)
        sql(*statements)(world)

    return alter


BREACHES = {
    "a live object is deleted": (delete_live, {"I4"}),
    "a live object is overwritten": (overwrite_live, {"I4"}),
    "an unknown object lies under final": (add_stranger, {"I4"}),
    "an unknown object lies under dead letters": (add_dead_stranger, {"I4"}),
    "a staged object is gone too early": (delete_staged, {"I9"}),
    "a table lost a file": (table_lost_a_file, {"I3"}),
    "a table has a file too many": (table_has_a_stranger, {"I3"}),
    "a table went back to an older snapshot": (table_went_back, {"I3"}),
    "rows of a table are hidden": (somebody_hides_rows, {"I3"}),
    "a table was dropped": (table_was_dropped, {"I3"}),
    "the topic was made again": (topic_made_again, {"I10"}),
    "the topic was deleted": (topic_deleted, {"I10"}),
    "Kafka deleted what was not read": (next_record_deleted, {"I10"}),
    "Kafka's log was cut off below what is staged": (log_cut_off, {"I10"}),
    "the ranges of a batch are gone": (sql(f"DELETE FROM batch_ranges WHERE batch = {SECOND}"), {"I1"}),
    "the first batch's ranges are gone": (sql(f"DELETE FROM batch_ranges WHERE batch = {FIRST}"), {"I1"}),
    "the last batch's ranges are gone": (sql(f"DELETE FROM batch_ranges WHERE batch = {THIRD}"), {"I1"}),
    "a range begins too late": (
        sql(
            f"UPDATE batch_ranges SET start_offset = start_offset + 2 WHERE batch = {SECOND}",
            f"UPDATE batches SET records_read = 4, records_filtered = records_filtered - 2"
            f" WHERE number = {SECOND}",
        ),
        {"I1"},
    ),
    "two ranges overlap": (
        sql(
            f"UPDATE batch_ranges SET start_offset = start_offset - 2 WHERE batch = {SECOND}",
            f"UPDATE batches SET records_read = records_read + 2, records_filtered = records_filtered + 2"
            f" WHERE number = {SECOND}",
        ),
        {"I2"},
    ),
    "a range lies within another": (
        sql(
            f"UPDATE batch_ranges SET start_offset = 1, end_offset = 3 WHERE batch = {SECOND}",
            f"UPDATE batch_ranges SET end_offset = 12 WHERE batch = {FIRST}",
            f"UPDATE batches SET records_read = 12, records_filtered = 7 WHERE number = {FIRST}",
            f"UPDATE batches SET records_read = 2, records_filtered = -3 WHERE number = {SECOND}",
        ),
        {"I2"},
    ),
    "records were read and not counted": (
        sql(f"UPDATE batches SET records_read = records_read + 1 WHERE number = {SECOND}"), {"I1", "I8"},
    ),
    "files have other rows than were counted": (
        sql(f"UPDATE files SET rows = rows + 1 WHERE batch = {SECOND} AND kind = 'dead_letter'"),
        {"I3", "I8"},
    ),
    "a file row is gone": (sql("DELETE FROM files WHERE added = 3"), {"I3", "I4", "I8"}),
    "a committed end went back": (
        sql("UPDATE positions SET committed_end = 12 WHERE spike = 'payouts'"), {"I2"},
    ),
    "a committed end ran ahead": (
        sql("UPDATE positions SET committed_end = 24 WHERE spike = 'payouts'"), {"I1"},
    ),
    "a committed batch's files are staged again": (
        sql(f"UPDATE files SET state = 'staged' WHERE batch = {SECOND}"), {"I3"},
    ),
    "a file of a batch that waits is live": (
        sql(
            "UPDATE files SET state = 'live', dataset = 'other', added = 9, final_key = 'k', final_etag = 'e'"
            f" WHERE id = (SELECT min(id) FROM files WHERE batch = {THIRD} + 1)"
        ),
        {"I3"},
    ),
    "a file is superseded by nothing": (
        sql(f"UPDATE files SET state = 'superseded', removed = 3 WHERE batch = {SECOND} AND kind = 'final'"),
        {"I1", "I3"},
    ),
    "a file will be superseded by nothing": (
        sql(f"UPDATE files SET state = 'superseded', removed = 9 WHERE batch = {SECOND} AND kind = 'final'"),
        {"I1"},
    ),
    "a commit is gone": (sql("DELETE FROM commits WHERE dataset = 'payouts' AND sequence = 2"), {"I3"}),
    "the last commit is gone": (
        sql("DELETE FROM commits WHERE dataset = 'payouts' AND sequence = 3"), {"I3"},
    ),
    "a dataset's sequence went back": (
        sql("UPDATE datasets SET sequence = 2, published = 2, reported = 0 WHERE name = 'payouts'"), {"I3"},
    ),
    "a table was dropped, and its application file is gone": (application_gone_and_table_dropped, {"I3"}),
    "a live object is deleted, and its application file is gone": (
        application_gone_and_object_deleted, {"I4"},
    ),
    "a staged object is gone, and its application file too": (application_gone_and_staged_deleted, {"I9"}),
    "nobody says where a dataset is": (nobody_knows_the_place, {"I3", "I4", "I9"}),
    "a commit counts too much, another too little": (
        sql(
            f"UPDATE batches SET records_read = 7, records_filtered = records_filtered + 1"
            f" WHERE number = {FIRST}",
            f"UPDATE batches SET records_read = 5, records_filtered = records_filtered - 1"
            f" WHERE number = {SECOND}",
        ),
        {"I8"},
    ),
    "more was read than the ranges of a topic with gaps have": (
        of_gaps(f"UPDATE batches SET records_read = 9, records_filtered = records_filtered + 3"
                f" WHERE number = {FIRST}"),
        {"I8"},
    ),
    "a position of a topic with gaps is gone": (
        of_gaps("DELETE FROM positions WHERE spike = 'payouts'"), {"I1"},
    ),
    "the first ranges of a topic with gaps are gone, and its baseline is behind them": (
        of_gaps(
            f"DELETE FROM batch_ranges WHERE batch = {FIRST}",
            "UPDATE positions SET baseline = 6 WHERE spike = 'payouts'",
        ),
        {"I1"},
    ),
    "a batch that waits leaves offsets out": (
        sql(f"UPDATE batch_ranges SET start_offset = start_offset + 2 WHERE batch = {THIRD} + 1"), {"I1"},
    ),
    "a batch that waits reads offsets again": (
        sql(f"UPDATE batch_ranges SET start_offset = start_offset - 2 WHERE batch = {THIRD} + 1"), {"I2"},
    ),
    "the ranges of a batch that waits are gone": (
        sql(
            f"DELETE FROM batch_ranges WHERE batch = {THIRD} + 1",
            "UPDATE positions SET staged_end = committed_end WHERE spike = 'payouts'",
        ),
        {"I1"},
    ),
    "the files of a batch that waits are gone": (
        sql(f"DELETE FROM files WHERE batch = {THIRD} + 1"), {"I8"},
    ),
    "a staged object is another": (replace_staged, {"I9"}),
    "a file is recorded for another hour": (
        sql(
            "UPDATE files SET hour = hour + interval '1 hour'"
            f" WHERE batch = {FIRST} AND kind = 'dead_letter'"
        ),
        {"I4", "I8"},
    ),
    "an hour of a batch counts other records than its files have": (
        sql(f"UPDATE batch_hours SET records_final = records_final + 1 WHERE batch = {FIRST}"), {"I8"},
    ),
    "the hours of a batch are gone": (sql(f"DELETE FROM batch_hours WHERE batch = {FIRST}"), {"I8"}),
    "two batches have each other's files": (
        sql(f"UPDATE files SET batch = {FIRST} + {SECOND} - batch WHERE batch IN ({FIRST}, {SECOND})"),
        {"I4"},
    ),
    "a table is ahead of its ledger": (table_ahead, {"I3"}),
    "positions are closed, and their topic is not gone": (
        sql(
            "INSERT INTO operations (request, spike, kind, who, why, summary)"
            " VALUES ('r', 'payouts', 'accept_loss', 'ann', 'w', 's')",
            "UPDATE positions SET closed_by = (SELECT id FROM operations) WHERE spike = 'payouts'",
        ),
        {"I10"},
    ),
    "a batch was registered by a fenced epoch": (
        sql(
            "UPDATE epochs SET state = 'superseded' WHERE spike = 'payouts'",
            "INSERT INTO epochs (spike, number, nonce, driver, state, opened_at, heartbeat_at,"
            " application_version) SELECT spike, 2, 'n', 'b', 'open', opened_at, heartbeat_at, '1'"
            " FROM epochs WHERE spike = 'payouts'",
        ),
        {"I6"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("breach", "invariants"), BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_turns_its_invariant_red_and_no_other(ran, breach, invariants):
    breach(ran)
    assert red(ran) == invariants


@pytest.mark.parametrize("spike", ["payouts", "session"])
def test_a_breach_names_its_place(ran, spike):
    ran.store.put(BUCKET, f"final/{spike}/stranger", b"")
    assert ran.audit()["I4"].breaches == (f"s3://lake/final/{spike}/stranger is not in the ledger",)


def test_a_broker_that_is_down_is_not_observed_and_not_ok(ran):
    ran.broker.up = False
    finding = ran.audit()["I10"]
    assert (finding.ok, finding.observed, finding.breaches) == (False, False, ())
    assert "not observed" in finding.figure
    assert red(ran) == {"I10"}


def test_a_spike_without_application_file_is_audited_where_it_was_opened(ran):
    del ran.spikes["payouts"]
    assert red(ran) == set()
    assert ran.audit()["I3"].figure == "12 files in 4 tables"


def test_numbers_that_a_redone_table_skipped_are_not_missing(ran):
    spike = ran.spikes["payouts"]
    ran.catalog._tables["payouts"].sequence = 40
    Projector(ran.ledger, ran.catalog, ran.publisher).project(
        spike, Request("r", Author("ann", "restored")), events=False
    )
    ran.driver(spike, after=1).stage()
    ran.settle(spike)
    assert ran.dataset(spike).sequence > 40
    assert red(ran) == set()


def test_a_bucket_that_is_gone_is_not_observed_and_not_ok(ran):
    ran.store._buckets.clear()
    findings = ran.audit()
    assert {i for i, f in findings.items() if not f.observed} == {"I4", "I9"}


def test_a_catalog_that_does_not_answer_is_not_observed_and_not_ok(ran):
    def down(table):
        raise Transient("the catalog is down")

    ran.catalog.sequence = down
    assert not ran.audit()["I3"].observed


def test_an_audit_beside_commits_stays_clean(ran):
    """Batches are promoted, published and cleaned between any two looks of the audit."""
    driver = ran.driver(ran.spikes["payouts"], after=1)
    auditor = Auditor(ran.ledger, ran.broker, ran.store, ran.catalog, ran.spikes)
    for finding in auditor.run():
        assert finding.ok, finding
        driver.stage(1, 0, 0)
        ran.settle(driver.spike)


# every record, one by one


class Reader:
    """Files of these tests have ids, not offsets: the batch's range and the ids make them up."""

    def __init__(self, world, places):
        self._world, self._places = world, places

    def places(self, bucket, key):
        rows = pq.read_metadata(io.BytesIO(self._world.store._bucket(bucket)[key].body)).num_rows
        return pd.DataFrame({"partition": 0, "offset": [next(self._places) for _ in range(rows)]})


def deep(world, offsets):
    world.promoter().promote(world.spikes["payouts"], limit=9)
    reader = Reader(world, iter(offsets))
    (finding,) = DeepAuditor(world.ledger, reader, world.spikes).run()
    return finding.breaches


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([0, 1, 2, 3], ()),
        ([0, 1, 1, 3], ("offset 1 is there again",)),
        ([0, 1, 2, 9], ("offset 9 is not in the ranges",)),
    ],
)
def test_each_record_is_held_against_its_batch_and_the_others(world, offsets, words):
    world.driver(world.spike()).stage(3, 1, 1)
    breaches = deep(world, offsets)
    assert len(breaches) == len(words)
    assert all(word in breach for word, breach in zip(words, breaches, strict=True))


@pytest.mark.parametrize(("rows", "found"), [(-1, 3), (1, 5)])
def test_a_file_with_other_rows_than_were_committed_is_told(world, rows, found):
    """Each record that is there is in its place, so only the number tells."""
    world.driver(world.spike()).stage(4, 0, 4)
    world.promoter().promote(world.spikes["payouts"], limit=9)
    reader = Reader(world, iter(range(8)))
    changes = iter([rows, 0])

    class Miscounts:
        def places(self, bucket, key):
            frame, change = reader.places(bucket, key), next(changes)
            more = pd.DataFrame({"partition": 0, "offset": [7] * max(change, 0)})
            return pd.concat([frame.iloc[: len(frame) + min(change, 0)], more])

    (finding,) = DeepAuditor(world.ledger, Miscounts(), world.spikes).run()
    (breach,) = finding.breaches
    assert breach.endswith(f"4 records to be found, {found} are")


class Counts:
    """Reads what is in the files, and how many were in memory at once."""

    def __init__(self, world):
        self._world, self._lock, self.alive, self.most = world, RLock(), 0, 0

    def places(self, bucket, key):
        body = self._world.store._bucket(bucket)[key].body
        table = pq.read_table(io.BytesIO(body), columns=["kafka_partition", "kafka_offset"])
        frame = table.rename_columns(["partition", "offset"]).to_pandas()
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(frame, self._gone)
        return frame

    def _gone(self):
        with self._lock:
            self.alive -= 1


def test_offsets_that_two_batches_read_are_told(world):
    driver = world.driver(world.spike())
    driver.stage(3, 1, 0)
    driver.stage(3, 1, 0)
    world.settle(driver.spike)
    world.execute("UPDATE batch_ranges SET start_offset = 3 WHERE start_offset = 4")
    (finding,) = DeepAuditor(world.ledger, Counts(world), world.spikes).run()
    assert "[3,8) of batch" in finding.breaches[0]


def test_the_deep_audit_has_a_few_files_in_memory_however_many_there_are(world):
    driver = world.driver(world.spike(records=1_000, max_staged_batches=100))
    for _ in range(60):
        driver.stage(2, 0, 0)
    world.promoter().promote(driver.spike, limit=60)
    reader = Counts(world)
    (finding,) = DeepAuditor(world.ledger, reader, world.spikes).run()
    assert (finding.breaches, finding.figure) == ((), "120 records read, 0 filtered")
    assert 0 < reader.most <= 12


class Fails:
    def __init__(self, error):
        self._error = error

    def places(self, bucket, key):
        raise self._error


@pytest.mark.parametrize("error", [ObjectMissing("x is not there"), NotParquet("x is cut off")])
def test_a_file_that_is_gone_or_broken_is_a_breach_and_its_records_are_missed(world, error):
    world.driver(world.spike()).stage(4, 0, 0)
    world.promoter().promote(world.spikes["payouts"], limit=9)
    (finding,) = DeepAuditor(world.ledger, Fails(error), world.spikes).run()
    *said, missed = finding.breaches
    assert set(said) == {str(error)}
    assert missed.endswith("4 records to be found, 0 are")


def test_a_file_that_could_not_be_read_is_not_observed_and_hides_no_other_dataset(ran):
    good = Counts(ran)

    class Half:
        def places(self, bucket, key):
            if "payouts" in key:
                raise Transient("the store is down")
            return good.places(bucket, key)

    findings = list(DeepAuditor(ran.ledger, Half(), ran.spikes).run())
    assert sorted((f.observed, f.ok) for f in findings) == [(False, False), (True, True)]


def test_a_dataset_whose_application_file_is_gone_is_opened_where_its_batches_are(ran):
    everything = list(DeepAuditor(ran.ledger, Counts(ran), ran.spikes).run())
    assert list(DeepAuditor(ran.ledger, Counts(ran), {}).run()) == everything


def test_where_all_is_broken_the_first_breaches_are_told(world):
    driver = world.driver(world.spike(records=3_000))
    driver.stage(2_400, 0, 0)
    breaches = deep(world, range(5_000, 7_400))
    assert (len(breaches), breaches[-1]) == (1_001, "and 1,400 more")


# swaps, as the audit sees them


@pytest.fixture
def swapped_in(ran):
    """All dead letters of `payouts` replayed: half of them became rows, one was filtered."""
    spike = ran.spikes["payouts"]
    ran.promoter().promote(spike, limit=9)
    swap = test_swap.swapped(ran, spike, final=2, filtered=1)
    ran.settle(spike)
    return swap


def test_a_swap_is_clean_and_counted(ran, swapped_in):
    assert red(ran) == set()
    assert ran.audit()["I8"].figure == "30 = 20 + 5 + 5, 1 swap of 4 records"


def of_swap(statement):
    def alter(world):
        number = world.ledger.swaps("payouts", 1)[0].batch
        world.execute(statement.format(batch=number))

    return alter


def delete_superseded(world):
    kept = world.ledger.kept_superseded("payouts")
    world.store.delete(BUCKET, [kept[0].final_key])


SWAP_BREACHES = {
    "a replaced file is live again": (
        of_swap("UPDATE files SET state = 'live', removed = NULL WHERE state = 'superseded'"), {"I2", "I3"},
    ),
    "a replay read fewer records than it replaced": (
        of_swap("UPDATE batches SET records_read = 3, records_filtered = 0 WHERE number = {batch}"), {"I8"},
    ),
    "a replay does not add up": (
        of_swap("UPDATE batches SET records_filtered = 0 WHERE number = {batch}"), {"I8"},
    ),
    "a replay's files have other rows": (
        of_swap("UPDATE files SET rows = rows + 1 WHERE batch = {batch} AND kind = 'final'"), {"I3", "I8"},
    ),
    "a superseded file went while older snapshots show it": (delete_superseded, {"I4"}),
    "a file went before its replacement was published": (
        of_swap(
            "UPDATE files SET condemned_at = now() WHERE state = 'superseded';"
            "UPDATE datasets SET reported = 0, published = 1 WHERE name = 'payouts'"
        ),
        {"I9"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("breach", "invariants"), SWAP_BREACHES.values(), ids=SWAP_BREACHES.keys())
def test_a_breach_by_a_swap_turns_its_invariant_red(ran, swapped_in, breach, invariants):
    breach(ran)
    assert red(ran) == invariants


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([0, 1, 2, 3], ()),
        ([0, 1, 2, 7], ("offset 7 is not in the ranges",)),
        ([0, 1, 2, 2], ("offset 2 is there again",)),
    ],
)
def test_records_of_a_swap_are_held_against_the_batches_they_came_from(world, offsets, words):
    """Two final rows, one dead letter that became one, one that was filtered, one that stayed."""
    driver = world.driver(world.spike())
    driver.stage(2, 3, 1)
    world.settle(driver.spike)
    test_swap.swapped(world, driver.spike, final=1, filtered=1)
    breaches = deep(world, offsets)
    assert len(breaches) == len(words)
    assert all(word in breach for word, breach in zip(words, breaches, strict=True))


def test_a_record_that_a_swap_lost_is_missed_in_the_group(world):
    driver = world.driver(world.spike())
    driver.stage(2, 3, 1)
    world.settle(driver.spike)
    swap = test_swap.swapped(world, driver.spike, final=1, filtered=1)
    world.execute(f"UPDATE batches SET records_filtered = 0 WHERE number = {swap.batch}")
    (breach,) = deep(world, [0, 1, 2, 3])
    assert breach.endswith(f"and {swap.batch}: 5 records to be found, 4 are")
