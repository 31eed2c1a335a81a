"""The protections of the protocol, how each is switched off, and what then goes wrong.

`given` are other protections that are off on both sides, where one stands behind another.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from unittest import mock

import sqlalchemy as sa
from builders import BUCKET, HOUR
from model_invariants import Watch, expect
from model_machine import finale
from model_world import CountingCatalog, ModelWorld, Record, RecordStore, encode
from processes import Fault

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.adapters.ledger.ledger import SqlLedger
from spike_pipelines.adapters.ledger.transaction import SqlTransaction
from spike_pipelines.adapters.memory_catalog import MemoryCatalog
from spike_pipelines.adapters.memory_store import MemoryObjectStore
from spike_pipelines.domain import promotion, starting
from spike_pipelines.domain.batch import UNFINISHED, BatchState, FileKind
from spike_pipelines.domain.epochs import Grant
from spike_pipelines.domain.errors import (
    AlreadyExists,
    Fenced,
    Gap,
    Held,
    Lost,
    ObjectMissing,
    Overlap,
    Refused,
    SpecChanged,
    TooManyStaged,
    TopicChanged,
    Transient,
    Truncated,
)
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.services import promote, register
from spike_pipelines.services.drain import Drain
from spike_pipelines.services.promote import Promoter
from spike_pipelines.services.publish import Publisher
from spike_pipelines.services.register import EpochToken, Registered

Off = Callable[[], AbstractContextManager[object]]


@dataclass
class Play:
    """A world in which a scenario is acted out."""

    gappy: bool = False
    world: ModelWorld = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.world = ModelWorld(gappy=self.gappy)
        self.watch = Watch(self.world)
        self.produce(6)

    def produce(self, count: int) -> None:
        kinds = (FileKind.FINAL, FileKind.DEAD_LETTER, None)
        self.world.produce(0, [Record(kinds[i % 3], HOUR) for i in range(count)])

    def staged(self, count: int = 1, most: int = 3):
        """A driver that has registered so many batches."""
        driver = self.world.open("a")
        for _ in range(count):
            answered(self.world.post(self.world.stage(driver, most)), Registered)
        return driver

    def states(self) -> list[BatchState]:
        return [b.state for b in reversed(self.world.ledger.last_batches(self.world.spike.name, 99))]

    def waiting(self) -> int:
        """The first batch that waits."""
        seen = self.world.ledger.last_batches(self.world.spike.name, 99)
        return min(b.number for b in seen if b.state in UNFINISHED)

    def check(self) -> None:
        self.watch.check()

    def end(self) -> None:
        for process in self.world.processes:
            process.kill()
        finale(self.world, self.watch)


@dataclass(frozen=True, slots=True)
class Protection:
    """`code` is where it stands, `promise` what it keeps."""

    name: str
    code: str
    promise: str
    off: Off
    scenario: Callable[[Play], None]
    given: tuple[Off, ...] = ()
    gappy: bool = False


def answered(answer: object, kind: type) -> None:
    expect(isinstance(answer, kind), f"{kind.__name__} was to be answered, not {answer!r}")


def refused(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    expect(False, f"{kind.__name__} was to be answered")


def patched(target: object, name: str, by: object) -> Off:
    return lambda: mock.patch.object(target, name, by)


def nothing(*_, **__) -> None:
    """Stands where a check stood."""


# who may register


def zombie(play: Play) -> None:
    a = play.world.open("a")
    late = play.world.stage(a)
    b = play.world.take_over("b")
    answered(play.world.post(late), Fenced)
    play.world.post(play.world.stage(b))
    answered(play.world.post(late), Fenced)
    play.end()


def guessed(play: Play) -> None:
    post = play.world.stage(play.world.open("a"))
    post.token = EpochToken(post.token.number, "0" * 32)
    answered(play.world.post(post), Fenced)


def retired(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.stage(a)
    play.world.retire("a")
    answered(play.world.post(post), Fenced)


def only_the_number(latest, token) -> None:
    if latest.number != token.number or latest.nonce != token.nonce:
        raise Fenced("another epoch")


def newcomer(play: Play) -> None:
    a = play.world.open("a")
    refused(Held, lambda: play.world.open("b"))
    play.world.beat(a)


def grant_to_anybody(*, latest, **_):
    return Grant(latest.number + 1 if latest else 1)


def comes_back(play: Play) -> None:
    play.world.open("a")
    play.world.take_over("b")
    play.world.clock.advance(60)
    refused(Fenced, lambda: play.world.open("a"))


_decide_epoch = register.decide_epoch


def forgetful(**facts):
    return _decide_epoch(**{**facts, "driver_latest": None, "after": None})


def fenced_heartbeat(play: Play) -> None:
    a = play.world.open("a")
    play.world.take_over("b")
    refused(Fenced, lambda: play.world.beat(a))


# what may be registered


def gap(play: Play) -> None:
    a = play.staged()
    (p,) = a.ends
    answered(play.world.post(play.world.write(a, [OffsetRange(p, 4, 6)])), Gap)
    play.end()


def overlap(play: Play) -> None:
    a = play.staged()
    (p,) = a.ends
    answered(play.world.post(play.world.write(a, [OffsetRange(p, 2, 6)])), Overlap)
    play.end()


def does_not_continue(play: Play) -> None:
    a = play.staged()
    (p,) = a.ends
    play.world.post(play.world.write(a, [OffsetRange(p, 4, 6)]))
    play.end()


def advance_from_anywhere(self, column, spike, lane, ranges) -> None:
    p = schema.positions
    for r in ranges:
        end = {c: sa.func.greatest(c, r.end) for c in {column, p.c.staged_end}}
        self._db.execute(sa.update(p).where(p.c.partition == r.partition.index).values(end))


def made_again(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.stage(a)
    play.world.broker.delete(play.world.spike.topic)
    play.world.broker.create(play.world.spike.topic)
    play.produce(6)
    answered(play.world.post(post), TopicChanged)


def of_whatever_topic(batch, topic) -> None:
    for r in batch.ranges:
        if r.end > topic.log_end[r.partition.index]:
            raise Refused("beyond the end")


def opened_on_another_topic(play: Play) -> None:
    play.staged()
    play.world.broker.delete(play.world.spike.topic)
    play.world.broker.create(play.world.spike.topic)
    refused(TopicChanged, lambda: play.world.take_over("b"))


def beyond_the_end(play: Play) -> None:
    a = play.world.open("a")
    (p,) = a.ends
    play.world.post(play.world.write(a, [OffsetRange(p, 0, 9)]))
    play.world.settle()
    play.check()
    play.produce(6)
    play.watch.version = None
    play.end()


def records_gone(play: Play) -> None:
    play.staged()
    play.world.broker.delete_records(play.world.spike.topic, 0, 5)
    refused(Lost, lambda: play.world.take_over("b"))


def cut_off(play: Play) -> None:
    """Kafka gives the offsets that were staged to other records: nobody goes on behind them."""
    play.staged()
    play.world.broker.truncate(play.world.spike.topic, 0, 1)
    refused(Truncated, lambda: play.world.take_over("b"))
    play.produce(1)
    refused(Truncated, lambda: play.world.take_over("b"))


def moved(play: Play) -> None:
    """The application file names another dataset while a batch waits for its own."""
    play.staged()
    spike = play.world.spike
    other = replace(spike, dataset=replace(spike.dataset, name="other"))
    refused(SpecChanged, lambda: play.world.registrar().open_epoch(other, "a", 1, "2.0"))


_starting_point = starting.starting_point


def as_if_all_were_there(positions, topic, start, at_time):
    return _starting_point(
        positions, replace(topic, log_start=dict.fromkeys(topic.log_start, 0)), start, at_time
    )


def doubled(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.stage(a)
    first = play.world.post(post)
    other_files = play.world.write(a, post.batch.ranges)
    again, rerun = play.world.post(post), play.world.post(other_files)
    for answer in (again, rerun):
        answered(answer, Registered)
        expect(answer.batch.number == first.batch.number and not answer.new, "I7: registered twice")
    play.end()


def too_many(play: Play) -> None:
    a = play.staged(3, most=1)
    answered(play.world.post(play.world.stage(a, 1)), TooManyStaged)


# promotion


def killed_after_a_copy(play: Play) -> None:
    play.staged()
    run = play.world.run()
    run.reach("store.copy")
    run.step(Fault.AFTER)
    play.check()
    play.end()


def intend_later(self, spike, batch, lease):
    with self.ledger.begin() as tx:
        files = tx.files(batch.number)
    keys = {i.file: i.final_key for i in promotion.plan_intents(spike, files)}
    return batch, tuple(replace(f, final_key=keys[f.id]) for f in files)


def intended(play: Play):
    """A run that died between its intent and its first copy; answers its first file."""
    play.staged()
    run = play.world.run()
    run.reach("store.copy")
    run.kill()
    play.world.clock.advance(60)
    number = play.waiting()
    return play.world.files_of(number)[0]


def strangers_object(play: Play) -> None:
    file = intended(play)
    body = b"\n".join([b"strange", *encode("x", []).split(b"\n")])
    before = play.world.store.put(BUCKET, file.final_key, body)
    play.world.settle()
    expect(play.world.store.head(BUCKET, file.final_key) == before, "I4: a stranger's object was overwritten")


def lookalike(play: Play) -> None:
    """At the final key lies an object of the right size that another batch made."""
    file = intended(play)
    size = play.world.store.head(BUCKET, file.staging_key).size
    play.world.store.put(BUCKET, file.final_key, b"\n".join([b"x" * (size - 6), b"x 0 0"]))
    play.world.settle()
    play.check()
    expect(play.states() == [BatchState.HELD], "I4: an object that is not ours was taken for ours")


def believe_412(self, spike, file):
    metadata = {promote.BATCH_METADATA: str(file.batch), promote.ETAG_METADATA: file.staging_etag}
    try:
        return self.store.copy(
            BUCKET,
            file.staging_key,
            file.final_key,
            source_etag=file.staging_etag,
            size=file.size,
            metadata=metadata,
        )
    except AlreadyExists:
        return self.store.head(BUCKET, file.final_key)


def fail_on_412(self, spike, file):
    return self.store.copy(
        BUCKET, file.staging_key, file.final_key, source_etag=file.staging_etag, size=file.size, metadata={}
    )


def killed_between_copy_and_commit(play: Play) -> None:
    play.staged()
    run = play.world.run()
    run.reach("store.copy", 2)
    run.step(Fault.AFTER)
    play.end()


def overwrite(self, bucket, source, target, **named):
    self.delete(bucket, [target])
    return MemoryObjectStore.copy(self, bucket, source, target, **named)


def any_source(self, bucket, source, target, *, source_etag, **named):
    found = self.head(bucket, source)
    if found is None:
        raise ObjectMissing(source)
    return MemoryObjectStore.copy(self, bucket, source, target, source_etag=found.etag, **named)


def source_overwritten(play: Play) -> None:
    """A staged object is written again when its footer was read: as many records, others."""
    play.staged()
    run = play.world.run()
    run.reach("store.copy")
    play.world.stopped = "staging spoiled"
    file = play.world.files_of(play.waiting())[0]
    there = play.world.store.places(file.staging_key)
    attempt = "x" * len("attempt-1")
    others = [replace(place, offset=(place.offset + 1) % 3) for place in there]
    play.world.store.put(BUCKET, file.staging_key, encode(attempt, others))
    play.world.spoiled.add(file.staging_key)
    run.finish()
    play.world.settle()
    play.check()
    expect(play.states() == [BatchState.HELD], "the batch is not held")


def key_without_number(spike, file, index, **_):
    return spike.final.key(file.kind, f"{index}.parquet")


def two_batches(play: Play) -> None:
    play.staged(2)
    play.end()


def miscounted(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.stage(a)
    post.batch = replace(post.batch, read=post.batch.read - 1)
    play.world.stopped = "miscounted"
    play.world.post(post)
    play.world.settle()
    play.check()
    expect(play.states() == [BatchState.HELD], "I8: counts do not agree, and the batch is not held")


def fewer_rows_than_said(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.write(a, [OffsetRange(next(iter(a.ends)), 0, 6)])
    first = post.batch.files[0]
    key = f"staging/payouts/{post.token.number:08d}/{first.key}"
    info = play.world.store.put(BUCKET, key, encode("short", play.world.store.places(key)[:-1]))
    files = (replace(first, size=info.size, etag=info.etag), *post.batch.files[1:])
    post.batch = replace(post.batch, files=files)
    play.world.stopped = "miscounted"
    play.world.post(post)
    play.world.settle()
    play.check()
    expect(play.states() == [BatchState.HELD], "I8: rows are missing, and the batch is not held")


_footers = Promoter.footers


def believe_the_driver(self, spike, files, lease):
    files = tuple(files)
    counted = _footers(self, spike, files, lease)
    return {file.id: replace(counted[file.id], rows=file.rows) for file in files}


_require_lease = SqlTransaction.require_lease


def lease_not_asked_for_in(site: str) -> Off:
    def require(self, lease) -> None:
        if sys._getframe(1).f_code.co_name != site:
            _require_lease(self, lease)

    return patched(SqlTransaction, "require_lease", require)


def lease_over_before(nth: int, state: BatchState) -> Callable[[Play], None]:
    """A promotion that is slow at its `nth` transaction may not write it once its lease is over."""

    def scenario(play: Play) -> None:
        a = play.world.open("a")
        post = play.world.stage(a)
        if state is BatchState.HELD:
            post.batch = replace(post.batch, read=post.batch.read - 1)
            play.world.stopped = "miscounted"
        play.world.post(post)
        slow = play.world.promotion()
        expect(slow.reach("ledger.begin", nth), "the scenario is out of date")
        play.world.clock.advance(16)
        slow.finish()
        expect(play.states() != [state], f"a run whose lease is over made a batch {state}")
        play.check()

    return scenario


def both_commit(play: Play) -> None:
    """Two runs have copied; the lease says nothing; both commit."""
    play.staged()
    slow = play.world.promotion()
    slow.reach("ledger.begin", 4)
    play.world.clock.advance(16)
    play.world.promotion().finish()
    slow.finish()
    play.check()
    play.end()


def set_any_state(self, batch, old, new, *, reason=None) -> None:
    b = schema.batches
    at = sa.func.clock_timestamp() if new is BatchState.COMMITTED else None
    self._db.execute(
        sa.update(b).where(b.c.number == batch).values(state=new, held_reason=reason, committed_at=at)
    )


def held_and_another(play: Play) -> None:
    a = play.world.open("a")
    post = play.world.stage(a, 3)
    post.batch = replace(post.batch, read=post.batch.read - 1)
    play.world.stopped = "miscounted"
    play.world.post(post)
    play.world.post(play.world.stage(a, 3))
    play.world.settle()
    play.world.promotion().finish()
    play.check()
    expect(play.states() == [BatchState.HELD, BatchState.STAGED], f"the order is not kept: {play.states()}")


def skip_held(self, spike, lane):
    b = schema.batches
    waiting = b.c.state.in_([BatchState.STAGED, BatchState.INTENDED])
    return self._one_batch(sa.select(b).where(waiting).order_by(b.c.number).limit(1))


def commit_unanswered(play: Play) -> None:
    play.staged()
    slow = play.world.promotion()
    slow.reach("ledger.begin", 4)
    slow.step(Fault.UNANSWERED)
    slow.finish()
    play.check()
    play.end()


_commit = Promoter._commit


def clean_up_after_failure(self, spike, batch, etags, lease) -> None:
    try:
        _commit(self, spike, batch, etags, lease)
    except Transient:
        with self.ledger.begin() as tx:
            keys = [f.final_key for f in tx.files(batch.number)]
        self.store.delete(spike.final.bucket, keys)
        raise


# publication


def two_publishers(play: Play) -> None:
    """One has planned to go from 0 to 2 when another goes from 0 to 1."""
    play.staged(2)
    play.world.promotion(limit=1).finish()
    early = play.world.publication()
    early.reach("catalog.publish")
    play.world.promotion(limit=1).finish()
    both = play.world.publication()
    both.reach("catalog.publish")
    early.finish()
    both.finish()
    play.check()
    play.end()


def late_publisher(play: Play) -> None:
    """One has planned to go from 0 to 1 when another goes from 0 to 2."""
    play.staged(2)
    play.world.promotion(limit=1).finish()
    late = play.world.publication()
    late.reach("catalog.publish")
    play.world.promotion(limit=1).finish()
    play.world.publication().finish()
    late.finish()
    play.check()
    play.end()


def publish_from_anywhere(self, table, *, sequence, add, remove, base=None):
    self.refuse_twice(table, sequence, add := list(add))
    self.writes += 1
    return MemoryCatalog.publish(self, table, sequence=sequence, add=add, remove=remove)


def publish_again(self, table, *, sequence, add, remove, base=None):
    found = self._existing(table)
    found.files = found.files | {f.uri: f for f in add}
    found.sequence = sequence
    self.writes += 1
    return True


def late_mark(play: Play) -> None:
    """Who published 1 says so after another one published 2."""
    play.staged(2)
    play.world.promotion(limit=1).finish()
    late = play.world.publication()
    late.reach("ledger.mark_published")
    play.world.promotion(limit=1).finish()
    play.world.publication().finish()
    play.check()
    late.finish()
    play.check()


def lower_too(self, column, dataset, sequence) -> None:
    d = schema.datasets
    with self._engine.begin() as db:
        db.execute(sa.update(d).where(d.c.name == dataset).values({column: sequence}))


def killed_before_the_snapshot(play: Play) -> None:
    play.staged()
    run = play.world.run()
    run.reach("catalog.publish")
    run.kill()
    play.check()
    play.end()


_publish = Publisher.publish


def mark_first(self, spike, state) -> None:
    self.ledger.mark_published(spike.dataset.name, state.sequence)
    _publish(self, spike, state)


def clean_before_publication(play: Play) -> None:
    play.staged()
    play.world.promotion().finish()
    play.world.publication(0).finish()
    play.check()
    play.end()


def clean_what_is_committed(self, spike, limit):
    numbers = [b.number for b in self.last_batches(spike, limit) if b.state is BatchState.COMMITTED]
    with self.begin() as tx:
        return {n: tuple(f.staging_key for f in tx.files(n)) for n in numbers}


def killed_while_reporting(play: Play) -> None:
    play.staged()
    run = play.world.run()
    run.reach("events.report")
    run.kill()
    play.end()


def report_at_most_once(self):
    for state in self.ledger.datasets():
        if state.reported < state.published:
            reports = self.ledger.unreported(state.name)
            self.ledger.mark_reported(state.name, state.published, since=state.reported)
            yield from reports


PROTECTIONS = (
    Protection("epoch", "services/register.py:check_token", "I6",
               patched(register, "check_token", nothing), zombie),
    Protection("nonce", "services/register.py:check_token", "I6",
               patched(register.secrets, "compare_digest", lambda *_: True), guessed),
    Protection("retirement", "services/register.py:check_token", "I6",
               patched(register, "check_token", only_the_number), retired),
    Protection("waiting for the open epoch", "domain/epochs.py:decide_epoch", "I6",
               patched(register, "decide_epoch", grant_to_anybody), newcomer),
    Protection("fenced for ever", "domain/epochs.py:decide_epoch", "I6",
               patched(register, "decide_epoch", forgetful), comes_back),
    Protection("token of a heartbeat", "adapters/ledger/epochs.py:beat", "I6",
               patched(SqlTransaction, "beat", nothing), fenced_heartbeat),
    Protection("no gap", "domain/offsets.py:check_continues", "I1",
               patched(register, "check_continues", nothing), gap),
    Protection("no overlap", "domain/offsets.py:check_continues", "I2",
               patched(register, "check_continues", nothing), overlap),
    Protection("ends advance from where they are", "adapters/ledger/positions.py:_advance", "I1, I2, I5",
               patched(SqlTransaction, "_advance", advance_from_anywhere), does_not_continue,
               given=(patched(register, "check_continues", nothing),)),
    Protection("topic id of a batch", "domain/registration.py:check_against_broker", "I10",
               patched(register, "check_against_broker", of_whatever_topic), made_again,
               given=(patched(register, "check_identity", nothing),)),
    Protection("topic id of the positions", "domain/starting.py:check_identity", "I10",
               patched(register, "check_identity", nothing), made_again,
               given=(patched(register, "check_against_broker", of_whatever_topic),)),
    Protection("topic id of an epoch", "domain/starting.py:check_identity", "I10",
               patched(starting, "check_identity", nothing), opened_on_another_topic),
    Protection("the broker's end", "domain/registration.py:check_against_broker", "I1",
               patched(register, "check_against_broker", nothing), beyond_the_end, gappy=True),
    Protection("records lost", "domain/starting.py:starting_point", "I10",
               patched(register, "starting_point", as_if_all_were_there), records_gone),
    Protection("log cut off", "domain/starting.py:check_ends", "I10",
               patched(starting, "check_ends", nothing), cut_off),
    Protection("where a spike's rows are", "domain/binding.py:check_unmoved", "I3",
               patched(register, "check_unmoved", nothing), moved),
    Protection("a batch's identity", "services/register.py:register", "I7",
               patched(SqlTransaction, "find_batch", nothing), doubled),
    Protection("bound on staged batches", "services/register.py:check_room", "back-pressure",
               patched(register, "check_room", nothing), too_many),
    Protection("intent before copy", "services/promote.py:_intend", "I4",
               patched(Promoter, "_intend", intend_later), killed_after_a_copy),
    Protection("create-only copy", "ports/store.py:copy", "I4",
               patched(RecordStore, "copy", overwrite), strangers_object),
    Protection("the source's etag", "ports/store.py:copy", "I1", patched(RecordStore, "copy", any_source),
               source_overwritten),
    Protection("whose object it is", "services/promote.py:_copy", "I1, I4",
               patched(Promoter, "_copy", believe_412), lookalike),
    Protection("our own earlier copy", "services/promote.py:_copy", "I3",
               patched(Promoter, "_copy", fail_on_412), killed_between_copy_and_commit),
    Protection("number in the final key", "domain/promotion.py:final_key", "I2",
               patched(promotion, "final_key", key_without_number), two_batches),
    Protection("conservation", "domain/promotion.py:conservation_problem", "I8",
               patched(promote, "conservation_problem", nothing), miscounted),
    Protection("rows counted from footers", "services/promote.py:footers", "I8",
               patched(Promoter, "footers", believe_the_driver), fewer_rows_than_said),
    Protection("lease at the intent", "services/promote.py:intend", "one appender",
               lease_not_asked_for_in("intend"), lease_over_before(3, BatchState.INTENDED)),
    Protection("lease at the commit", "services/promote.py:_commit", "one appender",
               lease_not_asked_for_in("_commit"), lease_over_before(4, BatchState.COMMITTED)),
    Protection("lease at the hold", "services/promote.py:_hold", "one appender",
               lease_not_asked_for_in("_hold"), lease_over_before(3, BatchState.HELD)),
    Protection("state of the batch", "adapters/ledger/batches.py:set_state", "I3",
               patched(SqlTransaction, "set_state", set_any_state), both_commit,
               given=(lease_not_asked_for_in("_commit"),
                      patched(SqlTransaction, "_advance", advance_from_anywhere))),
    Protection("a held batch blocks", "adapters/ledger/batches.py:next_batch", "I1",
               patched(SqlTransaction, "next_batch", skip_held), held_and_another),
    Protection("unknown commits are read back", "services/promote.py:_commit", "I3",
               patched(Promoter, "_commit", clean_up_after_failure), commit_unanswered),
    Protection("base of a publication", "ports/catalog.py:publish", "I2, I3",
               patched(CountingCatalog, "publish", publish_from_anywhere), two_publishers),
    Protection("sequence of a publication", "ports/catalog.py:publish", "I3",
               patched(CountingCatalog, "publish", publish_again), late_publisher,
               given=(patched(CountingCatalog, "publish", publish_from_anywhere),)),
    Protection("published never goes back", "adapters/ledger/ledger.py:_raise_to", "I3",
               patched(SqlLedger, "_raise_to", lower_too), late_mark),
    Protection("published is said after the snapshot", "services/publish.py:publish", "I3",
               patched(Publisher, "publish", mark_first), killed_before_the_snapshot),
    Protection("clean-up after publication", "adapters/ledger/ledger.py:cleanable", "I9",
               patched(SqlLedger, "cleanable", clean_what_is_committed), clean_before_publication),
    Protection("events at least once", "services/drain.py:_report", "I7",
               patched(Drain, "_report", report_at_most_once), killed_while_reporting),
)  # fmt: skip
