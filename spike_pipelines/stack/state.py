"""The state folder of one stack: everything `spike up` writes lies below it.

data/        what the parts keep          logs/      one file a part, the run before kept as .1
secrets/     made once, mode 0600         processes/ who runs, with the time each started
control/     requests to the manager      dagster/   DAGSTER_HOME
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class StateDir:
    root: Path

    @classmethod
    def at(cls, root: Path) -> "StateDir":
        """The folder with its parts, created where they are missing."""
        state = cls(root.resolve())
        for folder in (state.data, state.logs, state.processes, state.control, state.dagster_home):
            folder.mkdir(parents=True, exist_ok=True)
        state.secrets.mkdir(mode=0o700, exist_ok=True)
        return state

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def processes(self) -> Path:
        return self.root / "processes"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def snapshot(self) -> Path:
        """What the manager last said of itself and its parts."""
        return self.root / "stack.json"

    @property
    def environment(self) -> Path:
        """What `spike env` prints, as JSON; a secret, since it has passwords in it."""
        return self.secrets / "environment.json"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def stop_request(self, part: str) -> Path:
        """While this file exists the manager keeps the part stopped."""
        return self.control / f"{part}.stop"

    def secret(self, name: str) -> str:
        """A random text that only this user can read, the same for the life of the folder."""
        path = self.secrets / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(path, secrets.token_hex(SECRET_BYTES))
        return path.read_text().strip()

    def token(self, spike: str) -> str:
        """The bearer token with which the spike's drivers speak to the appender."""
        return self.secret(f"tokens/{spike}")

    def token_file(self, spike: str) -> Path:
        """Where drivers read it, at each request: a rotated one counts at once."""
        return self.secrets / "tokens" / spike


def write_private(path: Path, text: str) -> None:
    """Atomic, and never readable by others, not even for a moment."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def rotate(log: Path, keep_bytes: int = 10_000_000) -> None:
    """Before a start: a log beyond the bound becomes `.1`, in place of the one before."""
    if log.exists() and log.stat().st_size > keep_bytes:
        log.replace(log.with_name(log.name + ".1"))
