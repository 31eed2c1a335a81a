"""Faults where they happen in life: on the wire to PostgreSQL, and in S3's answers."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO

from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import ReadTimeoutError

COMMIT = b"COMMIT\x00"  # how psycopg2 says it


class CuttingProxy:
    """A TCP proxy to PostgreSQL on loopback. The `cut_at`-th COMMIT that passes ends its connection:
    before the server hears of it, or after the server has answered and before the client hears that."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self.arm(0, answered=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, cut_at: int, *, answered: bool) -> None:
        """Count from now; 0 cuts nothing."""
        self.cut_at, self.answered, self.commits, self.cut = cut_at, answered, 0, False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        """Client to server, here; the answers in a thread of their own, so that it can be stopped."""
        mute = threading.Event()
        answers = threading.Thread(target=_down, args=(server, client, mute), daemon=True)
        answers.start()
        with suppress(OSError):
            while data := client.recv(65536):
                if COMMIT in data and self._is_the_one():
                    if self.answered:
                        mute.set()
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        answers.join(10)
                    break
                server.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_the_one(self) -> bool:
        with self._lock:
            self.commits += 1
            self.cut |= self.commits == self.cut_at
            return self.commits == self.cut_at


def _down(server: socket.socket, client: socket.socket, mute: threading.Event) -> None:
    """Until the server hangs up: then it has done what it was told, heard or not."""
    with suppress(OSError):
        while data := server.recv(65536):
            if not mute.is_set():
                client.sendall(data)


def xml(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'.encode()


@dataclass
class S3Answers:
    """Hooked into a client: the `fail_at`-th request is answered otherwise. `answer` makes that answer
    and may send the request first."""

    client: object
    fail_at: int = 0
    seen: int = 0
    failed: str | None = None
    answer: Callable[["S3Answers", AWSRequest], AWSResponse] | None = None
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client.meta.events.register("before-send.s3", self._before_send)

    def arm(self, fail_at: int, answer: Callable[["S3Answers", AWSRequest], AWSResponse]) -> None:
        self.fail_at, self.answer, self.seen, self.failed = fail_at, answer, 0, None

    def send(self, request: AWSRequest) -> AWSResponse:
        return self.client._endpoint.http_session.send(request)

    def _before_send(self, request: AWSRequest, **_: object) -> AWSResponse | None:
        self.seen += 1
        if self.seen != self.fail_at:
            return None
        self.failed = f"{request.method} {request.url}"
        return self.answer(self, request)


def status(code: int, error: str) -> Callable[[S3Answers, AWSRequest], AWSResponse]:
    """Refused with this status; nothing happened. A 200 has the error in its body, as a copy may."""

    def answer(_: S3Answers, request: AWSRequest) -> AWSResponse:
        if request.method == "HEAD":  # its answer has no body to put an error into
            return response(request, 500 if code == 200 else code, b"")
        return response(request, code, xml(error))

    return answer


def timeout_after_success(answers: S3Answers, request: AWSRequest) -> AWSResponse:
    answers.send(request)
    raise ReadTimeoutError(endpoint_url=request.url, error="injected")


def error_after_success(answers: S3Answers, request: AWSRequest) -> AWSResponse:
    """Done, and a balancer on the way answers 503: the SDK may send it again."""
    answers.send(request)
    return response(request, 503, xml("ServiceUnavailable"))


class _Raw(BytesIO):
    def stream(self, **_: object):
        yield self.read()


def response(request: AWSRequest, code: int, body: bytes) -> AWSResponse:
    return AWSResponse(request.url, code, {"content-type": "application/xml"}, _Raw(body))
