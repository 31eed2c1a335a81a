"""What each verb of the ledger promises: in a real PostgreSQL, and in memory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.resources import as_file, files

import pytest
import sqlalchemy as sa
from alembic import command
from builders import HOUR, empty, epoch, new_batch, partition, spike, staged_file

from spike_pipelines.adapters.ledger import SqlLedger, Tokens, migrate, register_token, schema
from spike_pipelines.adapters.ledger.migrate import config
from spike_pipelines.adapters.memory_ledger import MemoryLedger
from spike_pipelines.domain.batch import LIVE_LANE, BatchState, FileKind, HourCounts
from spike_pipelines.domain.binding import Binding, Written
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Conflict, Fenced, InvariantBroken, LeaseLost, Transient
from spike_pipelines.domain.leases import Lease
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.promotion import Intent
from spike_pipelines.ports import Recovery, Refusal

NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"


def r(start, end, index=0):
    return OffsetRange(partition(index), start, end)


@pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.real), "memory"])
def ledger(request):
    """The real one, and the one of the model."""
    if request.param == "memory":
        return MemoryLedger()
    session_ledger = request.getfixturevalue("session_ledger")
    empty(session_ledger)
    return session_ledger


server_only = pytest.mark.parametrize(
    "ledger", [pytest.param("postgres", marks=pytest.mark.real)], indirect=True
)


@pytest.fixture
def opened(ledger):
    """Spike `payouts` with dataset `payouts`, epoch 1 of driver `a`, partition 0 at 0."""
    with ledger.begin() as tx:
        tx.lock_spike("payouts", "payouts")
        tx.add_epoch(epoch(at=tx.now()))
        tx.add_positions("payouts", LIVE_LANE, {partition(): 0})
    return ledger


def add(ledger, start=0, end=10, *, key="part-0.parquet", identity=None, epoch=1):
    batch = new_batch(r(start, end), files=[staged_file(key)], hours=[HourCounts(HOUR, 10, 0, 0)])
    with ledger.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, batch.ranges)
        return tx.add_batch(
            "payouts",
            LIVE_LANE,
            batch,
            epoch=epoch,
            identity=identity or f"{start}-{end}",
            prefix=f"p/{epoch}/{start}/",
        )


def commit(ledger, batch, final_key=None):
    with ledger.begin() as tx:
        (file,) = tx.files(batch.number)
        tx.set_state(batch.number, BatchState.STAGED, BatchState.INTENDED)
        tx.intend([Intent(file.id, final_key or f"final/{batch.number}")])
        tx.set_state(batch.number, BatchState.INTENDED, BatchState.COMMITTED)
        tx.advance_committed("payouts", LIVE_LANE, batch.ranges)
        return tx.commit_files("payouts", batch.number, {file.id: "etag"})


# the schema


@pytest.mark.real
def test_the_migrated_schema_is_the_declared_one(ledger_url):
    with as_file(files("spike_pipelines.adapters.ledger") / "migrations") as folder:
        command.check(config(ledger_url, str(folder)))


@server_only
def test_migrating_again_changes_nothing(opened, ledger_url):
    migrate(ledger_url)
    assert opened.epochs()["payouts"].driver == "a"


@pytest.mark.real
def test_two_processes_may_migrate_at_once(postgres, ledger_url):
    admin = sa.create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS twice")
        connection.exec_driver_sql("CREATE DATABASE twice")
    admin.dispose()
    # Alembic keeps its context in the module: two processes, not two threads.
    code = "import sys; from spike_pipelines.adapters.ledger import migrate; migrate(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", code, postgres.url("twice")]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE positions SET committed_end = staged_end + 1",
        "UPDATE positions SET staged_end = baseline - 1",
        "UPDATE batches SET state = 'lost'",
        "UPDATE batches SET state = 'committed', committed_at = NULL",
        "UPDATE files SET state = 'live'",
        "UPDATE datasets SET published = sequence + 1",
        (
            "INSERT INTO epochs (spike, number, nonce, driver, state, opened_at, heartbeat_at,"
            " application_version) VALUES ('payouts', 2, 'n', 'b', 'open', now(), now(), '1')"
        ),
        (
            "INSERT INTO batch_ranges SELECT batch, topic_id, partition + 1, topic, spike, lane, 5, 5, live"
            " FROM batch_ranges"
        ),
    ],
)
def test_the_database_itself_refuses_what_must_never_be(opened, wrong):
    add(opened)
    with pytest.raises(InvariantBroken, match="the ledger refused a write"), opened.begin() as tx:
        tx._db.exec_driver_sql(wrong)


def test_a_database_that_does_not_answer_is_transient():
    ledger = SqlLedger(NOWHERE)
    for ask in (ledger.now, ledger.backlog, ledger.books, lambda: ledger.acquire("r", "h", 1)):
        with pytest.raises(Transient):
            ask()
    ledger.close()


# transactions


def test_an_error_inside_rolls_everything_back(opened):
    with pytest.raises(Conflict), opened.begin() as tx:  # noqa: PT012 - the last line raises
        tx.add_positions("payouts", LIVE_LANE, {partition(1): 0})
        tx.retire_epoch("payouts", "a")
        raise Conflict("no")
    assert set(opened.all_positions()["payouts"]) == {partition(0)}
    assert opened.epochs()["payouts"].state is EpochState.OPEN


@server_only
def test_a_killed_connection_is_transient_and_the_next_one_works(opened):
    def kill(tx):
        pid = tx._db.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with opened.begin() as other:
            other._db.exec_driver_sql("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})

    with pytest.raises(Transient), opened.begin() as tx:  # noqa: PT012 - the last line raises
        tx.retire_epoch("payouts", "a")
        kill(tx)
        tx.now()
    assert opened.epochs()["payouts"].state is EpochState.OPEN


# spikes, epochs


def test_a_dataset_belongs_to_one_spike(opened):
    with (
        pytest.raises(InvariantBroken, match="dataset payouts belongs to spike payouts"),
        opened.begin() as tx,
    ):
        tx.lock_spike("thief", "payouts")


def test_a_newer_epoch_supersedes_the_open_one(opened):
    with opened.begin() as tx:
        tx.add_epoch(epoch(2, "b", after=1))
        assert tx.latest_epoch("payouts").number == 2
        assert tx.driver_epoch("payouts", "a").state is EpochState.SUPERSEDED
        assert tx.driver_epoch("payouts", "c") is None


def test_retiring_is_told_from_having_nothing_to_retire(opened):
    with opened.begin() as tx:
        assert not tx.retire_epoch("payouts", "b")
        assert tx.retire_epoch("payouts", "a")
        assert not tx.retire_epoch("payouts", "a")


def beat(ledger, number=1, nonce="nonce-1"):
    with ledger.begin() as tx:
        tx.beat("payouts", number, nonce, phase="reading", problem="slow", batch_started_at=HOUR,
                read={partition(): 5})  # fmt: skip


def test_a_heartbeat_is_noted_with_the_databases_time(opened):
    before = opened.epochs()["payouts"].heartbeat_at
    beat(opened)
    found = opened.epochs()["payouts"]
    assert (found.phase, found.problem, found.batch_started_at) == ("reading", "slow", HOUR)
    assert found.heartbeat_at > before


@pytest.mark.parametrize("token", [(2, "nonce-1"), (1, "other"), (0, "nonce-1")])
def test_a_heartbeat_without_the_token_is_fenced(opened, token):
    with pytest.raises(Fenced):
        beat(opened, *token)


@pytest.mark.parametrize("end", ["superseded", "retired"])
def test_a_heartbeat_of_an_ended_epoch_is_fenced(opened, end):
    with opened.begin() as tx:
        if end == "retired":
            tx.retire_epoch("payouts", "a")
        else:
            tx.add_epoch(epoch(2, "b"))
    with pytest.raises(Fenced):
        beat(opened)


def test_the_last_refusal_is_kept_until_it_is_taken_back(opened):
    with opened.begin() as tx:
        tx.refuse("payouts", Refusal(HOUR, "lost", "gone " * 1000, "a"))
    kept = opened.refusals()["payouts"]
    assert (kept.at, kept.code, len(kept.message)) == (HOUR, "lost", 2000)
    with opened.begin() as tx:
        tx.refuse("payouts", None)
    assert opened.refusals() == {}


def test_recoveries_are_told_oldest_first_within_the_window(opened):
    with opened.begin() as tx:
        for minutes in (5, 1, 90):
            tx.add_recovery(Recovery("payouts", HOUR - timedelta(minutes=minutes), "start", "c", "MISSING"))
    found = opened.recoveries(HOUR - timedelta(hours=1))["payouts"]
    assert [x.at for x in found] == [HOUR - timedelta(minutes=5), HOUR - timedelta(minutes=1)]


# offsets and batches


@pytest.mark.parametrize("start", [4, 6])
def test_ends_advance_only_from_where_they_are(opened, start):
    with opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, [r(0, 5)])
    with pytest.raises(Conflict, match="not at the start of every range"), opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, [r(start, 9)])
    assert opened.all_positions()["payouts"][partition()].staged_end == 5


def test_the_ends_of_another_spike_that_reads_the_same_topic_stay(opened):
    with opened.begin() as tx:
        tx.lock_spike("session", "session")
        tx.add_positions("session", LIVE_LANE, {partition(): 4})
    with pytest.raises(Conflict), opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, [r(4, 9)])
    with opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, [r(0, 4)])
        tx.move_ends("payouts", LIVE_LANE, {partition(): 2})
    ends = {name: found[partition()].staged_end for name, found in opened.all_positions().items()}
    assert ends == {"payouts": 2, "session": 4}


def test_a_driver_that_could_not_be_let_in_hides_nothing_that_a_person_decides(opened):
    opened.note_unjudged("payouts", "who is it?")
    opened.note_unjudged("of no such spike", "who is it?")
    (noted,) = opened.refusals().values()
    assert (noted.code, noted.message, noted.unheard_at) == ("unjudged", "who is it?", noted.at)
    assert abs(noted.at - opened.now()) < timedelta(minutes=1)
    with opened.begin() as tx:
        tx.refuse("payouts", Refusal(HOUR, "lost", "gone", "a"))
    opened.note_unjudged("payouts", "who is it?")
    assert opened.refusals()["payouts"].code == "lost"


def test_of_several_ranges_one_that_does_not_fit_refuses_all(opened):
    with pytest.raises(Conflict), opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, [r(0, 5), r(0, 5, 1)])
    assert opened.all_positions()["payouts"][partition()].staged_end == 0


def test_an_identity_is_registered_once(opened):
    add(opened)
    with pytest.raises(InvariantBroken):
        add(opened, 10, 20, identity="0-10")


def test_a_batch_is_read_back_as_it_was_written(opened):
    made = add(opened)
    with opened.begin() as tx:
        assert tx.find_batch("0-10") == tx.batch(made.number) == tx.next_batch("payouts", LIVE_LANE) == made
        (file,) = tx.files(made.number)
    assert (file.staging_key, file.rows, file.size, file.hour) == ("p/1/0/part-0.parquet", 10, 100, HOUR)
    assert (file.kind, file.staging_etag, file.final_key) == (FileKind.FINAL, "abc", None)


def test_the_oldest_unfinished_batch_comes_first_and_a_held_one_is_not_skipped(opened):
    first, second = add(opened), add(opened, 10, 20)
    with opened.begin() as tx:
        tx.set_state(first.number, BatchState.STAGED, BatchState.HELD, reason="odd")
        held = tx.next_batch("payouts", LIVE_LANE)
        assert (held.number, held.held_reason) == (first.number, "odd")
        assert tx.unfinished("payouts", LIVE_LANE) == 2
    assert second.number > first.number


def test_a_state_changes_only_from_the_one_it_is_in(opened):
    made = add(opened)
    with opened.begin() as tx:
        tx.set_state(made.number, BatchState.STAGED, BatchState.INTENDED)
    with pytest.raises(Conflict, match="not staged any more"), opened.begin() as tx:
        tx.set_state(made.number, BatchState.STAGED, BatchState.INTENDED)


def test_sequence_numbers_have_no_gaps_and_batch_numbers_grow(opened):
    batches = [add(opened, 10 * i, 10 * i + 10) for i in range(3)]
    assert [commit(opened, b) for b in batches] == [1, 2, 3]
    assert sorted({b.number for b in batches}) == [b.number for b in batches]
    assert [b.number for b in opened.committed_batches("payouts", 2)] == [b.number for b in batches[:2]]
    assert [b.number for b in opened.last_batches("payouts", 2)] == [b.number for b in batches[:0:-1]]


def test_two_files_never_share_a_final_key(opened):
    commit(opened, add(opened), "final/same")
    with pytest.raises(InvariantBroken):
        commit(opened, add(opened, 10, 20), "final/same")


def test_a_commit_that_does_not_name_every_file_is_refused(opened):
    made = add(opened)
    refused = pytest.raises(InvariantBroken, match="1 file of batch")
    with refused, opened.begin() as tx:
        (file,) = tx.files(made.number)
        tx.set_state(made.number, BatchState.STAGED, BatchState.INTENDED)
        tx.intend([Intent(file.id, "final/x")])
        tx.commit_files("payouts", made.number, {})


def test_changed_and_live_files_follow_sequence_numbers(opened):
    for start in (0, 10, 20):
        commit(opened, add(opened, start, start + 10))
    changed = opened.changed_files("payouts", FileKind.FINAL, current=1, target=2)
    assert [f.added for f in changed] == [2]
    assert opened.changed_files("payouts", FileKind.DEAD_LETTER, current=0, target=3) == ()
    assert [f.added for f in opened.live_files("payouts", 2)] == [1, 2]


def test_what_batches_were_written_with_is_told_once_each_in_the_order_of_commits(opened):
    """Not even that is known of an epoch that is older than bindings."""
    first, second = add(opened), add(opened, 10, 20)
    for batch in (first, second):
        commit(opened, batch)
    assert opened.written_between("payouts", current=0, target=9) == (Written("1.0", None),)
    with opened.begin() as tx:
        tx.bind("payouts", 1, Binding.of(spike(schema="id BIGINT")))
        assert tx.written(second.number) == Written("1.0", "id BIGINT")
    assert opened.written_between("payouts", current=0, target=9) == (Written("1.0", "id BIGINT"),)
    assert opened.written_between("payouts", current=2, target=9) == ()


def test_what_is_published_or_reported_never_goes_back(opened):
    for start in (0, 10):
        commit(opened, add(opened, start, start + 10))
    opened.mark_published("payouts", 2)
    opened.mark_published("payouts", 1)
    opened.mark_reported("payouts", 2, since=0)
    opened.mark_reported("payouts", 1, since=0)
    (state,) = opened.datasets()
    assert (state.sequence, state.published, state.reported) == (2, 2, 2)


def test_since_when_readers_miss_something_is_when_the_first_unpublished_commit_was(opened):
    for start in (0, 10):
        commit(opened, add(opened, start, start + 10))
    before = opened.datasets()[0].unpublished_since
    assert timedelta(0) <= opened.now() - before < timedelta(minutes=1)
    opened.mark_published("payouts", 1)
    assert before < opened.datasets()[0].unpublished_since <= opened.now()
    opened.mark_published("payouts", 2)
    assert opened.datasets()[0].unpublished_since is None


def test_reports_cover_what_was_published_since_the_last_one(opened):
    made = [add(opened, start, start + 10) for start in (0, 10)]
    for batch in made:
        commit(opened, batch)
    opened.mark_published("payouts", 1)
    (report,) = opened.unreported("payouts")
    assert (report.sequence, report.rows, report.files, report.size) == (1, 10, 1, 100)
    assert (report.hour, report.batches, report.ranges) == (HOUR, (made[0].number,), (r(0, 10),))
    assert report.latency_seconds >= 0
    opened.mark_reported("payouts", 1, since=0)
    assert opened.unreported("payouts") == ()


def test_only_published_batches_are_cleaned_and_once(opened):
    first, second = add(opened, key="a"), add(opened, 10, 20, key="b")
    commit(opened, first), commit(opened, second)
    assert (opened.cleanable("payouts", 9), opened.uncleaned()) == ({}, ())
    opened.mark_published("payouts", 1)
    assert opened.cleanable("payouts", 9) == {first.number: ("p/1/0/a",)}
    assert opened.uncleaned() == ("payouts",)
    opened.mark_cleaned([first.number])
    assert (opened.cleanable("payouts", 9), opened.uncleaned()) == ({}, ())


def test_the_backlog_tells_who_waits_who_is_held_and_who_is_taken(opened):
    assert opened.backlog() == ()
    first = add(opened)
    add(opened, 10, 20)
    (waiting,) = opened.backlog()
    assert (waiting.batches, waiting.blocked, waiting.free) == (2, False, True)
    assert opened.acquire("promote:payouts", "x", 10)
    with opened.begin() as tx:
        tx.set_state(first.number, BatchState.STAGED, BatchState.HELD, reason="odd")
    (waiting,) = opened.backlog()
    assert (waiting.blocked, waiting.free) == (True, False)


def test_known_final_keys_are_those_of_files_and_intents(opened):
    commit(opened, add(opened), "final/live")
    made = add(opened, 10, 20)
    with opened.begin() as tx:
        tx.intend([Intent(tx.files(made.number)[0].id, "final/intended")])
    keys = ["final/live", "final/intended", "final/stranger"]
    assert opened.known_final_keys(keys) == {"final/live", "final/intended"}


# leases


def test_a_lease_is_one_holders_until_it_is_given_back(ledger):
    lease = ledger.acquire("r", "a", 10)
    assert ledger.acquire("r", "b", 10) is None
    assert ledger.acquire("r", "a", 10) is None
    assert ledger.lease_state("r") == (lease.token, True)
    ledger.release(lease)
    assert ledger.lease_state("r") == (lease.token, False)
    assert ledger.acquire("r", "b", 10).token == lease.token + 1


def expire(ledger):
    with ledger.begin() as tx:
        tx._db.execute(sa.update(schema.leases).values(expires_at=HOUR))


def test_an_expired_lease_is_taken_over_with_a_greater_token(ledger):
    old = ledger.acquire("r", "a", 10)
    expire(ledger)
    assert ledger.acquire("r", "b", 10).token > old.token


@pytest.mark.parametrize("taken", [False, True])
def test_the_old_holder_of_an_expired_lease_can_do_nothing(ledger, taken):
    old = ledger.acquire("r", "a", 10)
    expire(ledger)
    if taken:
        ledger.acquire("r", "b", 10)
    with pytest.raises(LeaseLost):
        ledger.renew(old, 10)
    with pytest.raises(LeaseLost):
        ledger.release(old)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.require_lease(old)


def test_a_lease_never_taken_has_token_zero_and_cannot_be_shown(ledger):
    assert ledger.lease_state("r") == (0, False)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.require_lease(Lease("r", 1, "a"))


def test_of_many_who_ask_at_once_one_gets_the_lease(ledger):
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: ledger.acquire("r", str(i), 10), range(8)))
    assert sum(lease is not None for lease in got) == 1


# tokens


@server_only
def test_a_token_speaks_for_its_spike_only(ledger, ledger_url):
    register_token(ledger_url, "payouts", "secret")
    register_token(ledger_url, "payouts", "secret")
    register_token(ledger_url, "payouts", "rotated")
    tokens = Tokens(ledger_url)
    assert tokens.allows("payouts", "secret")
    assert tokens.allows("payouts", "rotated")
    assert not tokens.allows("payouts", "Secret")
    assert not tokens.allows("session", "secret")
    with ledger.begin() as tx:
        stored = tx._db.exec_driver_sql("SELECT string_agg(token_sha256, ' ') FROM tokens").scalar_one()
    assert "secret" not in stored
