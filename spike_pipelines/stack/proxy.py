"""TCP proxies between clients and servers of this machine, on which a network's faults can be played.

One thread runs them all. Bytes are passed on as they are; what was done to them is counted.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, cast

from spike_pipelines.stack.probes import LOOPBACK

CHUNK_BYTES = 64 * 1024
CONNECT_SECONDS = 5.0
STOP_SECONDS = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset instead of a farewell


@dataclass(frozen=True, slots=True)
class Harm:
    """What a link has done since its fault began: the first moment it did, bytes that were held up,
    connections that were cut or refused."""

    since: datetime | None = None
    delayed_bytes: int = 0
    cut_connections: int = 0


@dataclass(slots=True)
class Link:
    """One proxied server. Its methods may be called from any thread."""

    name: str
    port: int
    target: int
    _loop: asyncio.AbstractEventLoop
    _delay_seconds: float = 0.0
    _is_cut: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _harm: Harm = field(default_factory=Harm)

    @property
    def harm(self) -> Harm:
        return self._harm

    def delay(self, seconds: float) -> None:
        """From now on hold each piece of data up for so long, in both directions."""
        self._harm = Harm()
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Reset every connection, and each new one at once, until `heal`."""
        self._harm = Harm()
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._reset_all)

    def heal(self) -> None:
        self._delay_seconds, self._is_cut = 0.0, False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both sides have ended it or one has broken it."""
        self._open.add(writer)
        try:
            if self._is_cut:
                self._count(cut=1)
            else:
                await self._joined(reader, writer)
        except (OSError, TimeoutError):
            pass  # one side is gone or was never there: the reset below tells the other
        finally:
            self._open.discard(writer)
            _reset(writer)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connecting = asyncio.open_connection(LOOPBACK, self.target)
        back, forth = await asyncio.wait_for(connecting, CONNECT_SECONDS)
        self._open.add(forth)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, forth))
                both.create_task(self._pump(back, writer))
        except* OSError:
            pass  # as above: whichever side broke, both are reset
        else:
            await _farewell(writer)
            await _farewell(forth)
        finally:
            self._open.discard(forth)
            _reset(forth)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._delay_seconds:
                self._count(delayed=len(data))
                await asyncio.sleep(self._delay_seconds)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    def _reset_all(self) -> None:
        self._count(cut=len(self._open))
        for writer in list(self._open):
            _reset(writer)

    def _count(self, *, delayed: int = 0, cut: int = 0) -> None:
        """Only from the loop's thread."""
        if delayed or cut:
            h = self._harm
            since = h.since or datetime.now(UTC)
            self._harm = Harm(since, h.delayed_bytes + delayed, h.cut_connections + cut)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once with a reset; nothing happens to one that is closed."""
    if not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            connection = cast("socket.socket", writer.get_extra_info("socket"))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


async def _farewell(writer: asyncio.StreamWriter) -> None:
    """An orderly end: what was written goes out first."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Proxy:
    """The links and the thread they run in; entering starts it, leaving ends it with all connections."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def open(self, name: str, *, port: int, target: int) -> Link:
        """Listen on `port`, and pass on to `target`."""
        link = Link(name, port, target, self._loop)
        starting = asyncio.start_server(link.serve, LOOPBACK, port)
        self._servers.append(asyncio.run_coroutine_threadsafe(starting, self._loop).result(STOP_SECONDS))
        return link

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
