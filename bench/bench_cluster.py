"""What one look of the supervisor at a fleet on Kubernetes costs: seconds and memory, by number of spikes.

    KUBECONFIG=… python bench/bench_cluster.py 1000 5000

Makes the SparkApplications in a namespace of its own, with specs and statuses of the size the chart and the
operator write (the CRD of tests/kubernetes is put there if there is none), and removes them. The ledger is
in memory: what is measured is the list, what it becomes, and the decisions.
"""

import argparse
import contextlib
import resource
import statistics
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/kubernetes")]
import os  # noqa: E402

import yaml  # noqa: E402
from builders import World  # noqa: E402
from sites import Site  # noqa: E402

from spike_pipelines.adapters.kubernetes import Api  # noqa: E402
from spike_pipelines.adapters.memory_ledger import MemoryLedger  # noqa: E402
from spike_pipelines.domain.errors import AlreadyExists, SpikeError  # noqa: E402
from spike_pipelines.services.supervise_applications import ApplicationSupervisor  # noqa: E402

LOOKS = 20
AT_ONCE = 4


class Answers:
    def since(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[1000])
    sizes = sorted(parser.parse_args().sizes)
    api = Api.connect(os.environ.get("KUBECONFIG"))
    site = prepared(api)
    world = World(MemoryLedger())
    print(
        "| SparkApplications | bytes each | look p50 s | p95 s | list p50 s | CPU s "
        "| peak RSS MiB | of it for the looks |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    try:
        made = 0
        for size in sizes:
            fill(site, world, range(made, size))
            made = size
            measure(site, world, size)
    finally:
        api.delete(f"/api/v1/namespaces/{site.namespace}")


def prepared(api: Api) -> Site:
    definition = yaml.safe_load((ROOT / "tests/kubernetes/crd.yaml").read_text())
    with contextlib.suppress(AlreadyExists):
        api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    namespace = f"spike-bench-{uuid.uuid4().hex[:8]}"
    api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    return Site(api, namespace)


def fill(site: Site, world: World, numbers: range) -> None:
    site.shown = lambda _: None  # nobody reads between the writes
    for number in numbers:
        world.spike(f"spike-{number:05}", version="v2", records=0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda number: one(site, f"spike-{number:05}"), numbers):
            pass


def one(site: Site, name: str) -> None:
    conf = {f"spark.hadoop.fs.s3a.option.{i}": "some value of a usual length" for i in range(30)}
    env = [{"name": f"SPIKE_SETTING_{i}", "value": "http://appender.spike-platform:8080"} for i in range(10)]
    site.deploy(name, sparkConf=conf, driver={"cores": 1, "memory": "1g", "env": env, "labels": {"a": "b"}})
    site.submit(name)


def measure(site: Site, world: World, size: int) -> None:
    supervisor = ApplicationSupervisor(world.ledger, site.cluster, Answers(), world.broker, world.spikes)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    while len(site.cluster.applications()) < size:  # the server's cache follows
        time.sleep(0.1)
    looks, lists, cpu = [], [], time.process_time()
    for _ in range(LOOKS):
        began = time.perf_counter()
        supervisor.look()
        looks.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / LOOKS
    for _ in range(LOOKS):
        began = time.perf_counter()
        site.cluster.applications()
        lists.append(time.perf_counter() - began)
    each = len(site.api.call("GET", f"{site.apps}/spike-00000"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    p95 = statistics.quantiles(looks, n=20)[-1]
    print(
        f"| {size} | {each} | {statistics.median(looks):.2f} | {p95:.2f} | {statistics.median(lists):.2f} "
        f"| {cpu:.2f} | {peak:.0f} | {peak - base:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except SpikeError as error:
        raise SystemExit(f"bench_cluster: {error}") from error
