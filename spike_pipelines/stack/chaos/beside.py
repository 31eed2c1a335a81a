"""A look that is repeated in a thread of its own, beside whatever goes on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from spike_pipelines.domain.errors import Transient

log = logging.getLogger(__name__)
MOST_PROBLEMS = 20


@dataclass(slots=True)
class Beside:
    """`look` every `seconds`. That a server does not answer is what faults are for; any other error would be
    ours: it is kept in `problems`, and the looking goes on."""

    name: str
    look: Callable[[], object]
    seconds: float
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def going(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name=self.name)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            start = time.monotonic()
            self._once()
            stop.wait(max(0.0, start + self.seconds - time.monotonic()))

    def _once(self) -> None:
        try:
            self.look()
        except Transient as error:
            log.debug("%s: %s", self.name, error)
        except Exception as error:
            log.exception("%s broke", self.name)
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(f"{self.name} broke: {type(error).__name__}: {error}")
