"""Refuses bodies over a limit before they are in memory, also those that do not say their length, and
those that take too long to arrive: a client that sends a byte a minute does not hold a place for ever.

FastAPI answers 400 to whatever goes wrong while it reads a body, so that answer is replaced.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spike_pipelines.appender.errors import TooLarge, TooSlow, answer


class BodyLimit:
    """ASGI middleware. `limit` in bytes; `seconds` for the whole body."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = answer(TooLarge(f"the body is over {self.limit} bytes"))
        seen, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:  # what comes now is the client's going away
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(f"the body was not there after {self.seconds:g} s") from None
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise TooLarge(f"the body is over {self.limit} bytes")
            return message

        async def kept(message: Message) -> None:
            if seen <= self.limit:
                await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            await too_large(scope, receive, send)
            return
        await self.app(scope, counted, kept)
        if seen > self.limit:
            await too_large(scope, receive, send)
