"""What a request must be before its body means anything: allowed, JSON by its own words, and JSON in fact.

In this order, so that a stranger's body is never read, let alone parsed.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from spike_pipelines.adapters.token_review import is_service_account_token
from spike_pipelines.appender.errors import Malformed, Unauthorized, UnsupportedMediaType
from spike_pipelines.domain.errors import Duplicate
from spike_pipelines.wire import DRIVER_HEADER

NAME = re.compile(r"[A-Za-z0-9._\-]{1,256}")
_BEARER = re.compile(r"Bearer +([\x21-\x7e][\x20-\x7e]{0,4095})", re.IGNORECASE)
Allows = Callable[[str, str], bool]
Refused = Callable[[str, str], None]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def by_form(own: Allows, accounts: Allows) -> Allows:
    """Each token goes to whom its form names, and to nobody else: a ServiceAccount's that the API server
    cannot be asked about is not tried as a spike's own."""

    def allows(spike: str, token: str) -> bool:
        return (accounts if is_service_account_token(token) else own)(spike, token)

    return allows


class StrictRequest(Request):
    """A request whose JSON has one meaning only."""

    async def json(self) -> Any:
        return strict_json(await self.body())


def gated(allows: Allows, refused: Refused = lambda *_: None) -> type[APIRoute]:
    """Routes below `/v1/spikes/{name}`. `allows(spike, token)` answers whether a token may speak;
    `refused(spike, driver)` is told of a driver, as it calls itself, whose token may not."""

    class Gated(APIRoute):
        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                await _authorise(request, allows, refused)
                if request.method == "POST":
                    _check_media_type(request)
                    request = StrictRequest(request.scope, request.receive)
                    await request.json()  # here an error is ours; further in it would be "a bad request"
                return await inner(request)

            return handle

    return Gated


async def _authorise(request: Request, allows: Allows, refused: Refused) -> None:
    """One spike cannot speak for another; whether a spike exists is told to nobody else."""
    name = request.path_params["name"]
    bearer = _BEARER.fullmatch(request.headers.get("authorization", ""))
    known = NAME.fullmatch(name) and bearer is not None
    if not known or bearer is None or not await run_in_threadpool(allows, name, bearer[1]):
        driver = request.headers.get(DRIVER_HEADER, "")
        if NAME.fullmatch(name) and NAME.fullmatch(driver):
            await run_in_threadpool(refused, name, driver)
        raise Unauthorized(f"this token does not speak for {name[:256]}")


def _check_media_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType("the body must be application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")


def strict_json(body: bytes) -> Any:
    """JSON as every parser reads it: UTF-8, no member twice, no NaN. Raises `Malformed`, `Duplicate`."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    except ValueError as error:
        where = f" at {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Malformed(f"the body is not JSON in UTF-8{where}") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Duplicate("a member of the body is there twice", field="body")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
