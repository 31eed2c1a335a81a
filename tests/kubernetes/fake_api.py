"""An API server of a few hundred objects, over HTTP: lists, merge patches, conflicts, watches from what it
remembers, and faults on demand.

What a real one does only on a bad day (429, 410, an expired token, half an answer) this one does when told.
Wherever it behaves as a real one would, the tests of `test_cluster.py` hold the two together.
"""

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from spike_pipelines.adapters.kubernetes.patches import merged


@dataclass
class Fault:
    """Answers a request in the server's place, so many times."""

    answer: Callable
    matches: Callable[[str, str], bool]
    times: int


@dataclass
class FakeApi:
    objects: dict = field(default_factory=dict)  # collection path → name → object
    logs: dict = field(default_factory=dict)  # pod name → text
    faults: list = field(default_factory=list)
    requests: list = field(default_factory=list)  # (method, path, query)
    token: str = "good"
    paged: bool = False  # in pages also from the cache
    version: int = 100
    history: list = field(default_factory=list)  # (version, collection path, event as JSON)
    oldest: int = 0  # what was written up to this version is forgotten
    connections: list = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"api": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Also for those who are connected."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def fail(self, status, message="no", *, times=1, matches=lambda method, path: True, **headers):
        body = json.dumps({"kind": "Status", "code": status, "message": message}).encode()

        def answer(handler):
            handler.reply(status, body, headers)

        self.faults.append(Fault(answer, matches, times))

    def break_off(self, *, times=1):
        """Half an answer."""

        def answer(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            handler.wfile.write(b'{"items": [')
            handler.close_connection = True

        self.faults.append(Fault(answer, lambda method, path: True, times))

    def hang(self, seconds, *, times=1):
        """Nothing, for so long."""

        def answer(handler):
            time.sleep(seconds)
            handler.close_connection = True

        self.faults.append(Fault(answer, lambda method, path: True, times))

    def trickle(self, seconds):
        """A byte now and then: each within any timeout between two of them."""

        def answer(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                handler.wfile.write(b" " * 4096)
                time.sleep(0.05)
            handler.close_connection = True

        self.faults.append(Fault(answer, lambda method, path: True, 1))

    def stamp(self, found, collection, kind):
        """As it is written, and remembered as it is now."""
        self.version += 1
        found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        event = json.dumps({"type": kind, "object": found}).encode() + b"\n"
        self.history.append((self.version, collection, event))
        return found

    def forget(self):
        """As a server's cache does with what is old."""
        self.oldest = self.version


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def setup(self):
        super().setup()
        self.api.connections.append(self.connection)

    def log_message(self, *_):
        pass

    def handle_any(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        self.api.requests.append((self.command, url.path, query))
        for fault in self.api.faults:
            if fault.times and fault.matches(self.command, url.path):
                fault.times -= 1
                return fault.answer(self)
        if self.headers.get("Authorization") not in {None, f"Bearer {self.api.token}"}:
            return self.status(401, "Unauthorized")
        if query.get("watch"):
            return self.on_watch(url.path, query)
        with self.api.lock:
            return getattr(self, f"on_{self.command.lower()}")(url.path, query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the base class's names

    def on_get(self, path, query, _):
        if path.endswith("/log"):
            text = self.api.logs.get(path.split("/")[-2])
            if text is None:
                return self.status(404, "no such pod")
            lines = text.splitlines()[-int(query.get("tailLines", 10**6)) :]
            return self.reply(200, "\n".join(lines).encode(), {})
        if path in self.api.objects:
            return self.on_list(path, query)
        found = self.find(path)
        return self.status(404, f"{path} not found") if found is None else self.json(200, found)

    def on_list(self, path, query):
        items = [o for _, o in sorted(self.api.objects[path].items()) if _selected(o, query)]
        start = int(query.get("continue", 0))
        limit = int(query.get("limit", 0))
        if not limit or (query.get("resourceVersion") == "0" and not self.api.paged):
            limit = len(items)
        more = str(start + limit) if start + limit < len(items) else ""
        meta = {"resourceVersion": str(self.api.version), "continue": more}
        self.json(200, {"kind": "List", "metadata": meta, "items": items[start : start + limit]})

    def on_watch(self, path, query):
        """What was written since, at once, and then nothing until the time is over. A real one refuses what
        it has forgotten in an event as well."""
        since = int(query["resourceVersion"])
        with self.api.lock:
            events = [(n, e) for n, where, e in self.api.history if n > since and where == path]
        told = [e for _, e in events if _selected(json.loads(e)["object"], query)]
        if since < self.api.oldest:
            status = {"kind": "Status", "code": 410, "message": f"too old resource version: {since}"}
            told = [json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"".join(told))
        self.wfile.flush()
        if since >= self.api.oldest:
            self.connection.settimeout(float(query["timeoutSeconds"]))
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the other side has read enough, or the time is over
        self.close_connection = True

    def on_post(self, path, _, body):
        meta = body["metadata"]
        name = meta.setdefault("name", f"{meta.get('generateName', '')}{uuid.uuid4().hex[:6]}")
        collection = self.api.objects.setdefault(path, {})
        if name in collection:
            return self.status(409, f"{name} already exists", reason="AlreadyExists")
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).isoformat()}
        collection[name] = self.api.stamp({**body, "metadata": {**meta, **made}}, path, "ADDED")
        return self.json(201, collection[name])

    def on_patch(self, path, _, body):
        path, status, _ = path.partition("/status")
        found = self.find(path)
        if found is None:
            return self.status(404, f"{path} not found")
        meta = body.get("metadata", {})
        for key in ("resourceVersion", "uid"):
            if meta.get(key) not in {None, found["metadata"][key]}:
                return self.status(409, f"the object has been modified ({key})", reason="Conflict")
        kept = {"status": found.get("status", {})} if not status else {"spec": found.get("spec", {})}
        collection, _, name = path.rpartition("/")
        changed = self.api.stamp({**merged(found, body), **kept}, collection, "MODIFIED")
        self.api.objects[collection][name] = changed
        return self.json(200, changed)

    def on_delete(self, path, _, body):
        collection, _, name = path.rpartition("/")
        found = self.find(path)
        if found is None:
            return self.status(404, f"{path} not found")
        if (body.get("preconditions") or {}).get("uid") not in {None, found["metadata"]["uid"]}:
            return self.status(409, "the UID in the precondition is another one", reason="Conflict")
        self.api.stamp(self.api.objects[collection].pop(name), collection, "DELETED")
        return self.json(200, {"kind": "Status", "status": "Success"})

    def find(self, path):
        collection, _, name = path.rpartition("/")
        return self.api.objects.get(collection, {}).get(name)

    def status(self, code, message, reason=""):
        self.json(code, {"kind": "Status", "code": code, "message": message, "reason": reason})

    def json(self, code, body):
        self.reply(code, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def reply(self, code, body, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _selected(found, query):
    labels = found["metadata"].get("labels") or {}
    for part in _terms(query.get("labelSelector", "")):
        key, _, rest = part.partition(" in ")
        if rest:
            if labels.get(key) not in rest.strip("()").split(","):
                return False
        elif "=" in part:
            key, _, value = part.partition("=")
            if labels.get(key) != value:
                return False
        elif part not in labels:
            return False
    place, _, wanted = query.get("fieldSelector", "").partition("=")
    return not wanted or found.get(place.partition(".")[0], {}).get("name") == wanted


def _terms(selector):
    """Commas inside brackets are a term's own."""
    terms, depth = [""], 0
    for letter in selector:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            terms.append("")
        else:
            terms[-1] += letter
    return [term.strip() for term in terms if term.strip()]
