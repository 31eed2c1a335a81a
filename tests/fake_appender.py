"""An appender for drivers' tests: real HTTP, a ledger in memory, and answers that a test can script."""

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from spike_pipelines.wire import EpochGrant, Heartbeat, OpenEpoch, PartitionOffset, PostBatch

TOKEN = "a-token"


@dataclass(frozen=True)
class Answer:
    """Instead of the usual answer. `lost`: the request is carried out, and its answer never arrives."""

    status: int = 503
    code: str = "unavailable"
    retry_after: float | None = None
    lost: bool = False


@dataclass
class FakeAppender:
    """`ends` are the staged ends by partition; `script` maps a path's last part to answers to give first."""

    topic: str = "events"
    topic_id: str = "topic-id"
    ends: dict[int, int] = field(default_factory=lambda: {0: 0})
    heartbeat_seconds: float = 0.1
    script: dict[str, deque[Answer]] = field(default_factory=dict)
    opens: list[OpenEpoch] = field(default_factory=list)
    posts: list[PostBatch] = field(default_factory=list)
    batches: list[PostBatch] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)
    epoch: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def say(self, path: str, *answers: Answer) -> None:
        self.script.setdefault(path, deque()).extend(answers)

    def wait_for(self, condition, seconds: float = 150.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), self

    def start(self) -> str:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["authorization"] == f"Bearer {TOKEN}"
                fake.answer(self, self.path.rsplit("/", 1)[-1], body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        with self.changed:
            scripted = self.script.get(path)
            planned = scripted.popleft() if scripted else None
            if planned is not None and not planned.lost:
                self._note(path, body)
                status, found = planned.status, _error(planned.code)
            else:
                status, found = getattr(self, f"_{path}")(body)
            self.changed.notify_all()
        if planned is not None and planned.lost:
            request.close_connection = True
            request.connection.close()
            return
        _send(request, status, found, planned.retry_after if planned else None)

    def _note(self, path: str, body: bytes) -> None:
        if path == "batches":
            self.posts.append(PostBatch.model_validate_json(body))
        elif path == "epochs":
            self.opens.append(OpenEpoch.model_validate_json(body))

    def _epochs(self, body: bytes) -> tuple[int, dict]:
        request = OpenEpoch.model_validate_json(body)
        repeated = bool(self.opens) and self.opens[-1] == request and self.epoch == (request.after or 0) + 1
        self.opens.append(request)
        self.epoch += not repeated
        grant = EpochGrant(
            epoch=self.epoch,
            nonce=f"nonce-{self.epoch}",
            staging_prefix=f"staging/{self.topic}/{self.epoch}/",
            offsets=[
                PartitionOffset(topic=self.topic, topic_id=self.topic_id, partition=i, offset=end)
                for i, end in sorted(self.ends.items())
            ],
            heartbeat_seconds=self.heartbeat_seconds,
            idle_seconds=10,
        )
        return 201, grant.model_dump(mode="json")

    def _batches(self, body: bytes) -> tuple[int, dict]:
        batch = PostBatch.model_validate_json(body)
        self.posts.append(batch)
        if batch.epoch != self.epoch:
            return 409, _error("fenced")
        if batch in self.batches:
            return 200, {"number": self.batches.index(batch) + 1, "state": "staged"}
        for r in batch.ranges:
            expected = self.ends.get(r.partition, 0)
            if r.start != expected:
                return 409, _error("gap" if r.start > expected else "overlap")
        self.ends |= {r.partition: r.end for r in batch.ranges}
        self.batches.append(batch)
        return 201, {"number": len(self.batches), "state": "staged"}

    def _heartbeat(self, body: bytes) -> tuple[int, dict]:
        beat = Heartbeat.model_validate_json(body)
        self.beats.append(beat)
        return (200, {"ok": True}) if beat.epoch == self.epoch else (409, _error("fenced"))


def _error(code: str) -> dict:
    return {"error": {"code": code, "message": f"scripted {code}"}}


def _send(request: BaseHTTPRequestHandler, status: int, body: dict, retry_after: float | None) -> None:
    content = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(content)))
    if retry_after is not None:
        request.send_header("retry-after", str(retry_after))
    request.end_headers()
    request.wfile.write(content)
