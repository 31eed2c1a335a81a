"""As `model_protections`: what a file holds, swaps, people's decisions, retention."""

from dataclasses import replace
from unittest import mock

import sqlalchemy as sa
from builders import HOUR, NEXT_HOUR
from model_invariants import expect
from model_operations import TERMS, Desk, Reading
from model_protections import (
    Play,
    Protection,
    advance_from_anywhere,
    answered,
    lease_not_asked_for_in,
    nothing,
    patched,
    refused,
    set_any_state,
)
from model_world import CountingCatalog, Record
from processes import Fault

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.adapters.ledger.ledger import SqlLedger
from spike_pipelines.adapters.ledger.transaction import SqlTransaction
from spike_pipelines.domain.batch import BatchState, FileKind, FileState, HourCounts
from spike_pipelines.domain.errors import Fenced, Refused
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.retention import Kind, Removal
from spike_pipelines.domain.rewind import Aligned, ToOffsets
from spike_pipelines.domain.swap import SwapBusy, SwapState
from spike_pipelines.services import operate, promote, publish, register, retain, swap
from spike_pipelines.services.register import Registered
from spike_pipelines.services.retain import Retainer


def desk(play: Play) -> Desk:
    return Desk(play.world)


def to(play: Play, offset: int) -> ToOffsets:
    return ToOffsets(play.world.spike.topic, {0: offset})


def committed(play: Play, count: int = 1):
    """A driver whose batches are committed, published and cleaned up."""
    driver = play.staged(count)
    play.world.settle()
    play.check()
    return driver


def slow_to(play: Play, process, effect: str, nth: int):
    expect(process.reach(effect, nth), "the scenario is out of date")
    return process


def later(play: Play) -> None:
    play.world.clock.advance(TERMS.grace.total_seconds() + 1)


def held_with(play: Play, post) -> None:
    """The batch is held, and nothing of it is committed."""
    play.world.stopped = "miscounted"
    answered(play.world.post(post), Registered)
    play.world.settle()
    play.check()
    expect(play.states() == [BatchState.HELD], f"the batch is {play.states()}")


# what a file holds


def files_of_other_records(play: Play) -> None:
    """As many of each kind as the batch has, of the offsets behind it."""
    a = play.world.open("a")
    (p,) = a.ends
    post = play.world.write(a, [OffsetRange(p, 3, 6)])
    post.batch = replace(post.batch, ranges=(OffsetRange(p, 0, 3),))
    held_with(play, post)


def records_of_the_partition_beside(play: Play) -> None:
    """Of two partitions in one row group, a record of one whose offset only the other's range has."""
    play.world.broker.add_partitions(play.world.spike.topic, 2)
    play.world.produce(1, [Record(FileKind.FINAL, HOUR)] * 6)
    a = play.world.open("a")
    first, second = sorted(a.ends)
    whole = play.world.write(a, [OffsetRange(first, 1, 4), OffsetRange(second, 0, 6)])
    whole.batch = replace(whole.batch, ranges=(OffsetRange(first, 0, 3), OffsetRange(second, 0, 6)))
    held_with(play, whole)


def file_of_another_hour(play: Play) -> None:
    post = play.world.stage(play.world.open("a"), 3)
    moved = {HOUR: NEXT_HOUR, NEXT_HOUR: HOUR}
    files = tuple(replace(f, hour=moved[f.hour]) for f in post.batch.files)
    hours = tuple(replace(h, hour=moved[h.hour]) for h in post.batch.hours)
    post.batch = replace(post.batch, files=files, hours=hours)
    held_with(play, post)


def table_that_refuses(play: Play) -> None:
    """The table cannot take files of more than one row: it says so, or fails for ever."""
    play.world.catalog.takes = lambda file: file.rows < 2
    held_with(play, play.world.stage(play.world.open("a"), 6))


def published_by_a_later_file(play: Play) -> None:
    """A process that was started with tomorrow's application file publishes what today's drivers wrote."""
    play.staged()
    written = play.world.spike.schema
    play.world.spike = replace(play.world.spike, schema=f"{written}, x STRING", version="2.0")
    play.world.settle()
    found = play.world.catalog.schemas
    expect(found == {written}, f"I3: the table has columns of {found}, files those of {written}")


def hour_without_counts(play: Play) -> None:
    post = play.world.stage(play.world.open("a"), 3)
    post.batch = replace(post.batch, hours=(HourCounts(NEXT_HOUR, 1, 1, 1),))
    answered(play.world.post(post), Refused)


def told_nothing(self, spike, files, footers, lease):
    return {file.id: () for file in files}


# swaps


def replay_that_forgets(play: Play) -> None:
    """Reads one dead letter less than there are, and counts so."""
    committed(play, 2)
    reparse = Reading.reparse

    def forgetful(self, order, keep_alive):
        return reparse(self, replace(order, keys=order.keys[1:]), keep_alive)

    with mock.patch.object(Reading, "reparse", forgetful):
        desk(play).replay().finish()
    play.world.settle()
    play.check()
    play.end()


def rewound_before_the_swap(play: Play) -> None:
    """What a replay replaces is superseded when it has made its copies."""
    committed(play)
    slow = slow_to(play, desk(play).replay(), "store.copy", 1)
    desk(play).rewind(to(play, 0)).finish()
    slow.finish()
    play.check()
    play.end()


def finish_whatever_is_live(self, number, dataset, sequence) -> None:
    f, x = schema.files, schema.swap_files
    frozen = sa.select(x.c.file).where(x.c.swap == number)
    self._db.execute(
        sa.update(f)
        .where(f.c.id.in_(frozen), f.c.state == FileState.LIVE)
        .values(state=FileState.SUPERSEDED, removed=sequence)
    )
    self._move(number, SwapState.STAGED, SwapState.SWAPPED, ended_at=sa.func.clock_timestamp())


def two_replays(play: Play) -> None:
    """The second one plans while the first one works."""
    committed(play)
    first = slow_to(play, desk(play).replay(), "store.copy", 1)
    new = _same_plan(play)
    with play.world.ledger.begin() as tx:
        refused(SwapBusy, lambda: tx.add_swap(new))
    first.finish()
    play.end()


def _same_plan(play: Play) -> swap.NewSwap:
    (now,) = play.world.ledger.open_swaps(play.world.spike.name)
    with play.world.ledger.begin() as tx:
        frozen = tuple(f.id for f in tx.replaced(now.number))
    return swap.NewSwap(
        now.spike, now.dataset, now.kind, "bob", "also", now.application_version, now.scope, frozen
    )


def swap_lease_over(play: Play) -> None:
    """A replay that is slow before its commit; another process has its lease by then."""
    committed(play)
    slow = slow_to(play, desk(play).replay(), "store.copy", 1)
    while slow.waits_for != "ledger.begin":
        slow.step()
    play.world.clock.advance(40)
    slow.finish()
    (found,) = play.world.ledger.swaps(play.world.spike.name, 9)
    expect(found.state is not SwapState.SWAPPED, "a replay whose lease is over swapped")
    play.check()


# people


def posted_again_after_a_rewind(play: Play) -> None:
    """A batch is superseded; its driver sends it again, as after a lost reply."""
    play.staged()
    post = play.world.posts[-1]
    play.world.settle()
    desk(play).rewind(to(play, 0)).finish()
    answered(play.world.post(post), Fenced)
    play.end()


def newest_epoch(self, spike, by):
    return self.latest_epoch(spike).number


def rewound_before_the_commit(play: Play) -> None:
    """A promotion has made its copies when a rewind gives its batch up."""
    play.staged()
    slow = slow_to(play, play.world.promotion(), "ledger.begin", 4)
    desk(play).rewind(to(play, 0)).finish()
    slow.finish()
    play.check()
    play.end()


def rewound_beyond_kafka(play: Play) -> None:
    committed(play)
    play.world.broker.delete_records(play.world.spike.topic, 0, 3)
    desk(play).rewind(to(play, 0)).finish()
    play.check()
    play.end()


def rewound_while_kafka_deletes(play: Play) -> None:
    """Kafka has all of it when the rewind looks first, and deletes it before the rewind commits."""
    committed(play)
    slow = slow_to(play, desk(play).rewind(to(play, 0)), "ledger.begin", 1)
    play.world.broker.delete_records(play.world.spike.topic, 0, 3)
    slow.finish()
    play.check()
    play.end()


def rewound_into_a_batch(play: Play) -> None:
    committed(play)
    desk(play).rewind(to(play, 1)).finish()
    play.check()
    play.end()


def split(points, units):
    beyond = {n for u in units if any(r.end > points[r.partition] for r in u.ranges) for n in u.batches}
    return Aligned(points, tuple(sorted(beyond)))


def rewound_after_a_replay(play: Play) -> None:
    """The records of a superseded batch lie in the files of a swap."""
    committed(play)
    desk(play).replay().finish()
    play.world.settle()
    play.check()
    desk(play).rewind(to(play, 0)).finish()
    play.world.settle()
    play.check()
    play.end()


def rewound_after_a_recreation(play: Play) -> None:
    """A replay put records of a topic that is gone into a file with those of the one that took its name."""
    committed(play)
    made_again_and_accepted(play)
    answered(play.world.post(play.world.stage(play.world.take_over("b"), 3)), Registered)
    play.world.settle()
    desk(play).replay().finish()
    desk(play).rewind(to(play, 0)).finish()
    play.world.settle()
    play.check()
    play.end()


def apart(units, sources):
    return list(units)


def discarded_though_not_held(play: Play) -> None:
    play.staged()
    number = play.waiting()
    desk(play).discard(number).finish()
    expect(play.states() == [BatchState.STAGED], f"nobody held the batch, it is {play.states()}")


def read_on_after_a_recreation(play: Play) -> None:
    committed(play)
    made_again_and_accepted(play)
    play.check()
    play.end()


def made_again_and_accepted(play: Play) -> None:
    play.world.stopped = "topic recreated"
    play.world.broker.delete(play.world.spike.topic)
    play.world.broker.create(play.world.spike.topic)
    play.produce(6)
    desk(play).accept_loss().finish()


# retention


def retained_while_it_waits(play: Play) -> None:
    """Batches of an epoch that is over wait for the appender for long."""
    play.staged()
    play.world.take_over("b")
    later(play)
    desk(play).retain().finish()
    play.check()
    play.end()


_judge = retain.judge_staged


def never_registered(facts, grace):
    return _judge(replace(facts, state=None), grace)


def retained_before_the_post(play: Play) -> None:
    """A driver is slow between its files and its POST, and nobody took its epoch."""
    a = play.world.open("a")
    post = play.world.stage(a, 3)
    later(play)
    desk(play).retain().finish()
    answered(play.world.post(post), Registered)
    play.check()
    play.end()


def everything_is_over(facts, grace):
    return _judge(replace(facts, over=True), grace)


def retained_before_publication(play: Play) -> None:
    """A replay superseded files that the table still shows."""
    committed(play)
    desk(play).replay().finish()
    later(play)
    desk(play).retain().finish()
    play.check()
    play.end()


def retained_with_its_snapshot(play: Play) -> None:
    """Nobody sees a superseded file, but who reads the snapshot before."""
    committed(play)
    desk(play).replay().finish()
    play.world.settle()
    later(play)
    desk(play).retain().finish()
    play.check()
    play.end()


def retained_after_a_late_publication(play: Play) -> None:
    """The appender was away for longer than all of retention's times: what it replaces was just read."""
    committed(play)
    desk(play).replay().finish()
    play.world.clock.advance(TERMS.snapshots.total_seconds() + 1)
    play.world.settle()
    for _ in range(2):  # the snapshot before goes, then what only it showed
        desk(play).retain().finish()
        play.check()
    play.end()


def whatever_is_superseded(self, dataset, kind, *, limit, after=0, **_):
    f = schema.files
    wanted = f.c.state == FileState.SUPERSEDED, f.c.kind == kind, f.c.condemned_at.is_(None)
    return self._found(self._condemned().where(*wanted), limit, after)


def copied_after_the_sweep(play: Play) -> None:
    """A copy of an aborted intent arrives when its key was swept once."""
    play.staged()
    run = slow_to(play, play.world.run(), "store.copy", 1)
    run.step(Fault.LATE)
    desk(play).rewind(to(play, 0)).finish()
    desk(play).retain().finish()
    for request in run.late:
        request()
    play.check()
    play.end()


def not_again(self, spike, *, dry_run):
    return Removal(spike.name, Kind.AGAIN)


def killed_while_deleting(play: Play) -> None:
    """Retention dies right after it deleted superseded files."""
    committed(play)
    desk(play).replay().finish()
    play.world.settle()
    play.world.clock.advance(TERMS.snapshots.total_seconds() + 1)
    desk(play).retain().finish()
    run = slow_to(play, desk(play).retain(), "store.delete", 1)
    run.step(Fault.AFTER)
    play.check()
    play.end()


def delete_first(self, spike, page) -> None:
    page = list(page)
    self.store.delete(spike.final.bucket, [c.key for c in page])
    self.ledger.mark_condemned(c.file for c in page if not c.again)
    self.ledger.mark_swept(c.file for c in page if c.again)


ANY_STATE = patched(SqlTransaction, "set_state", set_any_state)
ANY_END = patched(SqlTransaction, "_advance", advance_from_anywhere)

PROTECTIONS = (
    Protection("records of the batch's ranges", "domain/contents.py:origin_problem", "I2",
               patched(promote, "origin_problem", nothing), files_of_other_records),
    Protection("records that share a row group", "services/promote.py:origins", "I2",
               patched(promote.Promoter, "origins", told_nothing), records_of_the_partition_beside),
    Protection("hour of a file", "domain/contents.py:hour_problem", "I3",
               patched(promote, "hour_problem", nothing), file_of_another_hour),
    Protection("what a table takes", "services/promote.py:check_publishable", "I3",
               patched(CountingCatalog, "misfit", nothing), table_that_refuses),
    Protection("columns that were written", "services/publish.py:ensure_table", "I3",
               patched(publish, "schema_of", lambda spike, _: spike.schema), published_by_a_later_file),
    Protection("counts of a file's hour", "domain/registration.py:_check_files_have_counts", "I8",
               patched(register, "check_batch", nothing), hour_without_counts),
    Protection("conservation of a swap", "domain/swap.py:swap_problem", "I1, I8",
               patched(swap, "swap_problem", nothing), replay_that_forgets),
    Protection("what a swap replaces is live", "adapters/ledger/swaps.py:finish_swap", "I2",
               patched(SqlTransaction, "finish_swap", finish_whatever_is_live), rewound_before_the_swap),
    Protection("one swap of a file", "adapters/ledger/swaps.py:_require_free", "I2",
               patched(SqlTransaction, "_require_free", nothing), two_replays),
    Protection("lease at a swap", "services/swap.py:_commit", "one replay",
               lease_not_asked_for_in("_commit"), swap_lease_over),
    Protection("a rewind fences", "adapters/ledger/operations.py:bump_epoch", "I1, I6",
               patched(SqlTransaction, "bump_epoch", newest_epoch), posted_again_after_a_rewind),
    Protection("a rewind takes the lease", "adapters/ledger/operations.py:revoke_lease", "I3",
               patched(SqlTransaction, "revoke_lease", nothing), rewound_before_the_commit,
               given=(ANY_STATE, ANY_END)),
    Protection("what Kafka still has", "domain/operations.py:check_readable", "I1",
               patched(operate, "check_readable", nothing), rewound_beyond_kafka),
    Protection("what Kafka still has at the commit", "services/operate.py:_still_readable", "I1",
               patched(operate.Operator, "_still_readable", nothing), rewound_while_kafka_deletes),
    Protection("whole batches go back", "domain/rewind.py:align_down", "I1",
               patched(operate, "align_down", split), rewound_into_a_batch),
    Protection("swaps go back with their batches", "domain/rewind.py:joined", "I2",
               patched(operate, "joined", apart), rewound_after_a_replay,
               given=(patched(SqlTransaction, "_require_unreplaced", nothing),)),
    Protection("what nobody can read again stays", "services/operate.py:_check_open", "I1",
               patched(operate, "_check_open", nothing), rewound_after_a_recreation),
    Protection("only held batches are decided on", "domain/held.py:require_held", "I5",
               patched(operate, "require_held", lambda batch, *_: batch), discarded_though_not_held),
    Protection("the topic before is closed", "adapters/ledger/operations.py:close_positions", "I10",
               patched(SqlTransaction, "close_positions", nothing), read_on_after_a_recreation),
    Protection("staged files of waiting batches", "domain/retention.py:judge_staged", "I9",
               patched(retain, "judge_staged", never_registered), retained_while_it_waits),
    Protection("staged files of the open epoch", "domain/retention.py:judge_staged", "I9",
               patched(retain, "judge_staged", everything_is_over), retained_before_the_post),
    Protection("superseded files until published", "adapters/ledger/retention.py:superseded", "I9",
               patched(SqlLedger, "superseded", whatever_is_superseded), retained_before_publication),
    Protection("superseded files until their snapshots go", "domain/retention.py:invisible_since", "I9",
               patched(retain, "invisible_since", lambda at, _, shown: min(at, shown)),
               retained_with_its_snapshot),
    Protection("grace counts from the publication", "adapters/ledger/retention.py:published_before", "I9",
               patched(retain, "invisible_since", lambda at, readable, _: min(at, readable)),
               retained_after_a_late_publication),
    Protection("tombstones swept again", "services/retain.py:_again", "I4",
               patched(Retainer, "_again", not_again), copied_after_the_sweep),
    Protection("condemned before deleted", "services/retain.py:_delete", "I4",
               patched(Retainer, "_delete", delete_first), killed_while_deleting),
)  # fmt: skip
