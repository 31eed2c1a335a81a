"""The appender API, over a migrated ledger that knows every spike's token."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spike_pipelines.adapters.ledger import migrate, register_token
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.probes import LOOPBACK, http


@dataclass(frozen=True, slots=True)
class Appender:
    """`tokens` is spike → bearer token; `env` the platform's settings."""

    port: int
    ledger_url: str
    tokens: Mapping[str, str]
    env: Mapping[str, str]
    cwd: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def part(self) -> Part:
        command = (
            sys.executable, "-m", "uvicorn", "--factory", "spike_pipelines.appender.app:create_app",
            "--host", LOOPBACK, "--port", str(self.port), "--no-access-log",
            "--timeout-graceful-shutdown", "5",
        )  # fmt: skip
        return Part(
            name="appender",
            command=command,
            cwd=self.cwd,
            env=self.env,
            ports=(self.port,),
            needs=("postgres", "kafka", "s3"),
            prepare=self._prepare_ledger,
            ready=lambda: http(f"{self.url}/readyz"),
        )

    def _prepare_ledger(self) -> None:
        migrate(self.ledger_url)
        for spike, token in self.tokens.items():
            register_token(self.ledger_url, spike, token)
