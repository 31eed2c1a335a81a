"""Every error of the API: the domain's classes as HTTP, with the code a driver acts on."""

import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from spike_pipelines import wire
from spike_pipelines.domain import errors


class Unauthorized(errors.Refused):
    """No bearer token, or one that may not speak for this spike."""

    code = "unauthorized"


class UnknownSpike(errors.Refused):
    """No application file describes a spike of this name."""

    code = "unknown_spike"


class TooLarge(errors.Refused):
    """The body is over the limit."""

    code = "too_large"


class TooLong(errors.Refused):
    """A list in the body is over its limit."""

    code = "too_large"


class TooSlow(errors.Transient):
    """The body did not arrive in time."""

    code = "too_slow"


class Malformed(errors.Refused):
    """The body is not JSON."""

    code = "malformed"


class UnsupportedMediaType(errors.Refused):
    """The body says that it is something else than plain JSON."""

    code = "unsupported_media_type"


# First match wins. What is not here is a bug and answers 500 without details.
_STATUS: tuple[tuple[type[errors.SpikeError], int], ...] = (
    (Unauthorized, 401),
    (UnknownSpike, 404),
    (Malformed, 400),
    (TooSlow, 408),
    (TooLarge, 413),
    (UnsupportedMediaType, 415),
    (errors.TooManyStaged, 429),
    (errors.Held, 409),
    (errors.Fenced, 409),
    (errors.Gap, 409),
    (errors.Overlap, 409),
    (errors.TopicChanged, 409),
    (errors.Lost, 409),
    (errors.SpecChanged, 409),
    (errors.TopicMissing, 503),
    (errors.Transient, 503),
    (errors.Conflict, 409),
    (errors.Refused, 422),
)


def answer(error: errors.SpikeError) -> JSONResponse:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    code = getattr(error, "code", "unavailable" if status == 503 else "invalid")
    body = wire.ErrorBody(
        error=wire.Error(code=code, message=str(error), field=getattr(error, "field", None))
    )
    wait = getattr(error, "retry_after_seconds", 1.0 if status == 503 else None)
    headers = {"Retry-After": str(math.ceil(wait))} if wait is not None else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {408, 413}:
        headers["Connection"] = "close"  # what is left of the body is not waited for
    return JSONResponse(body.model_dump(), status, headers)


def invalid(error: RequestValidationError) -> JSONResponse:
    """The first thing wrong with a body or path, with its place. Never echoes what was sent."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    kind = TooLong if first["type"] == "too_long" else errors.Refused
    return answer(kind(f"{field}: {first['msg']}"[:500], field=field[:200]))


def install(app: FastAPI) -> None:
    def spike_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, errors.SpikeError)
        return answer(error)

    def validation_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid(error)

    def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = wire.ErrorBody(error=wire.Error(code="invalid", message=str(error.detail)))
        return JSONResponse(body.model_dump(), error.status_code, error.headers)

    app.add_exception_handler(errors.SpikeError, spike_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
