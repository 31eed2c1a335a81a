"""Processes that die at one effect, just before or just after it happens."""

from dataclasses import dataclass

from spike_pipelines.domain.errors import Transient
from spike_pipelines.services.promote import Promoter
from spike_pipelines.services.publish import Publisher


def expire_leases(world):
    world.execute("UPDATE leases SET expires_at = clock_timestamp() - interval '1 ms'")


class Dead(BaseException):
    """The process ends here: nothing catches it."""


@dataclass
class Trap:
    """The `at`-th effect called `name` (any, if None) ends the process, before or after it happens."""

    name: str | None
    at: int
    after: bool
    error: type[BaseException] = Transient
    seen: int = 0
    sprung: bool = False

    def around(self, name, call):
        def effect(*arguments, **named):
            if self.sprung and self.error is Dead:
                raise Dead
            if self.name is not None and name != self.name:
                return call(*arguments, **named)
            self.seen += 1
            if self.seen != self.at:
                return call(*arguments, **named)
            self.sprung = True
            if self.after:
                call(*arguments, **named)
            raise self.error(f"{name} #{self.at}")

        return effect


class Trapping:
    """Hands calls on, through the trap. A transaction is one effect: its commit."""

    def __init__(self, inner, trap, prefix, names):
        self._inner, self._trap, self._prefix, self._names = inner, trap, prefix, names

    def __getattr__(self, name):
        call = getattr(self._inner, name)
        return self._trap.around(f"{self._prefix}.{name}", call) if name in self._names else call

    def begin(self):
        return Transaction(self._inner.begin(), self._trap)


class Transaction:
    def __init__(self, inner, trap):
        self._inner, self._trap = inner, trap

    def __enter__(self):
        return self._inner.__enter__()

    def __exit__(self, kind, error, trace):
        if error is not None:
            return self._inner.__exit__(kind, error, trace)
        commit = self._trap.around("ledger.commit", lambda: self._inner.__exit__(None, None, None))
        try:
            return commit()
        except BaseException as stopped:
            if not self._trap.after:
                self._inner.__exit__(type(stopped), stopped, stopped.__traceback__)
            raise


class Trapped:
    """The platform as a process that is going to die sees it."""

    def __init__(self, world, trap):
        self.world, self.trap = world, trap
        self.ledger = Trapping(
            world.ledger, trap, "ledger",
            {"acquire", "renew", "release", "mark_published", "mark_cleaned", "changed_files"},
        )  # fmt: skip
        self.store = Trapping(world.store, trap, "store", {"copy", "footer", "origins", "head", "delete"})
        self.catalog = Trapping(world.catalog, trap, "catalog", {"ensure_table", "publish"})

    def promoter(self) -> Promoter:
        return self.world.promoter("dying", ledger=self.ledger, store=self.store)

    def settle(self, spike):
        self.promoter().promote(spike, limit=100)
        publisher = Publisher(self.ledger, self.catalog, self.store)
        publisher.publish(spike, self.world.dataset(spike))
        publisher.clean(spike)
