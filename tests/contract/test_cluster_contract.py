"""What every `Cluster` promises: local processes, and SparkApplications on an API server.

Each bench makes drivers live and end in its own way. What only one of them has is tested in
`test_local_processes.py` and `tests/kubernetes/`.
"""

import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from builders import spike as make_spike

sys.path.append(str(Path(__file__).parents[1] / "kubernetes"))
from clusters import connected, site_in
from fake_api import FakeApi
from sites import Site, fake_connection
from waiting import until

from spike_pipelines.adapters.kubernetes.fields import SUBMISSION_LABEL
from spike_pipelines.adapters.processes import LocalProcesses
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.ports import DriverState
from spike_pipelines.settings import Settings

SPIKE = make_spike("payouts")
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
print('\\n'.join(map(str, range(100))), flush=True)
time.sleep(60)
"""


@dataclass
class LocalBench:
    """Small scripts in the place of Spark."""

    folder: Path
    cluster: LocalProcesses = field(init=False)

    def __post_init__(self):
        token = self.folder / "secrets" / "tokens" / SPIKE.name
        token.parent.mkdir(parents=True)
        token.write_text("the-token\n")
        settings = Settings(state_dir=self.folder, applications_dir=self.folder / "applications")
        self.cluster = LocalProcesses(settings, command=(sys.executable, "-c", SCRIPT), grace_seconds=1)

    def driver(self):
        driver = self.cluster.start(SPIKE).driver
        until(lambda: len(self.cluster.log_tail(driver, 100)) == 100)
        return driver

    def fails(self, driver):
        os.kill(self.seen(driver).pid, signal.SIGUSR1)

    def blind(self, driver):
        path = self.folder / "processes" / "drivers" / SPIKE.name / f"{driver}.json"
        whole = path.read_text()
        path.write_text("{")
        return lambda: path.write_text(whole)

    def other(self):
        return self.driver()

    def end(self):
        for driver in self.cluster.drivers():
            self.cluster.stop(driver.driver)

    def seen(self, driver):
        return next((d for d in self.cluster.drivers() if d.driver == driver), None)


@dataclass
class KubernetesBench:
    """The tests play operator and kubelet, on a small API server of their own and on a real one."""

    site: Site

    @property
    def cluster(self):
        return self.site.cluster

    def driver(self, name=SPIKE.name):
        self.site.deploy(name)
        self.cluster.start(replace(SPIKE, name=name))
        self.site.settle()
        submission = self.site.submit(name)
        self.site.pod(submission, name)
        until(lambda: self.cluster.pods([name])[name])
        if self.site.fake is not None:
            self.site.fake.logs[f"{name}-driver"] = "\n".join(map(str, range(100)))
        return submission

    def fails(self, driver):
        self.site.fails(code=3)

    def blind(self, driver):
        try:
            self.site.status(state={"not": "understood"})
        except InvalidSpec:
            pytest.skip("the operator's own CRD takes no status that cannot be understood")
        return lambda: self.site.status(state="RUNNING")

    def other(self):
        return self.driver("session")

    def seen(self, driver):
        """Stopped is: the pod is gone, and the operator has seen it."""
        pods = [p["metadata"]["labels"][SUBMISSION_LABEL] for p in self.site.api.get(self.site.pods)["items"]]
        for found in self.cluster.drivers():
            if found.driver == driver:
                return found if driver in pods else replace(found, state=DriverState.EXITED)
        return None


@contextlib.contextmanager
def small_server():
    with FakeApi() as fake:
        site = Site(fake_connection(fake), "tests", fake)
        fake.objects |= {site.apps: {}, site.pods: {}}
        yield site
        site.api.close()


@pytest.fixture(scope="session")
def cluster_api():
    with connected() as api:
        yield api


@pytest.fixture(params=["local", "small server", pytest.param("cluster", marks=pytest.mark.kubernetes)])
def bench(request, tmp_path):
    if request.param == "local":
        made = LocalBench(tmp_path)
        yield made
        made.end()
    elif request.param == "cluster":
        with site_in(request.getfixturevalue("cluster_api")) as site:
            yield KubernetesBench(site)
    else:
        with small_server() as site:
            yield KubernetesBench(site)


def test_a_started_driver_is_running_under_an_identity_of_its_own(bench):
    driver = bench.driver()
    found = bench.seen(driver)
    assert (found.spike, found.state, found.exit_code) == (SPIKE.name, DriverState.RUNNING, None)
    assert bench.other() != driver


def test_how_a_driver_ended_is_known(bench):
    driver = bench.driver()
    bench.fails(driver)
    until(lambda: bench.seen(driver).exit_code is not None)
    assert (bench.seen(driver).state, bench.seen(driver).exit_code) == (DriverState.EXITED, 3)


def test_a_stopped_driver_has_ended_when_stop_returns_and_may_be_stopped_again(bench):
    driver = bench.driver()
    bench.cluster.stop(driver)
    assert bench.seen(driver).state is DriverState.EXITED
    bench.cluster.stop(driver)


def test_stopping_one_driver_leaves_the_others(bench):
    driver, other = bench.driver(), bench.other()
    bench.cluster.stop(driver)
    assert bench.seen(other).state is DriverState.RUNNING


def test_stopping_a_driver_nobody_knows_does_nothing(bench):
    bench.cluster.stop("0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4")


def test_the_log_tail_is_bounded_and_empty_without_a_log(bench):
    driver = bench.driver()
    if isinstance(bench, KubernetesBench) and bench.site.fake is None:
        pytest.skip("no kubelet runs the tests' pods: test_pods.py has logs of real ones")
    assert bench.cluster.log_tail(driver, 2) == ("98", "99")
    assert bench.cluster.log_tail("0b9fb1c9-6a1b-4c53-9d43-0a1d52a8a6b4", 2) == ()


def test_one_that_cannot_be_looked_at_is_unknown_with_the_reason_and_hides_no_other(bench):
    driver, other = bench.driver(), bench.other()
    heal = bench.blind(driver)
    assert bench.seen(other).state is DriverState.RUNNING
    (blind,) = [d for d in bench.cluster.drivers() if d.driver != other]
    assert (blind.spike, blind.state) == (SPIKE.name, DriverState.UNKNOWN)
    assert blind.problem
    heal()
    assert bench.seen(driver).state is DriverState.RUNNING


def test_the_newest_driver_is_last(bench):
    first, second = bench.driver(), bench.other()
    assert [d.driver for d in bench.cluster.drivers()] == [first, second]


def test_a_spike_that_is_not_there_to_be_started_is_refused(bench):
    with pytest.raises(InvalidSpec, match="stranger"):
        bench.cluster.start(replace(SPIKE, name="stranger"))
