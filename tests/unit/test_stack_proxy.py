"""The fault proxy over real sockets: an echo server behind it."""

import contextlib
import socket
import socketserver
import threading
import time

import pytest
from waiting import until

from spike_pipelines.stack.ports import find_free
from spike_pipelines.stack.proxy import Link, Proxy

TIMEOUT = 10


class Echo(socketserver.StreamRequestHandler):
    """Sends everything back once the client has ended its half, or a line at a time."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            for line in self.rfile:
                self.wfile.write(line)


class EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def echo():
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy():
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def link(proxy, echo) -> Link:
    return proxy.open("echo", port=find_free(), target=echo)


def connected(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=TIMEOUT)


def asked(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    return client.makefile("rb").readline()


def assert_reset(link: Link) -> None:
    """While connecting already, or when something is read."""
    with pytest.raises(ConnectionResetError), connected(link) as client:
        client.recv(1)


def test_bytes_go_both_ways_unchanged_and_an_end_is_passed_on(link):
    sent = b"".join(b"%d\n" % n for n in range(50_000))
    with connected(link) as client:
        threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))).start()
        assert client.makefile("rb").read() == sent
    assert link.harm.delayed_bytes == link.harm.cut_connections == 0


def test_delay_holds_data_up_and_counts_it(link):
    with connected(link) as client:
        assert asked(client, b"quick\n") == b"quick\n"
        link.delay(0.2)
        start = time.monotonic()
        assert asked(client, b"slow\n") == b"slow\n"
        assert time.monotonic() - start >= 0.4  # there and back
        assert link.harm.delayed_bytes == len(b"slow\n") * 2
        assert link.harm.since is not None


def test_cut_resets_what_is_open_and_what_comes_until_it_is_healed(link):
    with connected(link) as client:
        assert asked(client, b"a\n") == b"a\n"
        link.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert_reset(link)
    assert link.harm.cut_connections >= 3  # both sides of the first, and the second
    link.heal()
    with connected(link) as client:
        assert asked(client, b"b\n") == b"b\n"


def test_harm_counts_from_the_newest_fault_on(link):
    with connected(link) as client:
        link.delay(0.01)
        asked(client, b"x\n")
        link.heal()
        link.cut()
        until(lambda: link.harm.cut_connections)
        assert link.harm.delayed_bytes == 0


def test_server_that_is_down_is_a_reset(proxy):
    link = proxy.open("nobody", port=find_free(), target=find_free())
    assert_reset(link)


def test_server_that_breaks_off_is_a_reset_for_the_client(proxy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = proxy.open("rude", port=find_free(), target=server.getsockname()[1])
        with connected(link) as client:
            there, _ = server.accept()
            client.sendall(b"hello")
            there.recv(1)
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            there.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_leaving_ends_open_connections(echo):
    with Proxy() as proxy:
        link = proxy.open("echo", port=find_free(), target=echo)
        client = connected(link)
        asked(client, b"a\n")
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
