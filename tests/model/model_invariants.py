"""The invariants of the design, recomputed from what lies there: ledger rows, objects, tables, records.

Nothing here asks the services. Each check raises `Violation` with the invariant's number.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from model_world import ModelWorld, Place, Row, Violation

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.adapters.memory_dialect import micros
from spike_pipelines.domain.batch import TRANSITIONS, UNFINISHED, BatchState, FileKind


@dataclass
class Watch:
    """Checks a world, and remembers what must not go back."""

    world: ModelWorld
    ends: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)
    states: dict[int, BatchState] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    version: tuple[int, int, int] | None = None

    def check(self) -> None:
        """All of them, if anything was written since the last time."""
        world = self.world
        if self.version == world.version:
            return
        positions = world.rows(schema.positions)
        batches = {row["number"]: row for row in world.rows(schema.batches)}
        ranges = [r for r in world.rows(schema.batch_ranges) if r["live"]]
        files = world.rows(schema.files)
        self.no_gap_and_no_overlap(positions, batches, ranges)
        self.every_record_once(batches, ranges, files)
        self.readers_see_the_ledger(files)
        self.one_commit_each(batches)
        self.objects_are_explained(files)
        self.never_back(positions, batches)
        self.fenced(batches)
        self.conserved(batches, files)
        self.staging_is_safe(batches, files)
        self.identity(positions)
        self.version = world.version

    def no_gap_and_no_overlap(
        self, positions: Iterable[Row], batches: Mapping[int, Row], ranges: Iterable[Row]
    ) -> None:
        """I1, I2: from baseline to committed end to staged end, each offset in one live range."""
        by_partition = defaultdict(list)
        for r in ranges:
            committed = batches[r["batch"]]["state"] == BatchState.COMMITTED
            by_partition[r["topic_id"], r["partition"]].append(
                (r["start_offset"], r["end_offset"], committed)
            )
        for p in positions:
            at, committed_end = p["baseline"], p["baseline"]
            for start, end, committed in sorted(by_partition.pop((p["topic_id"], p["partition"]), [])):
                expect(start == at, f"I2: a range starts at {start}, the one before ends at {at}")
                expect(not committed or committed_end == start, "I1: committed ranges leave one out")
                at, committed_end = end, end if committed else committed_end
            expect(p["staged_end"] == at, f"I1: staged end {p['staged_end']}, ranges end at {at}")
            expect(p["committed_end"] == committed_end, f"I1: committed end is not {committed_end}")
        expect(not by_partition, "I1: ranges of a partition without a position")

    def every_record_once(
        self, batches: Mapping[int, Row], ranges: Iterable[Row], files: Iterable[Row]
    ) -> None:
        """I1, I2: live files of a committed batch hold exactly the records of its ranges, each in the
        file it belongs to; the rest of them is filtered, and counted so."""
        world = self.world
        held: dict[int, dict[Place, Row]] = defaultdict(dict)
        for f in files:
            if f["state"] == "live":
                expect(batches[f["batch"]]["state"] == BatchState.COMMITTED, "I3: live and not committed")
                for place in world.store.places(f["final_key"]):
                    expect(place not in held[f["batch"]], f"I2: {place} is there twice")
                    held[f["batch"]][place] = f
        read: dict[int, int] = defaultdict(int)
        for r in ranges:
            if batches[r["batch"]]["state"] == BatchState.COMMITTED:
                read[r["batch"]] += self._account(r, held[r["batch"]])
        for number, places in held.items():
            expect(not places, f"I2: batch {number} holds records outside its ranges: {list(places)[:3]}")
        for number, filtered in read.items():
            expect(filtered == batches[number]["records_filtered"], f"I1: batch {number} lost records")

    def _account(self, r: Row, held: dict[Place, Row]) -> int:
        """Take the range's records out of `held`; answers how many are filtered."""
        filtered = 0
        for offset in range(r["start_offset"], r["end_offset"]):
            place = Place(r["topic_id"], r["partition"], offset)
            record = self.world.records.get(place)
            found = held.pop(place, None)
            if record is None or record.kind is None:
                expect(found is None, f"I1: {place} is in a file and should not be")
                filtered += record is not None
            else:
                expect(found is not None, f"I1: {place} is committed and in no file")
                expect(
                    (found["kind"], found["hour"]) == (record.kind, micros(record.hour)),
                    f"I1: {place} misplaced",
                )
        return filtered

    def readers_see_the_ledger(self, files: Iterable[Row]) -> None:
        """I3: each table shows what was live at its sequence number: all of a commit, or none of it."""
        world = self.world
        for kind, table in world.tables().items():
            at = world.catalog.sequence(table)
            expect(at >= self.sequences.get(table, 0), f"I3: {table} went back to {at}")
            self.sequences[table] = at
            live = {
                world.uri(f["final_key"]): f["rows"]
                for f in files
                if f["kind"] == kind
                and f["added"] is not None
                and f["added"] <= at
                and (f["removed"] is None or f["removed"] > at)
            }
            seen = dict(world.catalog.files(table)) if table in world.catalog._tables else {}
            expect(seen == live, f"I3: {table} at {at} shows {sorted(seen)}, live are {sorted(live)}")
        for d in world.rows(schema.datasets):
            for projection in ("published", "reported"):
                before = self.sequences.get(projection, 0)
                expect(before <= d[projection] <= d["sequence"], f"I3: {projection} is {d[projection]}")
                self.sequences[projection] = d[projection]
            self._published_is_visible(files, d["published"])

    def _published_is_visible(self, files: Iterable[Row], done: int) -> None:
        seen = {uri for t in self.world.catalog._tables for uri in self.world.catalog.files(t)}
        for f in files:
            if f["state"] == "live" and f["added"] <= done:
                expect(self.world.uri(f["final_key"]) in seen, f"I3: {f['final_key']} counts as published")

    def one_commit_each(self, batches: Mapping[int, Row]) -> None:
        """I3: a sequence number for each committed batch, without gaps."""
        commits = self.world.rows(schema.commits)
        expect(
            sorted(c["batch"] for c in commits)
            == sorted(n for n, b in batches.items() if b["state"] == BatchState.COMMITTED),
            "I3: commits and committed batches are not the same",
        )
        expect(
            sorted(c["sequence"] for c in commits) == list(range(1, len(commits) + 1)),
            "I3: a sequence number is missing",
        )

    def objects_are_explained(self, files: Iterable[Row]) -> None:
        """I4: every object under final is a file the ledger knows; live files are as committed."""
        known = {f["final_key"]: f for f in files if f["final_key"]}
        there = self.world.store.infos("final/")
        expect(there.keys() <= known.keys(), f"I4: unknown objects {sorted(there.keys() - known.keys())}")
        for key, f in known.items():
            if f["state"] == "live":
                info = there.get(key)
                expect(info is not None, f"I4: {key} is live and not there")
                expect((info.size, info.etag) == (f["size"], f["final_etag"]), f"I4: {key} is another object")

    def never_back(self, positions: Iterable[Row], batches: Mapping[int, Row]) -> None:
        """I5: offsets only grow, a baseline stays; a batch changes state only as it may."""
        for p in positions:
            key = p["topic_id"], p["partition"]
            now = p["baseline"], p["committed_end"], p["staged_end"]
            before = self.ends.get(key, (now[0], 0, 0))
            expect(
                now[0] == before[0] and now[1] >= before[1] and now[2] >= before[2],
                f"I5: {key} went from {before} to {now}",
            )
            self.ends[key] = now
        for number, row in batches.items():
            new = BatchState(row["state"])
            old = self.states.get(number, BatchState.STAGED)
            expect(new in reachable(old), f"I5: batch {number} went from {old} to {new}")
            self.states[number] = new

    def fenced(self, batches: Mapping[int, Row]) -> None:
        """I6: nothing was registered by an epoch once a newer one was granted; one at most is open."""
        epochs = self.world.rows(schema.epochs)
        expect(sum(e["state"] == "open" for e in epochs) <= 1, "I6: two epochs are open")
        for b in batches.values():
            late = [e for e in epochs if e["number"] > b["epoch"] and e["opened_at"] < b["staged_at"]]
            expect(not late, f"I6: batch {b['number']} was registered by fenced epoch {b['epoch']}")

    def conserved(self, batches: Mapping[int, Row], files: Iterable[Row]) -> None:
        """I8: counts of a committed batch agree with each other and with what the files hold."""
        rows = {FileKind.FINAL: defaultdict(int), FileKind.DEAD_LETTER: defaultdict(int)}
        for f in files:
            if f["state"] == "live":
                places = self.world.store.places(f["final_key"])
                expect(len(places) == f["rows"], f"I8: {f['final_key']} holds {len(places)} records")
                rows[FileKind(f["kind"])][f["batch"]] += len(places)
        for number, b in batches.items():
            if b["state"] == BatchState.COMMITTED:
                final, dead = rows[FileKind.FINAL][number], rows[FileKind.DEAD_LETTER][number]
                expect(
                    (final, dead) == (b["records_final"], b["records_dead_letter"])
                    and b["records_read"] == final + dead + b["records_filtered"],
                    f"I8: batch {number} does not add up",
                )

    def staging_is_safe(self, batches: Mapping[int, Row], files: Iterable[Row]) -> None:
        """I9: until its batch is committed and readers see it, a staged object is there, unchanged."""
        if self.world.stopped == "staging spoiled":
            return
        there = self.world.store.infos("staging/")
        seen = {uri for t in self.world.catalog._tables for uri in self.world.catalog.files(t)}
        for f in files:
            state = batches[f["batch"]]["state"]
            visible = f["final_key"] is not None and self.world.uri(f["final_key"]) in seen
            if state in UNFINISHED or (state == BatchState.COMMITTED and not visible):
                found = there.get(f["staging_key"])
                expect(
                    found is not None and found.etag == f["staging_etag"],
                    f"I9: {f['staging_key']} is gone, its batch is {state} and not visible",
                )

    def identity(self, positions: Iterable[Row]) -> None:
        """I10: nothing is reset silently: there is one incarnation of the topic."""
        expect({p["topic_id"] for p in positions} <= {self.world.topic_id}, "I10: another topic id")


def reachable(state: BatchState) -> frozenset[BatchState]:
    """What a batch may have become since it was seen, in any number of changes."""
    found, fresh = {state}, {state}
    while fresh:
        fresh = {new for old in fresh for new in TRANSITIONS[old]} - found
        found |= fresh
    return frozenset(found)


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise Violation(message)
