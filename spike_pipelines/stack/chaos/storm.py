"""Throws the schedule's faults at a running stack, one every few seconds, and follows each to its end.

A fault counts once its effect was seen and a batch was in flight when it came, by the ledger's own times;
otherwise it is tried again. Nothing here waits for one fault: each tick looks at all.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median

from spike_pipelines.domain.errors import Transient
from spike_pipelines.stack.chaos.aim import Aim, Aimed, driver_key
from spike_pipelines.stack.chaos.kinds import Fault, Kind
from spike_pipelines.stack.chaos.sight import (
    InFlight,
    Lookout,
    Sight,
    in_flight,
    last_commit,
    recovered_at,
    was_in_flight,
)

TICK_SECONDS = 0.1
TELL_SECONDS = 15.0
SEEN_SECONDS = 20.0  # an effect that is not seen within these does not count
FRESH = timedelta(seconds=1)  # a look at the ledger older than that is no ground to throw on
MAX_TRIES = 25
CHOICE = 2 * len(Kind)  # how far ahead in the schedule a fault may be taken from, while others have no target
REST = timedelta(seconds=10)  # from the end of a fault to the next of the same part
AGAIN = timedelta(seconds=180)  # a spike whose driver was hit is left alone until it is back, or for so long
RECOVERY = timedelta(seconds=120)  # a fault not recovered from for so long: the stack gets a breather
STALL = timedelta(seconds=15)  # no spike commits: a fault would only hit what an older one has stopped
STUCK_SECONDS = 420.0  # without end: a stream that does not come back, or nothing that can be thrown


@dataclass(slots=True)
class Throw:
    """One fault thrown once. `counts` is None until it is known."""

    fault: Fault
    aimed: Aimed
    at: datetime
    flights: Mapping[str, InFlight]
    heal_at: float
    healed: bool = False
    effect_at: datetime | None = None
    counts: bool | None = None
    affected: frozenset[str] = frozenset()
    recovered: dict[str, datetime] = field(default_factory=dict)

    @property
    def recovery_seconds(self) -> float | None:
        """From the effect to the commit of a batch registered after it, of every spike that was hit."""
        if self.effect_at is None or not self.affected or self.affected - self.recovered.keys():
            return None
        return (max(self.recovered.values()) - self.effect_at).total_seconds()

    @property
    def open(self) -> bool:
        """Something of it is still to be seen."""
        return not self.healed or self.counts is None or (self.counts and self.recovery_seconds is None)

    def holds(self, now: datetime) -> bool:
        """Whether what was hit is not to be hit again yet. Parts that die again while the rest has not
        recovered are part of the game; a driver that never gets to work would only be that."""
        if self.counts is None or not self.healed:
            return True
        if now - self.at < REST + timedelta(seconds=self.fault.seconds):
            return True
        driver = self.aimed.harm.key in map(driver_key, self.aimed.spikes)
        return driver and timedelta() < self.waits(now) < AGAIN

    def waits(self, now: datetime) -> timedelta:
        """For how long it has not been recovered from."""
        if not self.counts or self.effect_at is None or self.recovery_seconds is not None:
            return timedelta()
        return now - self.effect_at


@dataclass(slots=True)
class Storm:
    """`pace_seconds` between two faults at least. `throws` has all that was thrown."""

    aim: Aim
    lookout: Lookout
    queue: list[Fault]
    pace_seconds: float
    tell: Callable[[str], None]
    throws: list[Throw] = field(default_factory=list)
    breather_seconds: float = 0.0
    stalled_seconds: float = 0.0
    stuck: str | None = None
    _tries: dict[int, int] = field(default_factory=dict)
    _breather_since: float | None = None
    _thrown_at: float = 0.0
    _told_at: float = 0.0

    def run(self) -> None:
        """Until every fault counts, or was given up, and is recovered from. Ends all that it began."""
        self._thrown_at = time.monotonic()
        try:
            while self.stuck is None and (self.queue or self._open()):
                self._tick(self.lookout.last)
                time.sleep(TICK_SECONDS)
        finally:
            for throw in self.throws:
                throw.aimed.harm.end()

    @property
    def counted(self) -> list[Throw]:
        return [throw for throw in self.throws if throw.counts]

    @property
    def wanted(self) -> int:
        return len(self.counted) + len(self.queue) + sum(t.counts is None for t in self.throws)

    def _open(self) -> list[Throw]:
        return [throw for throw in self.throws if throw.open]

    def _tick(self, sight: Sight) -> None:
        for throw in self._open():
            self._follow(throw, sight)
        self._breathe()
        now = time.monotonic()
        if self._breather_since is None and now - self._thrown_at >= self.pace_seconds:
            self._throw_one(sight)
            if self.queue and now - self._thrown_at > STUCK_SECONDS:
                self.stuck = f"nothing could be hit for {STUCK_SECONDS:.0f} s, as {self.queue[0].kind}"
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self.tell(self._progress())

    # one fault's life

    def _throw_one(self, sight: Sight) -> None:
        now = datetime.now(UTC)
        if now - sight.at > FRESH:
            return
        if now - (last_commit(sight) or now) > STALL:
            self.stalled_seconds += TICK_SECONDS
            return
        flights = {name: in_flight(name, seen, now) for name, seen in sight.spikes.items()}
        for fault in self.queue[:CHOICE]:
            if (aimed := self._aimed(fault, sight, flights)) is not None:
                self.queue.remove(fault)
                self._begin(fault, aimed, flights)
                return

    def _aimed(self, fault: Fault, sight: Sight, flights: Mapping[str, InFlight]) -> Aimed | None:
        try:
            return self.aim(fault, sight, flights, self._busy())
        except Transient:
            return None  # what cannot be looked at now is aimed at later

    def _busy(self) -> frozenset[str]:
        """What is still under a fault, or was just now; and spikes whose drivers are not back from one."""
        now = datetime.now(UTC)
        return frozenset(t.aimed.harm.key for t in self.throws if t.holds(now))

    def _begin(self, fault: Fault, aimed: Aimed, flights: Mapping[str, InFlight]) -> None:
        self._thrown_at = time.monotonic()
        self._tries[fault.number] = self._tries.get(fault.number, 0) + 1
        lasts = fault.seconds or SEEN_SECONDS
        throw = Throw(fault, aimed, datetime.now(UTC), flights, heal_at=self._thrown_at + lasts)
        self.throws.append(throw)
        try:
            aimed.harm.begin()
        except Transient as error:
            self._missed(throw, str(error))

    def _follow(self, throw: Throw, sight: Sight) -> None:
        if throw.effect_at is None and throw.counts is None:
            self._watch(throw, sight)
        if not throw.healed and self._is_over(throw):
            throw.aimed.harm.end()
            throw.healed = True
        if throw.counts is None and throw.effect_at is not None and sight.at > throw.effect_at:
            self._judge(throw, sight)
        elif throw.counts is None and throw.healed and throw.effect_at is None:
            self._missed(throw, "no effect was seen")
        elif throw.counts and throw.effect_at is not None:
            self._await_recovery(throw, throw.effect_at, sight)

    def _watch(self, throw: Throw, sight: Sight) -> None:
        try:
            throw.effect_at = throw.aimed.harm.effect()
        except Transient:
            return  # looked at again at the next tick
        if throw.effect_at is None:
            now = datetime.now(UTC)
            throw.flights = {name: in_flight(name, seen, now) for name, seen in sight.spikes.items()}

    @staticmethod
    def _is_over(throw: Throw) -> bool:
        """What is not healed by us is over once it was seen."""
        seen = throw.effect_at is not None and not throw.fault.seconds
        return seen or time.monotonic() >= throw.heal_at

    def _judge(self, throw: Throw, sight: Sight) -> None:
        assert throw.effect_at is not None
        throw.affected = frozenset(
            name
            for name in throw.aimed.spikes
            if was_in_flight(throw.flights[name], throw.effect_at, sight.spikes[name])
        )
        if throw.affected:
            throw.counts = True
        else:
            self._missed(throw, "no batch was in flight when it came")

    def _missed(self, throw: Throw, why: str) -> None:
        throw.counts = False
        tries = self._tries[throw.fault.number]
        if tries < MAX_TRIES:
            self.queue.append(throw.fault)
        else:
            self.tell(f"given up after {tries} tries: {throw.fault.kind} of {throw.aimed.harm.what}: {why}")

    @staticmethod
    def _await_recovery(throw: Throw, effect_at: datetime, sight: Sight) -> None:
        for name in throw.affected - throw.recovered.keys():
            if (at := recovered_at(effect_at, sight.spikes[name])) is not None:
                throw.recovered[name] = at

    # the whole

    def _breathe(self) -> None:
        """No new faults while the stack does not come back from old ones."""
        now, clock = datetime.now(UTC), time.monotonic()
        longest = max((t.waits(now) for t in self._open()), default=timedelta())
        if self._breather_since is None and longest > RECOVERY:
            self._breather_since = clock
            self.tell(f"a breather: {self._slowest(now)}")
        elif self._breather_since is not None:
            if longest < RECOVERY / 2:
                self.breather_seconds += clock - self._breather_since
                self._breather_since = None
            elif clock - self._breather_since > STUCK_SECONDS:
                self.stuck = f"not recovered {STUCK_SECONDS:.0f} s after the last fault: {self._slowest(now)}"

    def _slowest(self, now: datetime) -> str:
        throw = max(self._open(), key=lambda t: t.waits(now))
        missing = ", ".join(sorted(throw.affected - throw.recovered.keys()))
        return (
            f"no commit of {missing} for {throw.waits(now).total_seconds():.0f} s after "
            f"{throw.fault.kind}: {throw.aimed.harm.what}"
        )

    def _progress(self) -> str:
        """One line; the last fault in words."""
        done = self.counted
        recoveries = [s for t in done if (s := t.recovery_seconds) is not None]
        last = self.throws[-1] if self.throws else None
        return (
            f"{len(done)}/{self.wanted} faults with a batch in flight, {len(self.throws)} thrown"
            + (f", recovery p50 {median(recoveries):.0f} s" if recoveries else "")
            + (f"; last: {last.fault.kind}, {last.aimed.harm.what}" if last else "")
        )
