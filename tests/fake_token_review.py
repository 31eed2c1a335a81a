"""An API server that reviews tokens and does nothing else, over HTTP; and ways for it to misbehave."""

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWN_TOKEN = "the appender's own"


def jwt(username: str, audience: str, *, seconds: float = 600) -> str:
    """A token by its form and claims; only a server that issued it knows it."""
    claims = {"sub": username, "aud": [audience], "exp": int(time.time() + seconds)}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.{secrets.token_urlsafe(16)}"


@dataclass
class FakeTokenReview:
    """`answer` stands in for every answer, as (status, body); `asked` counts reviews."""

    issued: dict[str, tuple[str, str]] = field(default_factory=dict)
    answer: tuple[int, bytes] | None = None
    knows_audiences: bool = True
    asked: int = 0
    url: str = ""

    def issue(self, namespace: str, account: str, audience: str) -> str:
        username = f"system:serviceaccount:{namespace}:{account}"
        token = jwt(username, audience)
        self.issued[token] = (username, audience)
        return token

    def revoke(self, token: str) -> None:
        """As when the pod that a token is bound to is gone."""
        del self.issued[token]

    def review(self, request: dict) -> dict:
        username, audience = self.issued.get(request["spec"]["token"], (None, None))
        if username is None or (self.knows_audiences and audience not in request["spec"]["audiences"]):
            return {**request, "status": {"user": {}, "error": "invalid bearer token"}}
        status = {"authenticated": True, "user": {"username": username}}
        if self.knows_audiences:
            status["audiences"] = [audience]
        return {**request, "status": status}


@contextmanager
def serving() -> Iterator[FakeTokenReview]:
    fake = FakeTokenReview()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            fake.asked += 1
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, body = fake.answer or self._answer(request)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, request):
            if self.headers["authorization"] != f"Bearer {OWN_TOKEN}":
                return 401, b"{}"
            return 201, json.dumps(fake.review(request)).encode()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
