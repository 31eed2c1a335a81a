"""Requests to one API server: a hard time for each, and errors in the platform's terms.

The official client brings configuration, certificates and tokens; answers are read here, since its own
reading has no bound in time and makes five objects of each field. Nothing is retried but what the
server asks to be (429, 503 with Retry-After), and a token that has expired.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import orjson
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from spike_pipelines.domain.errors import AlreadyExists, Conflict, InvalidSpec, ObjectMissing, Transient

Json = dict[str, Any]
SECONDS = 10.0  # for one request, body included
LIST_SECONDS = 30.0  # for all pages of a list
WATCH_GRACE_SECONDS = 1.0  # over what the server was told
PAGE = 500
PAGES = 200
_CHUNK = 1 << 20
_MOST_WAIT = 3.0  # a longer Retry-After is the next tick's matter
MERGE_PATCH = "application/merge-patch+json"


class Expired(Transient):
    """410: the server has it no more. A list that was begun is begun again."""


@dataclass(slots=True)
class Api:
    """`seconds` bounds one request. Thread-safe as the client's pool is."""

    connection: client.ApiClient
    seconds: float = SECONDS
    sleep: Any = field(default=time.sleep)

    @classmethod
    def connect(cls, kubeconfig: str | None = None, *, seconds: float = SECONDS) -> "Api":
        """From the file, else from inside the cluster, else as kubectl would. Raises `InvalidSpec`."""
        settings = client.Configuration()
        try:
            if kubeconfig is None:
                _find(settings)
            else:
                config.load_kube_config(kubeconfig, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise InvalidSpec(
                f"no Kubernetes cluster is configured ({error}): set KUBECONFIG, or run inside the cluster"
            ) from error
        settings.retries = False
        return cls(client.ApiClient(settings), seconds)

    def close(self) -> None:
        self.connection.close()

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return _parsed(self.call("GET", path, params))

    def text(self, path: str, params: Mapping[str, str] | None = None) -> str:
        return self.call("GET", path, params).decode(errors="replace")

    def post(self, path: str, body: Json) -> Json:
        return _parsed(self.call("POST", path, body=body))

    def patch(self, path: str, body: Json) -> Json:
        """A merge patch: null removes, a list is replaced as a whole."""
        return _parsed(self.call("PATCH", path, body=body, content=MERGE_PATCH))

    def delete(self, path: str, body: Json | None = None) -> None:
        self.call("DELETE", path, body=body)

    def list(self, path: str, params: Mapping[str, str]) -> Iterator[Json]:
        """Every item, or an error before the last one: the caller keeps nothing of a list that broke off."""
        for _, item in self.listed(path, params):
            yield item

    def listed(self, path: str, params: Mapping[str, str]) -> Iterator[tuple[str, Json]]:
        """As `list`, each item with the version that the list is of: all that was written up to it, and no
        more.

        From the server's cache (resourceVersion 0), which serves it whole; from etcd in pages where it
        does not.
        """
        deadline = time.monotonic() + LIST_SECONDS
        query = {**params, "resourceVersion": "0", "limit": str(PAGE)}
        for _ in range(PAGES):
            page = self.get(path, query)
            items = page.get("items")
            if not isinstance(items, list):
                raise Transient(f"{path}: the answer is no list")
            meta = page.get("metadata") or {}
            version = str(meta.get("resourceVersion") or "")
            yield from ((version, item) for item in items)
            token = meta.get("continue")
            if not token:
                return
            if time.monotonic() > deadline:
                raise Transient(f"{path}: not listed within {LIST_SECONDS:.0f} s")
            query = {**params, "limit": str(PAGE), "continue": token}
        raise Transient(f"{path}: more than {PAGES} pages")

    def watch(self, path: str, params: Mapping[str, str], since: str, seconds: int) -> Generator[Json]:
        """What was written after that version, as events, oldest first, until the time is over: first what
        the server remembers, at once. Raises `Expired` where it does not reach back so far; tried once."""
        query = {**params, "watch": "1", "resourceVersion": since, "timeoutSeconds": str(seconds)}
        deadline = time.monotonic() + seconds + WATCH_GRACE_SECONDS
        try:
            answer = self._open("GET", path, query, seconds=seconds + WATCH_GRACE_SECONDS)
            with closing(_parts(answer, deadline, path)) as parts:
                for line in _lines(parts):
                    yield _event(_parsed(line), path)
        except ApiException as error:
            raise _translated(error, "GET", path) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(f"GET {path}: the watch broke off: {error}") from error

    def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        body: Json | None = None,
        content: str = "application/json",
    ) -> bytes:
        try:
            return self._once(method, path, params, body, content)
        except ApiException as error:
            if not self._again(error):
                raise _translated(error, method, path) from error
        try:
            return self._once(method, path, params, body, content)
        except ApiException as error:
            raise _translated(error, method, path) from error

    def _again(self, error: ApiException) -> bool:
        """Whether the same request may succeed now: after the wait that was asked for, or with the token
        that the configuration has by now."""
        if error.status == 401:
            refresh = self.connection.configuration.refresh_api_key_hook
            if refresh is None:
                return False
            refresh(self.connection.configuration)
            return True
        wait = _retry_after(error)
        if error.status not in {429, 503} or wait is None or wait > _MOST_WAIT:
            return False
        self.sleep(wait)
        return True

    def _once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Json | None, content: str
    ) -> bytes:
        deadline = time.monotonic() + self.seconds
        try:
            answer = self._open(method, path, params, seconds=self.seconds, body=body, content=content)
            return b"".join(_parts(answer, deadline, path))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(f"{method} {path}: the API server did not answer: {error}") from error

    def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        *,
        seconds: float,
        body: Json | None = None,
        content: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:
        answer: urllib3.BaseHTTPResponse = self.connection.call_api(
            path,
            method,
            query_params=list((params or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(min(3.0, seconds), seconds),
        )
        return answer


def _find(settings: client.Configuration) -> None:
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        config.load_kube_config(client_configuration=settings)


def _parts(answer: urllib3.BaseHTTPResponse, deadline: float, path: str) -> Generator[bytes]:
    """Of the body: one that ends early is an error of urllib3, one that trickles is ours."""
    try:
        while part := answer.read1(_CHUNK):  # `read` would wait for a whole chunk, however long it takes
            yield part
            if time.monotonic() > deadline:
                raise Transient(f"{path}: the answer takes too long")
    finally:
        answer.release_conn() if answer.closed else answer.close()


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Whole ones: what follows the last end of a line was cut off."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from filter(None, lines)


def _event(event: Json, path: str) -> Json:
    """An error comes as an event of a watch that was granted."""
    if event.get("type") != "ERROR":
        return event
    status = event.get("object") or {}
    said = f"{path}: the watch ended: {status.get('code')} {status.get('message')}"
    raise Expired(said) if status.get("code") == 410 else Transient(said)


def _parsed(body: bytes) -> Json:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Transient(f"the API server's answer is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Transient("the API server's answer is no JSON object")
    return found


def _retry_after(error: ApiException) -> float | None:
    try:
        return float((error.headers or {}).get("Retry-After", ""))
    except ValueError:
        return None


def _translated(error: ApiException, method: str, path: str) -> Exception:
    message = f"{method} {path}: {error.status} {error.reason}: {_said(error)}"
    if error.status == 404:
        return ObjectMissing(message)
    if error.status == 409:
        return AlreadyExists(message) if method == "POST" else Conflict(message)
    if error.status == 410:
        return Expired(message)
    if error.status == 401:
        return Transient(f"{message}: the token is not accepted; is it expired?")
    if error.status == 403 and " cannot " in message:  # by rights; policies and quotas answer so too
        return Transient(f"{message}: the Role of the supervisor lacks this verb (charts/spike-platform)")
    if error.status in {400, 422}:
        return InvalidSpec(message)
    return Transient(message)


def _said(error: ApiException) -> str:
    """The server's own words."""
    try:
        return str(orjson.loads(error.body)["message"])[:500]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(error.body or "")[:200]
