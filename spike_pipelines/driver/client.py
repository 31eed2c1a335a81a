"""The appender API over HTTP: one request, one answer, no memory. Retrying is the session's business."""

from collections.abc import Callable
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from spike_pipelines.domain.errors import Transient
from spike_pipelines.driver.decisions import Refusal
from spike_pipelines.wire import (
    DRIVER_HEADER,
    MAX_BODY_BYTES,
    BatchAccepted,
    EpochGrant,
    ErrorBody,
    Heartbeat,
    Ok,
    OpenEpoch,
    PostBatch,
)

TIMEOUT = httpx.Timeout(15.0, connect=5.0)

M = TypeVar("M", bound=BaseModel)


class AppenderClient:
    """Thread-safe. No answer, or one that is not the API's, is `Refusal("unavailable", …)`.

    `token` is asked for at each request: it may be rotated while a driver lives.
    """

    def __init__(
        self,
        url: str,
        spike: str,
        token: str | Callable[[], str],
        *,
        driver: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/spikes/{spike}",
            headers={"content-type": "application/json"} | ({DRIVER_HEADER: driver} if driver else {}),
            timeout=TIMEOUT,
            transport=transport,
            trust_env=False,  # the appender is near; a proxy for the world outside does not know it
        )
        self._url = url
        self._token = token if callable(token) else lambda: token

    def open_epoch(self, request: OpenEpoch) -> EpochGrant | Refusal:
        return self._post("/epochs", request, EpochGrant)

    def register(self, batch: PostBatch) -> BatchAccepted | Refusal:
        return self._post("/batches", batch, BatchAccepted)

    def heartbeat(self, beat: Heartbeat) -> Ok | Refusal:
        return self._post("/heartbeat", beat, Ok)

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: BaseModel, answer: type[M]) -> M | Refusal:
        content = body.model_dump_json().encode()
        if len(content) > MAX_BODY_BYTES:  # the server ends the connection in the middle of such a body
            return Refusal("too_large", f"{len(content)} bytes, the appender takes {MAX_BODY_BYTES}")
        try:
            headers = {"authorization": f"Bearer {self._token()}"}
            response = self._http.post(path, content=content, headers=headers)
        except Transient as error:
            return Refusal("unavailable", str(error))
        except httpx.HTTPError as error:
            return Refusal("unavailable", f"appender at {self._url} does not answer: {error!r}")
        try:
            if response.is_success:
                return answer.model_validate_json(response.content)
            return _refusal(response)
        except ValidationError as error:
            found = f"{response.status_code} {response.text[:200]!r}"
            return Refusal("unavailable", f"{self._url} answered {found}: {error.error_count()} errors in it")


def _refusal(response: httpx.Response) -> Refusal:
    error = ErrorBody.model_validate_json(response.content).error
    place = f" (field {error.field})" if error.field else ""
    return Refusal(error.code, error.message + place, _retry_after(response.headers.get("retry-after")))


def _retry_after(header: str | None) -> float | None:
    """Seconds; the other form (a date) is not one this API sends."""
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None
