"""ServiceAccount tokens, judged by the API server that issued them (`authentication.k8s.io/v1` TokenReview).

An answer is kept for some seconds, so that a heartbeat every few seconds asks nothing. Where no answer can be
had the token is neither good nor bad: `Transient`, which the appender answers with 503.
"""

import base64
import hashlib
import json
import logging
import math
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.service_accounts import TokenReview, Trusted

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = httpx.Timeout(5.0, connect=2.0)
KEPT_SECONDS = 30.0  # a token that was good; as long one goes on after its pod is gone
REFUSED_SECONDS = 5.0  # one that was not
MAX_KEPT = 10_000
TOLD_SECONDS = 5.0  # a driver that cannot be let in asks every few seconds, by the thousand

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is, its authority's certificate (None: the system's), and the file of our own token, which
    Kubernetes replaces every hour."""

    url: str
    ca_file: Path | None
    token_file: Path

    @classmethod
    def of_this_pod(cls) -> "ApiServer":
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        if host is None or port is None:
            raise InvalidSpec(
                "SPIKE_TOKEN_AUDIENCE is set, but this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not. "
                "Unset it outside Kubernetes, and use `spike token new`"
            )
        address = f"[{host}]" if ":" in host else host
        return cls(f"https://{address}:{port}", MOUNTED / "ca.crt", MOUNTED / "token")


class ServiceAccounts:
    """Thread-safe. `allows` raises `Transient` if nobody can tell; `unjudged` is told then, seldom, for which
    spike the token says that it speaks."""

    def __init__(
        self,
        server: ApiServer,
        trusted: Trusted,
        unjudged: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        verify: ssl.SSLContext | bool = True
        if server.ca_file is not None:
            verify = ssl.create_default_context(cafile=str(server.ca_file))
        self._http = httpx.Client(base_url=server.url, verify=verify, timeout=TIMEOUT, trust_env=False)
        self._server = server
        self._trusted = trusted
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, TokenReview]] = OrderedDict()
        self._lock = threading.Lock()
        self._unjudged = unjudged
        self._told: OrderedDict[str, float] = OrderedDict()

    def close(self) -> None:
        self._http.close()

    def allows(self, spike: str, token: str) -> bool:
        """What the token claims is looked at first: one that is somebody else's by its own words, or over,
        asks the API server nothing."""
        expected = self._trusted.username(spike)
        if expected is None or not _claims(token, expected, self._trusted.audience, time.time()):
            return False
        try:
            review = self._review(token)
        except Transient:
            self._tell(spike)
            raise
        return self._trusted.allows(spike, review)

    def _tell(self, spike: str) -> None:
        """The token's own word is proof of nothing, and enough to hold a restart back."""
        now = self._clock()
        with self._lock:
            if now - self._told.get(spike, -math.inf) < TOLD_SECONDS:
                return
            self._told[spike] = now
            self._told.move_to_end(spike)
            while len(self._told) > MAX_KEPT:  # anybody may name spikes that are none
                self._told.popitem(last=False)
        self._unjudged(spike)

    def _review(self, token: str) -> TokenReview:
        key = hashlib.sha256(token.encode()).hexdigest()
        with self._lock:
            until, kept = self._kept.get(key, (0.0, None))
        if kept is not None and self._clock() < until:
            return kept
        asked = self._clock()
        review = self._ask(token)
        self._keep(key, asked, review)
        return review

    def _keep(self, key: str, asked: float, review: TokenReview) -> None:
        seconds = KEPT_SECONDS if review.authenticated else REFUSED_SECONDS
        with self._lock:
            self._kept[key] = (asked + seconds, review)
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    def _ask(self, token: str) -> TokenReview:
        spec = {"token": token, "audiences": [self._trusted.audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            headers = {"authorization": f"Bearer {self._server.token_file.read_text().strip()}"}
            response = self._http.post(PATH, json=body, headers=headers)
            if response.status_code != httpx.codes.CREATED:
                raise _no_answer(f"it answered {response.status_code} {response.text[:200]!r}")
            return _Answer.model_validate_json(response.content).status.as_review()
        except (OSError, httpx.HTTPError) as error:
            raise _no_answer(repr(error)) from error
        except ValidationError as error:
            raise _no_answer(f"its answer is no review: {error.error_count()} errors in it") from error


def _no_answer(detail: str) -> Transient:
    """The detail is for us: who asks may be a stranger."""
    log.warning("a token was not reviewed by the API server: %s", detail)
    return Transient("the API server does not say whose token this is; try again")


class _User(BaseModel):
    username: str = ""


class _Status(BaseModel):
    authenticated: bool = False
    user: _User = _User()
    audiences: frozenset[str] = frozenset()
    error: str = ""

    def as_review(self) -> TokenReview:
        return TokenReview(self.authenticated and not self.error, self.user.username, self.audiences)


class _Answer(BaseModel):
    status: _Status


def is_service_account_token(token: str) -> bool:
    """By its form (a JWT). A spike's own token has no dots."""
    return token.count(".") == 2


def _claims(token: str, username: str, audience: str, now: float) -> bool:
    """Whether the token says of itself, unproved, that it is this user's, for this audience, and not over."""
    try:
        payload = token.split(".")[1]
        found: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        audiences = found["aud"] if isinstance(found["aud"], list) else [found["aud"]]
        return bool(found["sub"] == username and audience in audiences and found["exp"] > now)
    except (ValueError, LookupError, TypeError, RecursionError):  # a stranger wrote it
        return False
