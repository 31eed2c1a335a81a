"""What tests of backfills share: Kafka and Spark as they see them, and what is asked of the world afterwards.

The driver of these tests puts of each seven records two final ones, two dead letters and a filtered one into
`HOUR`, and two final ones into `NEXT_HOUR`; the reader below knows that, and what becomes of them now.
"""

import io
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd
import pyarrow.parquet as pq
from builders import BUCKET, HOUR, NEXT_HOUR, parquet_of, stage_file
from test_operate import ask
from test_swap import new_swap, swapper

from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch
from spike_pipelines.domain.earlier import Place
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.ports import Surveyed
from spike_pipelines.services.backfill import Ask, Backfiller
from spike_pipelines.services.deep_audit import DeepAuditor
from spike_pipelines.services.swap import Swapper, swap_prefix

FINAL, DEAD, FILTERED = FileKind.FINAL, FileKind.DEAD_LETTER, None
HOURS = (HOUR, HOUR, NEXT_HOUR, NEXT_HOUR, HOUR, HOUR, HOUR)
AS_BEFORE = (FINAL, FINAL, FINAL, FINAL, DEAD, DEAD, FILTERED)
MENDED = (FINAL,) * 6 + (FILTERED,)
ALL_GOOD = (FINAL,) * 7


@dataclass
class Reading:
    """Reads the pieces as Spark would; `fates` is what becomes of each record of seven. `lose` leaves out
    the first records; `meanwhile` happens while it reads; from offset `plain` on all are of `HOUR`."""

    world: object
    fates: tuple = AS_BEFORE
    lose: int = 0
    meanwhile: object = None
    plain: int = 1000
    orders: list = field(default_factory=list)
    surveys: list = field(default_factory=list)

    def reread(self, order, keep_alive):
        keep_alive()
        self.orders.append(order)
        if self.meanwhile:
            self.meanwhile()
        read = [(r.partition.index, o) for r in order.pieces for o in range(r.start, r.end)][self.lose :]
        mine = [(p, o) for p, o in read if self._hour_at(p, o) == order.hour]
        found = {
            kind: [at for at in mine if self.fates[at[1] % 7] is kind] for kind in (FINAL, DEAD, FILTERED)
        }
        attempt = f"a{len(self.orders)}-{id(self)}"
        files = tuple(
            self._put(order, f"{attempt}/{kind}.parquet", kind, found[kind])
            for kind in FileKind
            if found[kind]
        )
        hours = (HourCounts(order.hour, *(len(found[kind]) for kind in (FINAL, DEAD, FILTERED))),)
        return NewBatch((), files, len(mine), hours if mine else (), "2.0", len(read) - len(mine))

    def survey(self, order, keep_alive):
        keep_alive()
        self.surveys.append(order)
        read = [(r.partition, o) for r in order.pieces for o in range(r.start, r.end)]
        found = {}
        for p, o in read:
            found.setdefault((self._hour_at(p.index, o), p), []).append(o)
        places = tuple(
            Place(hour, OffsetRange(p, min(at), max(at) + 1), len(at))
            for (hour, p), at in found.items()
            if order.since <= hour < order.until
        )
        return Surveyed(places, len(read))

    def close(self):
        pass

    def _hour_at(self, index, offset):
        return self._hour(offset)

    def _hour(self, offset):
        return HOUR if offset >= self.plain else HOURS[offset % 7]

    def _put(self, order, key, kind, places):
        made = parquet_of(places, order.hour)
        return stage_file(self.world.store, order.prefix, key, kind, order.hour, len(places), made)


def backfiller(world, reading=None, **parts):
    ledger = parts.get("ledger", world.ledger)
    swapper = Swapper(ledger, parts.get("promoter", world.promoter("backfill")))
    return Backfiller(ledger, swapper, world.broker, reading or Reading(world))


def backfilled(world, spike, fates=AS_BEFORE, hour=HOUR, **how):
    asked = Ask(ask(), how.pop("accept_loss", False))
    return backfiller(world, Reading(world, fates, **how)).backfill(spike, hour, asked)


class Dying:
    def __init__(self, reading, trap):
        self.reading, self.trap = reading, trap

    def reread(self, *arguments):
        return self.trap.around("reread", self.reading.reread)(*arguments)

    def survey(self, *arguments):
        return self.trap.around("survey", self.reading.survey)(*arguments)

    def close(self):
        pass


def replay(world, spike, produce, files=None):
    """Dead letters parsed again: of these files, or all."""
    chosen = {} if files is None else {"replaces": tuple(f.id for f in files)}
    swap, lease = swapper(world).plan(spike, new_swap(world, spike, **chosen))
    return swapper(world).finish(spike, swap.number, produce, lease)


def mended(world, spike, files):
    """Every record of these dead letters is good now, each in its hour."""

    def again(swap, i, file):
        body = world.store._buckets[BUCKET][file.final_key].body
        prefix, key = swap_prefix(spike, swap), f"a/final/{i}.parquet"
        return stage_file(world.store, prefix, key, FINAL, file.hour, file.rows, body)

    def produce(swap, replaced, _keep_alive):
        rows = Counter()
        for file in replaced:
            rows[file.hour] += file.rows
        staged = tuple(again(swap, i, file) for i, file in enumerate(replaced))
        hours = tuple(HourCounts(hour, n, 0, 0) for hour, n in sorted(rows.items()))
        return NewBatch((), staged, rows.total(), hours, "2.0")

    done = replay(world, spike, produce, files)
    world.settle(spike)
    return done


def rows(world, spike):
    return tuple(
        sum(world.catalog.files(t).values()) for t in (spike.dataset.name, spike.dataset.dead_letters)
    )


def breaches(world):
    """Of the whole audit, `--deep` included."""
    plain = {k: f.breaches or f.figure for k, f in world.audit().items() if not f.ok}
    deep = {f.promise: f.breaches for f in DeepAuditor(world.ledger, Reader(world), world.spikes).run()}
    return plain | {k: b for k, b in deep.items() if b}


class Reader:
    def __init__(self, world):
        self._world = world

    def places(self, bucket, key):
        body = self._world.store._buckets[bucket][key].body
        table = pq.read_table(io.BytesIO(body), columns=["kafka_partition", "kafka_offset"])
        return pd.DataFrame({"partition": table[0].to_pylist(), "offset": table[1].to_pylist()})
