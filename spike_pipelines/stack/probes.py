"""Small questions to a server, each answered within its time limit."""

import socket
import urllib.error
import urllib.request

LOOPBACK = "127.0.0.1"
ASK_SECONDS = 2.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def tcp(port: int) -> str | None:
    """None if something listens on the loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=ASK_SECONDS):
            return None
    except OSError as error:
        return f"port {port}: {error}"


def http(url: str) -> str | None:
    """None if a GET of the URL, which no proxy is asked for, answers with success."""
    try:
        with _direct.open(url, timeout=ASK_SECONDS):
            return None
    except (OSError, urllib.error.URLError) as error:
        return f"{url}: {error}"
