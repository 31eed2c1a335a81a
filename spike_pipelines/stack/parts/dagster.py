"""Dagster: one code server, which the webserver and the daemon share (each would load the code again,
at some 200 MB, if they were given the module instead)."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spike_pipelines.stack.part import Part, Probe, always_ready, nothing
from spike_pipelines.stack.probes import LOOPBACK, http, tcp

LOCATION = "spike_pipelines"
MODULE = "spike_pipelines.definitions"
REPOSITORY = Path(__file__).resolve().parents[3]
WORKSPACE = """\
load_from:
  - grpc_server:
      host: {host}
      port: {port}
      location_name: {location}
"""


@dataclass(frozen=True, slots=True)
class Dagster:
    """`home` is DAGSTER_HOME; `cwd` the folder that relative paths of the settings start from."""

    home: Path
    port: int
    code_port: int
    env: Mapping[str, str]
    cwd: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def parts(self) -> tuple[Part, ...]:
        return (self._code(), self._webserver(), self._daemon())

    def _code(self) -> Part:
        command = (
            "dagster", "api", "grpc", "-m", MODULE, "-h", LOOPBACK, "-p", str(self.code_port),
            "--location-name", LOCATION, "--use-python-environment-entry-point", "--log-level", "warning",
        )  # fmt: skip
        return self._part(
            "dagster-code",
            command,
            needs=("postgres", "s3", "appender"),
            port=self.code_port,
            ready=lambda: tcp(self.code_port),
            prepare=self._write_home,
        )

    def _webserver(self) -> Part:
        command = (
            "dagster_webserver", "-h", LOOPBACK, "-p", str(self.port), "-w", str(self._workspace),
            "--log-level", "warning",
        )  # fmt: skip
        return self._part(
            "dagster-webserver",
            command,
            needs=("dagster-code",),
            port=self.port,
            ready=lambda: http(f"{self.url}/server_info"),
        )

    def _daemon(self) -> Part:
        command = ("dagster._daemon", "run", "-w", str(self._workspace), "--log-level", "warning")
        return self._part("dagster-daemon", command, needs=("dagster-code",))

    def _part(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        needs: tuple[str, ...],
        port: int | None = None,
        ready: Probe = always_ready,
        prepare: Callable[[], None] = nothing,
    ) -> Part:
        return Part(
            name=name,
            command=(sys.executable, "-m", *command),
            cwd=self.cwd,
            env=self.env,
            ports=() if port is None else (port,),
            needs=needs,
            ready=ready,
            prepare=prepare,
            ready_seconds=120,
        )

    @property
    def _workspace(self) -> Path:
        return self.home / "workspace.yaml"

    def _write_home(self) -> None:
        shutil.copyfile(REPOSITORY / "dagster.yaml", self.home / "dagster.yaml")
        text = WORKSPACE.format(host=LOOPBACK, port=self.code_port, location=LOCATION)
        self._workspace.write_text(text)
