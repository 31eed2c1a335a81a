"""The invariants of the design, recomputed from what lies there: ledger rows, objects, tables, records.

Nothing here asks the services. Each check raises `Violation` with the invariant's number.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builders import BUCKET
from model_operations import TERMS
from model_world import ModelWorld, Place, Row, Violation

from spike_pipelines.adapters.ledger import schema
from spike_pipelines.adapters.memory_dialect import micros
from spike_pipelines.domain.batch import LIVE_LANE, TRANSITIONS, UNFINISHED, BatchState, FileKind, FileState
from spike_pipelines.domain.operations import OperationKind
from spike_pipelines.domain.swap import SwapKind, SwapState

SWAPS = 0  # stands for the batches of all swaps; the ledger's numbers begin at 1


@dataclass
class Watch:
    """Checks a world, and remembers what must not go back."""

    world: ModelWorld
    ends: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)
    states: dict[int, BatchState] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    operations: int = 0  # the newest that was taken into account
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
        operations = world.rows(schema.operations)
        self.no_gap_and_no_overlap(positions, batches, ranges)
        self.every_record_once(batches, ranges, files)
        self.readers_see_the_ledger(files)
        self.one_commit_each(batches, operations)
        self.swaps_are_whole(files)
        self.objects_are_explained(files)
        self.removed_in_time(files)
        self.went_back(operations)
        self.never_back(positions, batches)
        self.fenced(batches)
        self.conserved(batches, files)
        self.staging_is_safe(batches, files)
        self.identity(positions, operations)
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
        """I1, I2: live files hold exactly the records of committed ranges, each in the file it belongs to,
        in the batch's or in that of the swap that replaced it; the rest is filtered, and counted so, or
        declared lost, and then Kafka has it no more."""
        held: dict[Place, Row] = {}
        for f in files:
            if f["state"] == FileState.LIVE:
                expect(batches[f["batch"]]["state"] == BatchState.COMMITTED, "I3: live and not committed")
                for place in self.world.store.places(f["final_key"]):
                    expect(place not in held, f"I2: {place} is there twice")
                    held[place] = f
        read: dict[int, int] = defaultdict(int, {SWAPS: 0})
        for r in ranges:
            batch = batches[r["batch"]]
            if batch["lost"]:
                self._declared_lost(r)
            elif batch["state"] == BatchState.COMMITTED:
                read[r["batch"]] += self._account(r, batches, held, read)
        expect(not held, f"I2: files hold records outside of committed ranges: {list(held)[:3]}")
        for number, filtered in read.items():
            said = (
                batches[number]["records_filtered"]
                if number != SWAPS
                else self._swaps_filtered(batches, files)
            )
            expect(filtered == said, f"I1: batch {number} lost records")

    def _swaps_filtered(self, batches: Mapping[int, Row], files: Iterable[Row]) -> int:
        """Records that were in a file until a swap filtered them. What a backfill read beside those of the
        files that it replaced was filtered before."""
        made = {b["number"]: b for b in batches.values() if b["lane"] != LIVE_LANE}
        made = {n: b for n, b in made.items() if b["state"] == BatchState.COMMITTED and b["removed"] is None}
        rows = {f["id"]: f["rows"] for f in files}
        batch_of = {w["number"]: w["batch"] for w in self.world.rows(schema.swaps)} if made else {}
        replaced: dict[int, int] = defaultdict(int)
        for x in self.world.rows(schema.swap_files) if made else ():
            replaced[batch_of[x["swap"]]] += rows[x["file"]]
        return sum(b["records_filtered"] - (b["records_read"] - replaced[n]) for n, b in made.items())

    def _declared_lost(self, r: Row) -> None:
        topic = self.world.topic()
        gone = topic.log_start[r["partition"]] if topic.topic_id == r["topic_id"] else r["end_offset"]
        expect(r["end_offset"] <= gone, f"I1: {r} is declared lost, and Kafka has it")

    def _account(
        self, r: Row, batches: Mapping[int, Row], held: dict[Place, Row], read: dict[int, int]
    ) -> int:
        """Take the range's records out of `held`; answers how many its batch filtered. What swaps did is
        added to `read` under `SWAPS`."""
        filtered = 0
        for offset in range(r["start_offset"], r["end_offset"]):
            place = Place(r["topic_id"], r["partition"], offset)
            record = self.world.records.get(place)
            found = held.pop(place, None)
            if record is None or record.kind is None:
                expect(found is None, f"I1: {place} is in a file and should not be")
                filtered += record is not None
            elif found is None:
                dropped = record.kind is FileKind.DEAD_LETTER and record.healed is None
                expect(dropped, f"I1: {place} is committed and in no file")
                read[SWAPS] += 1
            else:
                self._placed(place, found, batches[found["batch"]]["lane"])
        return filtered

    def _placed(self, place: Place, found: Row, lane: str) -> None:
        record = self.world.records[place]
        dead = record.kind is FileKind.DEAD_LETTER
        expect(dead or not lane.startswith(SwapKind.REPLAY), f"I1: {place} was never a dead letter")
        kind = record.healed if dead and lane != LIVE_LANE else record.kind
        expect((found["kind"], found["hour"]) == (kind, micros(record.hour)), f"I1: {place} misplaced")

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

    def one_commit_each(self, batches: Mapping[int, Row], operations: Iterable[Row]) -> None:
        """I3: a sequence number for each committed batch and each rewind, without gaps."""
        commits = self.world.rows(schema.commits)
        expect(
            sorted(c["batch"] for c in commits)
            == sorted(n for n, b in batches.items() if b["state"] == BatchState.COMMITTED),
            "I3: commits and committed batches are not the same",
        )
        rewinds = [o["sequence"] for o in operations if o["sequence"] is not None]
        sequences = sorted([c["sequence"] for c in commits] + rewinds)
        expect(sequences == list(range(1, len(sequences) + 1)), "I3: a sequence number is missing")

    def swaps_are_whole(self, files: Iterable[Row]) -> None:
        """I3: what a swap replaced went at the number at which its own files came; one that was given up
        replaced nothing, nor need a backfill: all records of its hour may have been filtered before."""
        swaps = self.world.rows(schema.swaps)
        if not swaps:
            return
        by_id = {f["id"]: f for f in files}
        commits = {c["batch"]: c["sequence"] for c in self.world.rows(schema.commits)}
        replaced = defaultdict(set)
        for row in self.world.rows(schema.swap_files):
            replaced[row["swap"]].add(by_id[row["file"]]["removed"])
        for swap in swaps:
            at = commits.get(swap["batch"])
            if swap["state"] == SwapState.SWAPPED:
                nothing = swap["kind"] == SwapKind.BACKFILL and not replaced[swap["number"]]
                expect(nothing or replaced[swap["number"]] == {at}, f"I3: swap {swap['number']} is not whole")
            else:
                expect(at is None, f"I3: swap {swap['number']} is {swap['state']} and committed")

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
            if f["state"] == FileState.SUPERSEDED and f["condemned_at"] is None:
                expect(key in there, f"I4: {key} is superseded, not removed, and gone")

    def removed_in_time(self, files: Iterable[Row]) -> None:
        """I9: a file is deleted after its replacement is published, and no snapshot that is kept shows it."""
        catalog = self.world.catalog
        there = self.world.store.keys("final/")
        gone = sorted(uri for uri in catalog.readable() if uri.removeprefix(f"s3://{BUCKET}/") not in there)
        expect(not gone, f"I9: snapshots show {gone}, which are gone")
        published = sum(d["published"] for d in self.world.rows(schema.datasets))
        for f in files:
            if f["condemned_at"] is not None and f["state"] == FileState.SUPERSEDED:
                expect(f["removed"] <= published, f"I9: {f['final_key']} went before it was replaced")
                expect(self.had_grace(f), f"I9: {f['final_key']} went right after it was replaced")

    def had_grace(self, f: Row) -> bool:
        """Who read the snapshot before had the grace time to end, since the one that came instead."""
        table = self.world.tables()[f["kind"]]
        shown = self.world.catalog.shown_at
        replaced = min(at for (name, number), at in shown.items() if name == table and number >= f["removed"])
        return micros(replaced + TERMS.grace) <= f["condemned_at"]

    def went_back(self, operations: Iterable[Row]) -> None:
        """I5: what an audited operation moved may be below what was seen; it says truly where it was."""
        for o in sorted(operations, key=lambda o: o["id"]):
            if o["id"] <= self.operations:
                continue
            self.operations = o["id"]
            for _, topic_id, index, staged, committed, to in json.loads(o["moves"]):
                key = topic_id, index
                baseline, *before = self.ends.get(key, (to, committed, staged))
                expect(
                    committed >= before[0] and staged >= before[1] and to <= committed,
                    f"I5: {o['summary']}: it was at {before}",
                )
                self.ends[key] = min(baseline, to), to, to

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
            if b["epoch"] is None:
                continue
            late = [e for e in epochs if e["number"] > b["epoch"] and e["opened_at"] < b["staged_at"]]
            expect(not late, f"I6: batch {b['number']} was registered by fenced epoch {b['epoch']}")

    def conserved(self, batches: Mapping[int, Row], files: Iterable[Row]) -> None:
        """I8: counts of a committed batch agree with each other and with what the files hold."""
        rows = {FileKind.FINAL: defaultdict(int), FileKind.DEAD_LETTER: defaultdict(int)}
        for f in files:
            if f["state"] == FileState.LIVE:
                places = self.world.store.places(f["final_key"])
                expect(len(places) == f["rows"], f"I8: {f['final_key']} holds {len(places)} records")
            rows[FileKind(f["kind"])][f["batch"]] += f["rows"]
        for number, b in batches.items():
            if b["state"] == BatchState.COMMITTED:
                final, dead = rows[FileKind.FINAL][number], rows[FileKind.DEAD_LETTER][number]
                expect(
                    (final, dead) == (b["records_final"], b["records_dead_letter"])
                    and b["records_read"] == final + dead + b["records_filtered"] + b["records_unaccounted"],
                    f"I8: batch {number} does not add up",
                )

    def staging_is_safe(self, batches: Mapping[int, Row], files: Iterable[Row]) -> None:
        """I9: until its batch is committed and readers see it, a staged object is there, unchanged."""
        there = self.world.store.infos("staging/")
        seen = {uri for t in self.world.catalog._tables for uri in self.world.catalog.files(t)}
        for f in files:
            state = batches[f["batch"]]["state"]
            unseen = f["state"] == FileState.LIVE and self.world.uri(f["final_key"]) not in seen
            needed = state in UNFINISHED or (state == BatchState.COMMITTED and unseen)
            if needed and f["staging_key"] not in self.world.spoiled:
                found = there.get(f["staging_key"])
                expect(
                    found is not None and found.etag == f["staging_etag"],
                    f"I9: {f['staging_key']} is gone, its batch is {state} and not visible",
                )

    def identity(self, positions: Iterable[Row], operations: Iterable[Row]) -> None:
        """I10: nothing is reset silently: another incarnation of the topic is read only after somebody
        accepted the loss of the one before."""
        kinds = {o["id"]: o["kind"] for o in operations}
        opened = {p["topic_id"] for p in positions if p["closed_by"] is None}
        closed = {p["topic_id"]: kinds[p["closed_by"]] for p in positions if p["closed_by"] is not None}
        expect(len(opened) <= 1 and not opened & closed.keys(), f"I10: {opened} are read at once")
        expect(set(closed.values()) <= {OperationKind.ACCEPT_LOSS}, "I10: nobody accepted a loss")
        expect(opened <= {self.world.topic_id} or closed, "I10: another topic id")


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
