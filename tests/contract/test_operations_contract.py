"""The ledger's verbs of audited operations, one by one."""

import pytest
import sqlalchemy as sa
from builders import HOUR, epoch, new_batch, partition, staged_file

from spike_pipelines.domain.batch import LIVE_LANE, BatchState, Counts, FileState, HourCounts
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import Conflict, Fenced, InvariantBroken
from spike_pipelines.domain.held import Recount
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.operations import Author, Move, NewOperation, OperationKind
from spike_pipelines.domain.promotion import Intent

pytestmark = pytest.mark.real

AUTHOR = Author("ann", "a test")


def r(start, end, index=0):
    return OffsetRange(partition(index), start, end)


@pytest.fixture
def opened(ledger):
    """Spike `payouts`, epoch 1 of driver `a`, partition 0 at 0."""
    with ledger.begin() as tx:
        tx.lock_spike("payouts", "payouts")
        tx.add_epoch(epoch(at=tx.now()))
        tx.add_positions("payouts", LIVE_LANE, {partition(): 0})
    return ledger


def add(ledger, start, end, state=BatchState.STAGED):
    """A batch of one file, brought to a state."""
    batch = new_batch(r(start, end), files=[staged_file()], hours=[HourCounts(HOUR, 10, 0, 0)])
    with ledger.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, batch.ranges)
        made = tx.add_batch(
            "payouts", LIVE_LANE, batch, epoch=1, identity=f"{start}-{end}", prefix=f"p{start}/"
        )
        (file,) = tx.files(made.number)
        if state is BatchState.HELD:
            tx.set_state(made.number, BatchState.STAGED, state, reason="odd")
        if state is BatchState.COMMITTED:
            tx.set_state(made.number, BatchState.STAGED, BatchState.INTENDED)
            tx.intend([Intent(file.id, f"final/{made.number}")])
            tx.set_state(made.number, BatchState.INTENDED, BatchState.COMMITTED)
            tx.advance_committed("payouts", LIVE_LANE, batch.ranges)
            tx.commit_files("payouts", made.number, {file.id: "etag"}, run_id="run-1")
    return made.number


def operation(tx, kind=OperationKind.REWIND, request="req", **changes):
    return tx.add_operation(NewOperation(request, "payouts", kind, AUTHOR, "a sentence", **changes))


def committed(ledger, count=3):
    return [add(ledger, 10 * i, 10 * i + 10, BatchState.COMMITTED) for i in range(count)]


def test_an_operation_is_read_back_as_it_was_written_and_its_request_is_unique(opened):
    move = Move(partition(), 20, 10, 5)
    with opened.begin() as tx:
        number = operation(tx, batch=3, epoch=2, sequence=9, moves=(move,))
        assert tx.find_operation("req").id == number
        assert tx.find_operation("other") is None
    with pytest.raises(InvariantBroken), opened.begin() as tx:
        operation(tx)
    with opened.begin() as tx:
        operation(tx, request="later")
    newest, oldest = opened.operations("payouts", 9)
    assert (newest.request, oldest.request) == ("later", "req")
    assert (oldest.kind, oldest.author, oldest.moves) == (OperationKind.REWIND, AUTHOR, (move,))
    assert (oldest.batch, oldest.epoch, oldest.sequence, oldest.summary) == (3, 2, 9, "a sentence")
    assert opened.operations("session", 9) == ()


def test_an_epoch_that_nobody_has_fences_the_open_one(opened):
    with opened.begin() as tx:
        assert tx.bump_epoch("payouts", "rewind by ann") == 2
        assert tx.driver_epoch("payouts", "a").state is EpochState.SUPERSEDED
        latest = tx.latest_epoch("payouts")
    assert (latest.number, latest.driver, latest.state) == (2, "rewind by ann", EpochState.RETIRED)
    with pytest.raises(Fenced), opened.begin() as tx:
        tx.beat("payouts", 1, "nonce-1", phase="x", problem=None, batch_started_at=None, read={})


def test_a_spike_without_an_epoch_gets_its_first(ledger):
    with ledger.begin() as tx:
        tx.lock_spike("payouts", "payouts")
        assert tx.bump_epoch("payouts", "x") == 1


def test_sequence_numbers_go_on_beyond_the_one_that_is_named(opened):
    with opened.begin() as tx:
        assert [tx.next_sequence("payouts"), tx.next_sequence("payouts", above=40)] == [1, 41]
        assert tx.next_sequence("payouts", above=3) == 42


@pytest.mark.parametrize(("point", "found"), [(30, 0), (29, 1), (20, 1), (19, 2), (0, 3)])
def test_batches_beyond_a_point_come_oldest_first(opened, point, found):
    numbers = committed(opened)
    add(opened, 30, 40)
    with opened.begin() as tx:
        beyond = tx.committed_beyond("payouts", LIVE_LANE, {partition(): point})
        assert tx.committed_beyond("payouts", LIVE_LANE, {}) == ()
    assert [b.number for b in beyond] == numbers[3 - found :]


def test_superseded_batches_leave_the_dataset_with_their_files_and_free_their_offsets(opened):
    first, *rest = committed(opened)
    with opened.begin() as tx:
        sequence = tx.next_sequence("payouts")
        tx.supersede(rest, sequence, operation(tx))
        tx.move_ends("payouts", LIVE_LANE, {partition(): 10})
        assert tx.committed_beyond("payouts", LIVE_LANE, {partition(): 0})[0].number == first
    assert [f.batch for f in opened.live_files("payouts", sequence)] == [first]
    assert sorted(f.batch for f in opened.live_files("payouts", sequence - 1)) == [first, *rest]
    assert [b.number for b in opened.committed_batches("payouts", sequence)] == [first]
    assert [b.number for b in opened.committed_batches("payouts", sequence - 1)] == [first, *rest]
    with opened.begin() as tx:
        batch = new_batch(r(10, 20))
        tx.advance_staged("payouts", LIVE_LANE, batch.ranges)
        tx.add_batch("payouts", LIVE_LANE, batch, epoch=1, identity="again", prefix="p/")
    with pytest.raises(Conflict, match="of 2 batches only 0 committed and live"), opened.begin() as tx:
        tx.supersede(rest, 9, operation(tx, request="twice"))


def timeout(tx):
    return tx._db.execute(sa.text("SHOW statement_timeout")).scalar_one()


def test_a_large_rewind_may_take_minutes_and_nothing_else_may(opened):
    """Millions of files: one statement about all of them takes longer than any other may."""
    first, *_ = committed(opened)
    waiting = add(opened, 30, 40)
    acts = [
        lambda tx: tx.committed_beyond("payouts", LIVE_LANE, {partition(): 0}),
        lambda tx: tx.supersede([first], tx.next_sequence("payouts"), operation(tx)),
        lambda tx: tx.abort([waiting], operation(tx, request="other")),
    ]
    for act in acts:
        with opened.begin() as tx:
            assert timeout(tx) == "30s"
            act(tx)
            assert timeout(tx) == "10min"


def test_a_statement_about_many_batches_has_as_many_parameters_as_one_about_few(opened):
    numbers = committed(opened, 30)
    sent = []

    def note(conn, cursor, statement, parameters, context, many):  # noqa: PLR0917 - SQLAlchemy's
        sent.append(len(parameters))

    sa.event.listen(opened._engine, "before_cursor_execute", note)
    try:
        with opened.begin() as tx:
            tx.supersede(numbers, tx.next_sequence("payouts"), operation(tx))
    finally:
        sa.event.remove(opened._engine, "before_cursor_execute", note)
    assert max(sent) < 20
    with opened.begin() as tx:
        assert tx.committed_beyond("payouts", LIVE_LANE, {partition(): 0}) == ()


def test_only_unfinished_batches_are_aborted(opened):
    (done,) = committed(opened, 1)
    waiting = add(opened, 10, 20)
    with pytest.raises(Conflict, match="not unfinished any more"), opened.begin() as tx:
        tx.abort([done, waiting], operation(tx))
    with opened.begin() as tx:
        tx.abort([waiting], operation(tx))
        tx.abort([], operation(tx, request="nothing"))
        assert {f.state for f in tx.files(waiting)} == {FileState.ABORTED}
        assert tx.unfinished_batches("payouts", LIVE_LANE) == ()


def test_ends_move_back_with_the_baseline_only_where_it_lies_beyond(opened):
    with opened.begin() as tx:
        tx.add_positions("payouts", LIVE_LANE, {partition(1): 50})
        tx.move_ends("payouts", LIVE_LANE, {partition(): 7, partition(1): 40})
        found = tx.positions("payouts", LIVE_LANE)
    assert [(p.baseline, p.committed_end, p.staged_end) for _, p in sorted(found.items())] == [
        (0, 7, 7), (40, 40, 40),
    ]  # fmt: skip
    with pytest.raises(Conflict), opened.begin() as tx:
        tx.move_ends("payouts", LIVE_LANE, {partition(9): 0})


def test_a_closed_position_is_read_no_more_and_still_committed_to(opened):
    waiting = new_batch(r(0, 10))
    with opened.begin() as tx:
        tx.advance_staged("payouts", LIVE_LANE, waiting.ranges)
        tx.close_positions("payouts", LIVE_LANE, {"id-1"}, operation(tx, OperationKind.ACCEPT_LOSS))
        assert tx.positions("payouts", LIVE_LANE) == {}
        tx.advance_committed("payouts", LIVE_LANE, waiting.ranges)
    assert opened.all_positions() == {}
    (position,) = opened.readers("events")["payouts"]
    assert (position.closed, position.committed_end) == (True, 10)


def test_a_lost_batch_waits_its_turn_and_has_no_files(opened):
    with opened.begin() as tx:
        number = operation(tx, OperationKind.ACCEPT_LOSS)
        made = tx.add_lost("payouts", LIVE_LANE, [r(0, 30)], epoch=1, operation=number)
        assert tx.next_batch("payouts", LIVE_LANE) == made
        assert tx.files(made.number) == ()
    assert (made.lost, made.counts.read, made.operation) == (True, 0, number)


def test_a_release_takes_the_appenders_counts_and_only_from_held(opened):
    number = add(opened, 0, 10, BatchState.HELD)
    assert opened.held()["payouts"].held_reason == "odd"
    with opened.begin() as tx:
        (file,) = tx.files(number)
        counted = Recount(Counts(10, 8, 0, 1, 1), {file.id: 8})
        tx.release_batch(number, counted, operation(tx, OperationKind.RELEASE, batch=number))
    record = opened.record(number)
    assert (record.batch.state, record.batch.counts) == (BatchState.STAGED, counted.counts)
    assert [f.rows for f in record.files] == [8]
    assert [o.batch for o in record.operations] == [number]
    assert opened.held() == {}
    with pytest.raises(Conflict, match="not held any more"), opened.begin() as tx:
        tx.release_batch(number, counted, operation(tx, OperationKind.RELEASE, request="twice"))


def test_an_offset_is_found_in_live_batches_first_and_then_in_past_ones(opened):
    first, second = committed(opened, 2)
    with opened.begin() as tx:
        tx.supersede([second], tx.next_sequence("payouts"), operation(tx))
        tx.move_ends("payouts", LIVE_LANE, {partition(): 10})
    with opened.begin() as tx:
        batch = new_batch(r(10, 25))
        tx.advance_staged("payouts", LIVE_LANE, batch.ranges)
        again = tx.add_batch("payouts", LIVE_LANE, batch, epoch=1, identity="again", prefix="p/").number
    assert opened.covering("events", 0, 9) == (first,)
    assert opened.covering("events", 0, 19) == (again, second)
    assert opened.covering("events", 0, 24) == (again,)
    assert opened.covering("events", 0, 25) == opened.covering("events", 1, 0) == ()
    assert opened.covering("others", 0, 0) == ()


def test_a_record_has_the_run_and_the_driver_and_a_file_leads_to_it(opened):
    (number,) = committed(opened, 1)
    record = opened.record(number)
    assert (record.driver, record.run_id, record.dataset, record.sequence) == ("a", "run-1", "payouts", 1)
    assert opened.batch_of(f"final/{number}") == opened.batch_of("p0/part-0.parquet") == number
    assert opened.batch_of("nothing") is opened.record(number + 1) is None


def test_reports_are_forgotten_on_request(opened):
    committed(opened, 1)
    opened.mark_published("payouts", 1)
    opened.mark_reported("payouts", 1, since=0)
    opened.forget_reported("payouts")
    opened.mark_reported("payouts", 1, since=1)  # of a run that did not know of it
    assert len(opened.unreported("payouts")) == 1
