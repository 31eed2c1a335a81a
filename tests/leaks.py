"""Where secrets must not be: searches what a stack wrote and what its processes show to others."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

CHUNK = 8 * 1024 * 1024


def secrets_of(state: Path) -> dict[str, bytes]:
    """By name, as in `postgres-spike_api` or `tokens/payouts`."""
    files = (path for path in (state / "secrets").rglob("*") if path.is_file())
    return {
        str(path.relative_to(state / "secrets")): path.read_bytes().strip()
        for path in files
        if path.name != "environment.json"
    }


def files_with_secrets(state: Path) -> list[str]:
    """Every file below the state folder but `secrets/`: logs, records, Dagster's home, and the pages of
    PostgreSQL, which are the ledger, Dagster's runs and its event log."""
    secrets = secrets_of(state)
    files = (path for path in state.rglob("*") if path.is_file() and state / "secrets" not in path.parents)
    return [f"{name} in {path.relative_to(state)}" for path in files for name in _found(path, secrets)]


def arguments_with_secrets(state: Path) -> list[str]:
    """The process list, which every user of a machine can read."""
    secrets = secrets_of(state)
    return [
        f"{name} in the arguments of {process.name()}"
        for process in psutil.process_iter()
        for name, secret in secrets.items()
        if secret in " ".join(_asked(process.cmdline, [])).encode()
    ]


def secrets_in_environment(state: Path, pid: int) -> set[str]:
    """Names of the secrets that a process was told."""
    told = "\n".join(_asked(psutil.Process(pid).environ, {}).values()).encode()
    return {name for name, secret in secrets_of(state).items() if secret in told}


def _found(path: Path, secrets: Mapping[str, bytes]) -> Iterator[str]:
    """In pieces that overlap, so that one on the seam is seen too."""
    longest, seen, tail = max(map(len, secrets.values())), set(), b""
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                seen |= {name for name, secret in secrets.items() if secret in tail + piece}
                tail = piece[-longest:]
    except FileNotFoundError:
        pass  # a running stack replaces its files
    yield from sorted(seen)


def _asked(question, otherwise):
    try:
        return question()
    except psutil.Error:
        return otherwise
