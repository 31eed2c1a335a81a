"""A real Prometheus scrapes a real page: rules fire, and no rule and no dashboard query finds nothing."""

import json
import re
import shutil
import socket
import subprocess
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from builders import HOUR
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML
from waiting import until

from spike_pipelines.appender.metrics import Page
from spike_pipelines.domain.fleet import FLEET, Noted
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
def observer(world):
    """Of a fleet in which one spike is stopped and late, one has lost records, and one waits."""
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
    world.execute("ANALYZE batches, files")
    return observer


@pytest.fixture
def seen(observer):
    return observer.watch()


def restart(world, observer):
    """What the supervisor notes when it starts a driver again, in an incident, the new driver's life, and a
    look at it."""
    with world.ledger.begin() as tx:
        tx.add_recovery(Recovery("stopped", tx.now(), "start", "no driver runs", "MISSING"))
        tx.add_recovery(Recovery(FLEET, tx.now(), "incident", "many at once", Noted.BEGINS))
    world.driver(world.spikes["stopped"], after=1)
    observer.watch()


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


def test_rules_match_series_and_alerts_fire_and_dashboards_have_data(prometheus, world, observer):
    """One Prometheus for all three: starting it is what costs. It scrapes two replicas of the page that tell
    the same: no query answers with both. Every expression of a dashboard is run as it is shipped."""
    until(lambda: len(query(prometheus, 'count_over_time(up{job="spike-appender"}[1m]) > 3')) == 2)
    for expr in selectors_of_rules():
        assert query(prometheus, expr), f"a rule's {expr} matches nothing on a live page"
    until(lambda: {"SpikeLost", "SpikeStopped", "SpikeBackpressured"} <= set(alerts(prometheus)))
    assert alerts(prometheus)["SpikeLost"]["labels"]["spike"] == "lost"
    assert alerts(prometheus)["SpikeLost"]["state"] == "firing"
    assert "SpikeDutyMissed" not in alerts(prometheus)
    assert not any("instance" in a["labels"] for a in alerts(prometheus).values())
    until(lambda: set(healths(prometheus)) == {"ok"})
    assert DASHBOARDS
    for path in DASHBOARDS:
        for expr in panels(path):
            once(query(prometheus, expr), f"{path.name}: {expr}")
    marks = {name: expr for path in DASHBOARDS for name, expr in annotations(path).items()}
    events = {name for name, expr in marks.items() if not query(prometheus, expr)}
    assert events == {"driver's life begins", "restart", "incident"}, (
        "these are there for a while after something happened"
    )
    restart(world, observer)
    for name, expr in marks.items():
        until(lambda expr=expr: query(prometheus, expr))
        once(query(prometheus, expr), f"{name}: {expr}")
    (created,) = query(prometheus, marks["spike created"])
    at = world.ledger.lag_view(timedelta(), timedelta()).created["stopped"]
    assert float(created["value"][1]) == pytest.approx(at.timestamp() * 1000, abs=1)
    (again,) = query(prometheus, marks["restart"])
    assert again["metric"] == {"spike": "stopped", "cause": "MISSING"}


# Figures that other panels tell: the verdict, what waits by its state, the duties.
NOT_DRAWN = {
    "spike_running", "spike_held", "spike_unfinished_batches", "spike_files",
    "spike_observed_timestamp_seconds", "spike_caught_up_seconds",
}  # fmt: skip


def test_every_figure_of_the_page_is_on_a_dashboard(world, seen):
    page = Page(world.ledger, keep_seconds=0).text().decode()
    told = set(re.findall(r"^(spike_\w+)", page, re.MULTILINE))
    drawn = {name for path in DASHBOARDS for name in re.findall(r"\bspike_\w+", path.read_text())}
    assert told - drawn == NOT_DRAWN & told


def once(found, what):
    assert found, f"{what} finds nothing"
    assert not any("instance" in series["metric"] for series in found), what


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


def healths(url):
    """Of every rule, as it is shipped: `ok` once it was evaluated."""
    groups = httpx.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
    return [rule["health"] for group in groups for rule in group["rules"]]


def panels(path):
    """Every query of a dashboard's panels."""
    found = [t["expr"] for p in json.loads(path.read_text())["panels"] for t in p.get("targets", ())]
    assert found
    return [chosen(expr) for expr in found]


def annotations(path):
    marks = json.loads(path.read_text()).get("annotations", {}).get("list", ())
    return {mark["name"]: chosen(mark["expr"]) for mark in marks}


def chosen(expr):
    """With its variables as a person would choose them."""
    spike = "full" if re.search("spike_batches|spike_oldest_batch", expr) else "stopped"
    return expr.replace("$namespace", "n").replace("$spike", spike)


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
        self.process.wait(60)

    def _ready(self):
        assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()
        try:
            return httpx.get(f"http://{self.address}/-/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False
