"""The producer's loop: what is due goes out, what is acknowledged is counted and shown."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.producer.acks import Acks
from spike_pipelines.producer.pace import Pace
from spike_pipelines.producer.sender import Sender
from spike_pipelines.producer.sources import Outgoing

log = logging.getLogger(__name__)
TICK_SECONDS = 0.1
REPORT_SECONDS = 5.0
SILENCE_SECONDS = 5.0  # without an acknowledgement, while records wait, before it is said
FLUSH_SECONDS = 600.0  # a finite run waits this long for its last acknowledgements
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Records acknowledged by topic, refused by reason, and still unanswered."""

    acknowledged: Mapping[str, int]
    refused: Mapping[str, int]
    unanswered: int

    @property
    def complete(self) -> bool:
        return not self.refused and not self.unanswered


@dataclass(slots=True)
class _Line:
    """One topic's records and its pace."""

    topic: str
    records: Iterator[Outgoing]
    pace: Pace
    held: Outgoing | None = None  # taken from `records`, not taken by Kafka
    over: bool = False


@dataclass(slots=True)
class Loop:
    """Sends `sources` (topic → records) at `rate` records per second each until they end or `stop` is set."""

    sender: Sender
    acks: Acks
    stop: threading.Event
    _problem: str | None = field(default=None, init=False)
    _reported: float = field(default=0.0, init=False)
    _counts: Mapping[str, int] = field(default_factory=dict, init=False)
    _answered: tuple[float, int] = field(default=(0.0, 0), init=False)

    def run(self, sources: Mapping[str, Iterator[Outgoing]], *, rate: float) -> Outcome:
        began = time.monotonic()
        self._reported, self._answered = began, (began, 0)
        lines = [_Line(topic, records, Pace(rate, began)) for topic, records in sources.items()]
        try:
            self._send_all(lines, pause=rate > 0)
        except InvalidSpec:
            self._finish()  # what came before the bad line is not lost
            raise
        return self._finish()

    def _send_all(self, lines: list[_Line], *, pause: bool) -> None:
        while not self.stop.is_set() and not all(line.over for line in lines):
            for line in lines:
                self._advance(line)
            self._look(time.monotonic())
            if pause or self.sender.full:
                self.stop.wait(TICK_SECONDS)

    def _advance(self, line: _Line) -> None:
        if line.over or self.sender.full or self.stop.is_set():
            return
        due = line.pace.due(time.monotonic())
        sent = 0
        try:
            for record in self._taken(line, due):
                line.held = record
                self.sender.send(line.topic, record)
                line.held = None
                sent += 1
        except Transient as error:
            self._say(str(error))
        else:
            line.over = sent < due
        line.pace.sent(sent)

    def _taken(self, line: _Line, due: int) -> Iterator[Outgoing]:
        """What Kafka did not take the last time comes first, so nothing is skipped."""
        if line.held is not None and due > 0:
            due -= 1
            yield line.held
        yield from islice(line.records, due)

    def _look(self, now: float) -> None:
        """Keep the file of acknowledgements fresh, tell the progress, and tell once if none come."""
        done = sum(self.acks.counts().values())
        if done > self._answered[1] or not self.sender.waiting:
            self._answered = (now, done)
            if self._problem is not None:
                log.info("Kafka answers again")
                self._problem = None
        elif now - self._answered[0] > SILENCE_SECONDS:
            self._say("Kafka does not acknowledge; what is sent waits, and it is tried until it does")
        if now - self._reported >= REPORT_SECONDS:
            self._report(now)

    def _report(self, now: float) -> None:
        self.acks.flush()
        counts = self.acks.counts()
        if self._problem is not None and counts == self._counts:
            return
        seconds = now - self._reported
        parts = [
            f"{t} {n} ({(n - self._counts.get(t, 0)) / seconds:.0f}/s)" for t, n in sorted(counts.items())
        ]
        waiting = f"; {self.sender.waiting} wait" if self.sender.waiting else ""
        log.info("acknowledged: %s%s", ", ".join(parts) or "nothing yet", waiting)
        self._counts, self._reported = counts, now

    def _say(self, problem: str) -> None:
        """Once for each time of trouble, whatever else is said of it meanwhile."""
        if self._problem is None:
            log.warning("%s", problem)
            self._problem = problem

    def _finish(self) -> Outcome:
        deadline = time.monotonic() + FLUSH_SECONDS
        while not self.stop.is_set() and self.sender.waiting and time.monotonic() < deadline:
            self._try_flush(TICK_SECONDS)
            self._look(time.monotonic())
        if self.sender.waiting:
            self._try_flush(STOP_SECONDS)
        self.acks.flush()
        return Outcome(self.acks.counts(), self.sender.failures(), self.sender.waiting)

    def _try_flush(self, seconds: float) -> None:
        try:
            self.sender.flush(seconds)
        except Transient:
            log.debug("%d records wait for their acknowledgement", self.sender.waiting)
