"""A real Prometheus beside the stack, started as docs/lag.md has it, and pictures of what a person sees."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

READY_SECONDS = 60
PICTURE_SECONDS = 90


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expr: str) -> list[dict]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expr: str) -> float | None:
        found = self.query(expr)
        return float(found[0]["value"][1]) if found else None

    def fires(self, alert: str, spike: str) -> bool:
        answer = httpx.get(f"{self.url}/api/v1/alerts", timeout=10).json()
        return any(
            a["state"] == "firing" and (a["labels"]["alertname"], a["labels"].get("spike")) == (alert, spike)
            for a in answer["data"]["alerts"]
        )

    def graph(self, *exprs: str, minutes: int = 15) -> str:
        """The address of its own page with the plots of these queries."""
        plots = (
            f"g{n}.expr={quote(expr)}&g{n}.tab=0&g{n}.range_input={minutes}m" for n, expr in enumerate(exprs)
        )
        return f"{self.url}/graph?" + "&".join(plots)


@contextmanager
def prometheus(folder: Path, configuration: str) -> Iterator[Prometheus]:
    (folder / "prometheus.yaml").write_text(configuration)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = (
        "prometheus", f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    )  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_ready(f"http://{address}", process)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)


def _await_ready(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None, "prometheus ended: see prometheus.log"
        try:
            if httpx.get(f"{url}/-/ready", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # not listening yet
        assert time.monotonic() < deadline, "prometheus is not ready"
        time.sleep(0.1)


def picture(name: str, url: str, height: int = 900) -> None:
    """A screenshot for the docs, where SPIKE_PICTURES names a folder: `docs/images`."""
    folder, chromium = os.environ.get("SPIKE_PICTURES"), shutil.which("chromium")
    if not folder or not chromium:
        return
    path = Path(folder).resolve() / f"{name}.png"
    command = (
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--window-size=1400,{height}", "--virtual-time-budget=20000", f"--screenshot={path}", url,
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PICTURE_SECONDS)
    assert path.exists(), done.stderr
