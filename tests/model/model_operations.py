"""What people and schedules do in the world of the model: decide, go back, replay, backfill, accept a loss,
delete."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from builders import BUCKET
from model_world import ModelWorld, Place, Record, caused, event, tolerated
from processes import Port, Process

from spike_pipelines.domain.batch import BatchState, FileKind, NewBatch
from spike_pipelines.domain.errors import Conflict, Refused, Transient
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.retention import RetentionTerms
from spike_pipelines.domain.rewind import Target
from spike_pipelines.domain.swap import Scope
from spike_pipelines.ports import BackfillOrder, Reparsed, ReplayOrder
from spike_pipelines.services.backfill import Ask, Backfiller
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.replay import Replayer
from spike_pipelines.services.retain import Retainer
from spike_pipelines.services.swap import Swapper

Service = TypeVar("Service")
TERMS = RetentionTerms(grace=timedelta(seconds=30), snapshots=timedelta(seconds=60), keep_snapshots=1)


@dataclass
class Reading:
    """The job of a replay or a backfill: parses records again with the application as it is now, which makes
    something else of dead letters only."""

    world: ModelWorld

    def reparse(self, order: ReplayOrder, keep_alive: Callable[[], None]) -> Reparsed:
        keep_alive()
        found = [self.world.store.read(BUCKET, key) for key in order.keys]
        kinds = {place: parsed_now(self.world.records[place]) for places in found for place in places}
        assert order.prefix is not None
        batch = self.world.put_files(order.prefix, "", kinds)
        return Reparsed(batch, Counter("cast" for kind in kinds.values() if kind == "dead_letter"))

    def reread(self, order: BackfillOrder, keep_alive: Callable[[], None]) -> NewBatch:
        keep_alive()
        read = [
            place
            for r in order.pieces
            for place in (Place(r.partition.topic_id, r.partition.index, at) for at in range(r.start, r.end))
            if place in self.world.records
        ]
        mine = [place for place in read if self.world.records[place].hour == order.hour]
        kinds = {place: parsed_now(self.world.records[place]) for place in mine}
        assert order.prefix is not None
        return replace(self.world.put_files(order.prefix, "", kinds), elsewhere=len(read) - len(mine))

    def close(self) -> None:
        """Nothing is kept."""


def parsed_now(record: Record) -> FileKind | None:
    return record.healed if record.kind is FileKind.DEAD_LETTER else record.kind


@dataclass(frozen=True)
class Desk:
    """Starts what people ask for, each as a process of its own."""

    world: ModelWorld

    def rewind(self, target: Target) -> Process:
        return self._decide("rewind", lambda o, request: o.rewind(self.world.spike, target, request))

    def release(self, batch: int) -> Process:
        return self._decide("release", lambda o, request: o.release(self.world.spike, batch, request))

    def discard(self, batch: int) -> Process:
        return self._decide("discard", lambda o, request: o.discard(self.world.spike, batch, request))

    def accept_loss(self) -> Process:
        return self._decide("accept loss", lambda o, request: o.accept_loss(self.world.spike, request))

    def replay(self, since: datetime | None = None) -> Process:
        """Unfinished swaps first, then what lies in the dead letters of hours from `since` on."""
        return self._replays(lambda r: r.replay(self.world.spike, Scope(since), who="ann", why="mended"))

    def backfill(self, hour: datetime, *, accept_loss: bool = False) -> Process:
        """What was left of the hour's first, then all that was ever read of it, if Kafka has it."""
        request = Request(f"backfill-{len(self.world.processes)}", Author("ann", "the model asks for it"))
        spike, ask = self.world.spike, Ask(request, accept_loss)
        return self._swaps("backfill", lambda b: b.backfill(spike, hour, ask).swap, self._backfiller)

    def finish_left(self) -> Process:
        """What the hourly job does first: swaps whose process died are ended."""
        spikes = [self.world.spike]
        return self._swaps("finish", lambda s: tuple(s.finish_left(spikes)), lambda _, swapper: swapper)

    def retain(self) -> Process:
        world = self.world

        def body(process: Process) -> None:
            ports = {"ledger": world.ledger, "store": world.store, "catalog": world.catalog}
            ledger, store, catalog = (Port(process, name, port) for name, port in ports.items())
            with tolerated(process):
                for removal in Retainer(ledger, store, catalog, {world.spike.name: world.spike}, TERMS).run():
                    if removal.objects:
                        event(f"retention: {removal.kind}")

        return world.start("retention", body)

    def held(self) -> int | None:
        """The batch that waits for a decision."""
        states = self.world.ledger.last_batches(self.world.spike.name, 99)
        return next((b.number for b in states if b.state is BatchState.HELD), None)

    def _decide(self, name: str, act: Callable[[Operator, Request], object]) -> Process:
        world = self.world
        request = Request(f"request-{len(world.processes)}", Author("ann", "the model asks for it"))

        def body(process: Process) -> None:
            operator = Operator(
                Port(process, "ledger", world.ledger),
                Port(process, "broker", world.broker),
                Port(process, "store", world.store),
            )
            try:
                done = act(operator, request)
            except (Transient, Conflict, Refused) as error:
                caused(process, error)
                event(f"{name}: {type(error).__name__}")
            else:
                event(f"{name}: {'done' if done else 'nothing to do'}")

        return world.start(name, body)

    def _replays(self, act: Callable[[Replayer], object]) -> Process:
        def replayer(process: Process, swapper: Swapper) -> Replayer:
            job = Port(process, "job", Reading(self.world))
            return Replayer(swapper.ledger, swapper, Reading(self.world), job)

        return self._swaps("replay", act, replayer)

    def _backfiller(self, process: Process, swapper: Swapper) -> Backfiller:
        broker, job = (
            Port(process, name, part)
            for name, part in (("broker", self.world.broker), ("job", Reading(self.world)))
        )
        return Backfiller(swapper.ledger, swapper, broker, job)

    def _swaps(
        self,
        name: str,
        act: Callable[[Service], object],
        service: Callable[[Process, Swapper], Service],
    ) -> Process:
        world = self.world
        holder = f"{name}-{len(world.processes)}"

        def body(process: Process) -> None:
            swapper = Swapper(Port(process, "ledger", world.ledger), world.promoter(process, holder))
            try:
                done = act(service(process, swapper))
            except (Transient, Conflict, Refused) as error:
                caused(process, error)
                event(f"{name}: {type(error).__name__}")
            else:
                event(f"{name}: {'done' if done else 'nothing to do'}")

        return world.start(name, body)
