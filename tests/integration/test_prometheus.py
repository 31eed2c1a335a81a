"""A real Prometheus scrapes a real page: rules fire, and no rule and no dashboard query finds nothing."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from builders import HOUR
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from spike_pipelines.appender.metrics import Page
from spike_pipelines.domain.lag import LagVerdict
from spike_pipelines.driver.metrics import DriverCollector, announce, targets_file
from spike_pipelines.driver.vitals import Progress, VitalsBoard
from spike_pipelines.ports import DriverState, ObservedDriver, Recovery
from spike_pipelines.services.observe import Observer
from spike_pipelines.stack.prometheus import configuration

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deployments" / "prometheus" / "spike.rules.yaml"
DASHBOARDS = sorted((ROOT / "deployments" / "grafana").glob("*.json"))
POD = 'namespace="n",pod="p",container="spark-kubernetes-driver"'
PODS = "\n".join(
    [
        f"container_cpu_usage_seconds_total{{{POD}}} 1",
        f"container_memory_working_set_bytes{{{POD}}} 1e9",
        f'kube_pod_container_resource_requests{{{POD},resource="cpu"}} 1',
        f'kube_pod_container_resource_requests{{{POD},resource="memory"}} 2e9',
        "",
    ]
)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed: apt-get install prometheus"
    ),
]


class Cluster:
    def __init__(self, *running):
        self.running = running

    def drivers(self):
        return tuple(ObservedDriver(name, "a", DriverState.RUNNING, HOUR) for name in self.running)


@pytest.fixture
def seen(world):
    """A fleet in which one spike is stopped and late, one has lost records, and one waits."""
    stopped, lost, full = (world.spike(name) for name in ("stopped", "lost", "full"))
    for one in (stopped, lost, full):
        driver = world.driver(one)
        driver.stage()
        world.settle(one)
    for _ in range(4):
        driver.stage()
    world.execute("UPDATE batches SET staged_at = staged_at - interval '1 min' WHERE state = 'staged'")
    world.broker.delete_records(lost.topic, 0, 40)
    world.broker.retention[stopped.topic] = timedelta(days=365 * 10)
    with world.ledger.begin() as tx:
        tx.beat(
            "full", 1, driver.token.nonce, phase="reading", problem=None, batch_started_at=None,
            read=driver.ends,
        )  # fmt: skip
        tx.add_recovery(Recovery("stopped", tx.now(), "start", "no driver runs", "MISSING"))
    observer = Observer(world.ledger, world.broker, Cluster("lost", "full"), world.spikes, world.broker)
    observer.watch()
    age_history(world)  # so that rates are known
    world.ledger.succeeded("supervisor")
    return observer.watch()


def age_history(world):
    world.execute("UPDATE lag_history SET at = at - interval '2 minutes', slot = slot + 10000")


@pytest.fixture
def prometheus(world, seen, tmp_path):
    page, driver = Page(world.ledger, keep_seconds=0.2), CollectorRegistry()
    board = VitalsBoard()
    board.progressed(Progress(HOUR, 2.5, {"addBatch": 2.0}, 50, 10.0, 20.0))
    driver.register(DriverCollector(board, world.spikes["stopped"]))

    def whole():
        return page.text() + generate_latest(driver) + PODS.encode()

    with served(whole) as one, served(whole) as other, scraping(tmp_path, one, other) as url:
        yield url


def query(url, expr):
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expr}, timeout=10).json()
    assert answer["status"] == "success", f"{expr}: {answer}"
    return answer["data"]["result"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_configuration_for_a_running_stack_is_what_prometheus_takes(tmp_path):
    """It names the rules, the appender, and the file that a driver announces itself in."""
    announce(tmp_path, "payouts", "127.0.0.1:1")
    text = configuration(tmp_path, "http://127.0.0.1:8000")
    (tmp_path / "prometheus.yaml").write_text(text)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout
    jobs = {job["job_name"]: job for job in YAML(typ="safe").load(text)["scrape_configs"]}
    assert jobs["spike-appender"]["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    (files,) = jobs["spike-driver"]["file_sd_configs"][0]["files"]
    assert targets_file(tmp_path, "payouts").match(files)


def test_the_fleet_is_what_the_alerts_are_for(seen):
    assert {name: r.verdict for name, r in seen.items()} == {
        "stopped": LagVerdict.STOPPED,
        "lost": LagVerdict.LOST,
        "full": LagVerdict.BACKPRESSURED,
    }


def test_rules_match_series_and_alerts_fire_and_dashboards_have_data(prometheus):
    """One Prometheus for all three: starting it is what costs. It scrapes two replicas of the page that tell
    the same: no query answers with both."""
    until(lambda: len(query(prometheus, 'count_over_time(up{job="spike-appender"}[1m]) > 3')) == 2)
    for expr in selectors_of_rules():
        assert query(prometheus, expr), f"a rule's {expr} matches nothing on a live page"
    until(lambda: {"SpikeLost", "SpikeStopped", "SpikeBackpressured"} <= set(alerts(prometheus)))
    assert alerts(prometheus)["SpikeLost"]["labels"]["spike"] == "lost"
    assert alerts(prometheus)["SpikeLost"]["state"] == "firing"
    assert "SpikeDutyMissed" not in alerts(prometheus)
    assert not any("instance" in a["labels"] for a in alerts(prometheus).values())
    assert DASHBOARDS
    for path in DASHBOARDS:
        for expr in queries(path):
            found = query(prometheus, expr)
            assert found, f"{path.name}: {expr} finds nothing"
            assert not any("instance" in series["metric"] for series in found), f"{path.name}: {expr}"


def selectors_of_rules():
    """Each metric with its labels, as the rules name it."""
    found = set()
    for group in YAML(typ="safe").load(RULES)["groups"]:
        for rule in group["rules"]:
            found |= set(re.findall(r"\b((?:spike_\w+|up)(?:\{[^}]*\})?)", rule["expr"]))
    assert len(found) >= 14
    return sorted(found)


def alerts(url):
    answer = httpx.get(f"{url}/api/v1/alerts", timeout=10).json()
    return {a["labels"]["alertname"]: a for a in answer["data"]["alerts"]}


def queries(path):
    """Every query of a dashboard; variables as a person would choose them."""
    board = json.loads(path.read_text())
    found = [a["expr"] for a in board.get("annotations", {}).get("list", ()) if "expr" in a]
    # An annotation is there at the moment of a change only: its series must exist, not its change.
    series = [re.sub(r"\w+\((\S*)\[2m\]\)\) > 0$", r"\1)", expr) for expr in found]
    assert all(a != b for a, b in zip(series, found, strict=True))
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert panels
    chosen = "stopped" if "loss in" not in path.name else "full"
    for expr in (*panels, *series):
        plain = expr.replace("$namespace", "n")
        yield re.sub(r"\$spike", "full" if "spike_batches" in expr else chosen, plain).replace("[5m]", "[1m]")


class served:  # noqa: N801 - reads as a verb
    def __init__(self, text):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = text()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class scraping:  # noqa: N801
    """Prometheus on loopback, with the rules evaluated each second and no waiting before they fire."""

    def __init__(self, folder, *targets):
        self.folder, self.targets = folder, targets
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self):
        rules = re.sub(r"\n\s+for: \w+", "", RULES.read_text())
        (self.folder / "rules.yaml").write_text(rules)
        job = {"job_name": "spike-appender", "static_configs": [{"targets": self.targets}]}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [job],
        }
        (self.folder / "prometheus.yaml").write_text(json.dumps(config))
        with (self.folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._ready)
        return f"http://{self.address}"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def _ready(self):
        assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()
        try:
            return httpx.get(f"http://{self.address}/-/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
