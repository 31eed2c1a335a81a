"""Ports of the stack: found free at the first start, remembered after that, never silently changed."""

import json
import os
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from spike_pipelines.adapters.whole_file import write_whole
from spike_pipelines.stack.errors import PortTaken, StackError
from spike_pipelines.stack.probes import LOOPBACK

# Below the range from which kernels take the local port of outgoing connections, so that between two
# runs of the stack no client's connection sits on a remembered port, nor on the one 10,000 above, which
# SeaweedFS takes beside its admin port (`parts/s3.py`).
LOWEST, HIGHEST = 15_000, 22_767
TRIES = 200


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def find_free(taken: Iterable[int] = ()) -> int:
    """A port nobody listens on and that is not in `taken`."""
    avoid = set(taken)
    for port in random.sample(range(LOWEST, HIGHEST + 1), TRIES):
        if port not in avoid and is_free(port):
            return port
    raise StackError(
        f"none of {TRIES} ports tried between {LOWEST} and {HIGHEST} is free: end what listens there"
    )


def remembered(file: Path, names: Iterable[str]) -> Mapping[str, int]:
    """The port of each name; those seen the first time are chosen now and written to the file."""
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    missing = [name for name in names if name not in known]
    for name in missing:
        known[name] = find_free(known.values())
    if missing:
        write_whole(file, json.dumps(known, indent=2) + "\n")
    return known


def check_free(part: str, ports: Iterable[int], file: Path) -> None:
    """Raise `PortTaken` for a port that somebody listens on, naming who and what to do."""
    for port in ports:
        if not is_free(port):
            raise PortTaken(
                f"{part} needs port {port}, and {holder(port)} has it: "
                f"end that process, or delete {file} to let the stack find other ports"
            )


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            return _describe(connection.pid)
    return "a process of another user"


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        whose = " (this one)" if pid == os.getpid() else f" of {process.username()}"
        return f"process {pid} '{process.name()}'{whose}"
    except psutil.Error:
        return f"process {pid}"
