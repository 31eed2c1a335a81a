"""Refuses bodies over a limit before they are in memory, also those that do not say their length.

FastAPI answers 400 to whatever goes wrong while it reads a body, so that answer is replaced.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spike_pipelines.appender.errors import TooLarge, answer


class BodyLimit:
    """ASGI middleware. `limit` in bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = answer(TooLarge(f"the body is over {self.limit} bytes"))
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
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
