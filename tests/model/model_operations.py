"""What people and schedules do in the world of the model: decide, go back, replay, accept a loss, delete."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from builders import BUCKET
from model_world import ModelWorld, caused, event, tolerated
from processes import Port, Process

from spike_pipelines.domain.batch import BatchState
from spike_pipelines.domain.errors import Conflict, Refused, Transient
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.retention import RetentionTerms
from spike_pipelines.domain.rewind import Target
from spike_pipelines.domain.swap import Scope
from spike_pipelines.ports import Reparsed, ReplayOrder
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.replay import Replayer
from spike_pipelines.services.retain import Retainer
from spike_pipelines.services.swap import Swapper

TERMS = RetentionTerms(grace=timedelta(seconds=30), snapshots=timedelta(seconds=60), keep_snapshots=1)


@dataclass
class Reading:
    """A replay's job: parses the dead letters again with the application as it is now."""

    world: ModelWorld

    def reparse(self, order: ReplayOrder, keep_alive: Callable[[], None]) -> Reparsed:
        keep_alive()
        found = [self.world.store.read(BUCKET, key) for key in order.keys]
        kinds = {place: self.world.records[place].healed for places in found for place in places}
        assert order.prefix is not None
        batch = self.world.put_files(order.prefix, "", kinds)
        return Reparsed(batch, Counter("cast" for kind in kinds.values() if kind == "dead_letter"))


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

    def resume(self) -> Process:
        return self._replays(lambda r: r.resume(self.world.spike))

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
        world = self.world
        holder = f"replay-{len(world.processes)}"

        def body(process: Process) -> None:
            ledger = Port(process, "ledger", world.ledger)
            swapper = Swapper(ledger, world.promoter(process, holder))
            replayer = Replayer(ledger, swapper, Reading(world), Port(process, "job", Reading(world)))
            try:
                done = act(replayer)
            except (Transient, Conflict) as error:
                caused(process, error)
                event(f"replay: {type(error).__name__}")
            else:
                event(f"replay: {'done' if done else 'nothing to do'}")

        return world.start("replay", body)
