"""The rules of the state machine that people and schedules act by: see `model_machine`."""

from datetime import datetime

import hypothesis.strategies as st
from builders import HOUR, NEXT_HOUR
from hypothesis.stateful import precondition, rule
from model_operations import Desk
from model_world import HOURS, ModelWorld, Record
from processes import Fault, Process

from spike_pipelines.domain.batch import FileKind
from spike_pipelines.domain.rewind import Earliest, ToOffsets

NTH = st.integers(1, 6)
INDEX = st.integers(0, 5)
FAULTS = st.sampled_from([f for f in Fault if f is not Fault.NONE])
# Most of them a few offsets back from what is committed: what lies far behind is met by the others.
TARGETS = st.one_of(st.integers(1, 4), st.sampled_from([Earliest(), HOUR, NEXT_HOUR]))
SINCE = st.sampled_from([None, NEXT_HOUR])
DEAD = st.lists(
    st.builds(
        Record,
        st.just(FileKind.DEAD_LETTER),
        st.just(HOUR),
        st.sampled_from([FileKind.FINAL, FileKind.DEAD_LETTER, None]),
    ),
    min_size=1,
    max_size=3,
)
OF_A_REWIND = st.sampled_from(["ledger.begin", "broker.topics"])
OF_A_REPLAY = st.sampled_from(
    [
        "ledger.begin",
        "ledger.acquire",
        "ledger.renew",
        "ledger.release",
        "ledger.dead_letter_files",
        "ledger.open_swaps",
        "store.footer",
        "store.copy",
        "job.reparse",
    ]
)
OF_A_BACKFILL = st.sampled_from(
    [
        "ledger.begin",
        "ledger.acquire",
        "ledger.renew",
        "ledger.release",
        "ledger.open_swaps",
        "ledger.all_positions",
        "broker.topics",
        "store.footer",
        "store.copy",
        "job.reread",
    ]
)
OF_RETENTION = st.sampled_from(
    ["store.list", "store.delete", "ledger.mark_condemned", "ledger.mark_swept", "catalog.expire"]
)
MENDED_BY_ONE = frozenset({"topic recreated", "records lost"})  # a loss that somebody accepts


class People:
    """Rewinds, held batches, replays, backfills, accepted losses, retention: whole, slow, or disturbed.

    A slow one stands before its first effect; `step`, `finish` and `fault` go on with it as with any process.
    """

    world: ModelWorld

    @property
    def desk(self) -> Desk:
        return Desk(self.world)

    @rule(index=INDEX, to=TARGETS, slow=st.booleans(), rested=st.booleans())
    def rewind(self, index: int, to: object, slow: bool, rested: bool) -> None:
        """A spike goes back, whoever stages, promotes, replays or publishes meanwhile."""
        if rested:
            self.world.settle()
        self._unless_slow(slow, self.desk.rewind(self._target(index, to)))

    @rule(records=DEAD, index=INDEX, to=TARGETS, at=OF_A_REWIND, fault=FAULTS)
    def faulty_rewind(self, records: list[Record], index: int, to: object, at: str, fault: Fault) -> None:
        self.go_on(records)
        self.world.settle()
        self._disturb(self.desk.rewind(self._target(index, to)), at, 1, fault)

    @rule(records=DEAD, since=SINCE, slow=st.booleans())
    def replay(self, records: list[Record], since: object, slow: bool) -> None:
        """Dead letters, committed by now, are parsed again and swapped in."""
        self.go_on(records)
        self.world.settle()
        self._unless_slow(slow, self.desk.replay(since))

    @rule(records=DEAD, at=OF_A_REPLAY, nth=NTH, fault=FAULTS)
    def faulty_replay(self, records: list[Record], at: str, nth: int, fault: Fault) -> None:
        self.go_on(records)
        self.world.settle()
        self._disturb(self.desk.replay(), at, nth, fault)

    @rule(slow=st.booleans())
    def replay_again(self, slow: bool) -> None:
        """What another replay left, finished or not: swaps of swaps."""
        self._unless_slow(slow, self.desk.replay())

    @rule(hour=st.sampled_from(HOURS), accept=st.booleans(), slow=st.booleans(), rested=st.booleans())
    def backfill(self, hour: datetime, accept: bool, slow: bool, rested: bool) -> None:
        """An hour is read again and swapped in, whoever stages, promotes, goes back or replays meanwhile."""
        if rested:
            self.world.settle()
        self._unless_slow(slow, self.desk.backfill(hour, accept_loss=accept))

    @rule(records=DEAD, at=OF_A_BACKFILL, nth=NTH, fault=FAULTS)
    def faulty_backfill(self, records: list[Record], at: str, nth: int, fault: Fault) -> None:
        self.go_on(records)
        self.world.settle()
        self._disturb(self.desk.backfill(HOUR), at, nth, fault)

    @rule(slow=st.booleans())
    def finish_left(self, slow: bool) -> None:
        """The hourly job ends what replays and backfills left that died."""
        self._unless_slow(slow, self.desk.finish_left())

    @precondition(lambda self: self.world.stopped in {"miscounted", "staging spoiled"})
    @rule(release=st.booleans(), slow=st.booleans())
    def decide_held(self, release: bool, slow: bool) -> None:
        """A person lets a held batch pass, or has it read again."""
        if (batch := self.desk.held()) is not None:
            decide = self.desk.release if release else self.desk.discard
            self._unless_slow(slow, decide(batch))

    @precondition(lambda self: self.world.stopped in MENDED_BY_ONE)
    @rule(slow=st.booleans())
    def accept_loss(self, slow: bool) -> None:
        """A person declares lost what Kafka has no more, and the spike goes on behind it."""
        self._unless_slow(slow, self.desk.accept_loss())

    @rule(slow=st.booleans())
    def retain(self, slow: bool) -> None:
        """Orphaned staging, superseded files, tombstones and old snapshots go after their time."""
        self._unless_slow(slow, self.desk.retain())

    @rule(at=OF_RETENTION, nth=NTH, fault=FAULTS)
    def faulty_retention(self, at: str, nth: int, fault: Fault) -> None:
        self._disturb(self.desk.retain(), at, nth, fault)

    @staticmethod
    def _unless_slow(slow: bool, process: Process) -> None:
        if not slow:
            process.finish()

    def _target(self, index: int, to: object) -> object:
        """An integer is so many offsets before a partition's committed end."""
        positions = sorted(self.world.ledger.all_positions().get(self.world.spike.name, {}).items())
        if not isinstance(to, int) or not positions:
            return to if not isinstance(to, int) else Earliest()
        partition, position = positions[index % len(positions)]
        back = max(0, position.committed_end - to)
        return ToOffsets(self.world.spike.topic, {partition.index: back})
