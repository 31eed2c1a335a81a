"""The application files as the appender sees them: read again when the folder changed."""

import logging
from pathlib import Path

from spike_pipelines.adapters.applications import Applications, read_applications
from spike_pipelines.appender.errors import UnknownSpike
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.spike import Spike

log = logging.getLogger(__name__)


class ApplicationFolder:
    """The spikes that application files describe now; a changed folder is read again.

    A mistake in one file does not stop the other spikes (I11): until it is mended, what was read last
    of it goes on, and a spike never read is told to come again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._found = Applications({}, {})

    def get(self, name: str) -> Spike:
        """Raises `Transient` where the spike's file, or the folder, cannot be read now, `UnknownSpike`."""
        files = tuple(sorted((path.name, path.stat().st_mtime_ns) for path in self._folder.glob("*.yaml")))
        if files != self._seen:
            self._read()
            self._seen = files  # last: another thread must not see a folder as read before it is
        found = self._found
        if name in found.spikes:
            return found.spikes[name]
        if found.broken:  # one of them may be this spike's, misnamed
            raise Transient(f"application files cannot be read: {'; '.join(found.broken.values())}")
        raise UnknownSpike(f"no application file describes a spike named {name!r}")

    def _read(self) -> None:
        try:
            found = read_applications(self._folder)
        except InvalidSpec as error:
            raise Transient(str(error)) from error
        for problem in found.broken.values():
            log.warning("application file %s; what was read of it before goes on", problem)
        before = {name: spike for name, spike in self._found.spikes.items() if name in found.broken}
        self._found = Applications({**before, **found.spikes}, found.broken)
