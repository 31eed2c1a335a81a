"""An HTTP server on loopback."""

import http.server
import threading


class Server:
    """Answers with what `files` (path → bytes) has, else with `otherwise`, or 404 where that is None; and
    remembers what it was asked, in order: a request to a proxy has the whole URL."""

    def __init__(self, otherwise: bytes | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.otherwise = otherwise
        self.asked: list[str] = []
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(server) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                body = server.files.get(self.path, server.otherwise)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                """Quiet."""

        return Handler
