"""Writes down what a cluster's operator makes of its applications, for `recorded/`:

python tests/kubernetes/record.py FILE.jsonl, with KUBECONFIG, beside whatever is tried there; Ctrl-C ends it.

One line for each state that is seen of a SparkApplication or of a driver's pod, as the API server gives it,
but for what supervision does not read. `story` is the application's name.
"""

import json
import sys
import threading
from pathlib import Path

from kubernetes import client, config, watch

from spike_pipelines.adapters.kubernetes.fields import APP_NAME_LABEL, SUBMISSION_LABEL
from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, SPIKE_LABEL, VERSION

METADATA = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
LABELS = (SPIKE_LABEL, APP_NAME_LABEL, SUBMISSION_LABEL, "spark-role")
TELLING = ("reason", "message", "exitCode")
CONDITIONS = ("PodScheduled", "DisruptionTarget")


def line(kind, item):
    meta = item["metadata"]
    labels = _some(meta.get("labels", {}), LABELS)
    return {
        "story": labels.get(APP_NAME_LABEL, meta["name"]),
        "kind": kind,
        "metadata": _some(meta, METADATA) | {"labels": labels},
        "spec": _some(item["spec"], ("suspend",)),
        "status": _of_pod(item["status"]) if kind == "Pod" else _of_application(item.get("status", {})),
    }


def _of_application(status):
    state = dict(status.get("applicationState", {}))
    if "errorMessage" in state:  # without the frames of its stack
        lines = state["errorMessage"].splitlines()
        state["errorMessage"] = "\n".join(text for text in lines if not text.startswith("\t"))
    driver = {"driverInfo": _some(status["driverInfo"], ("podName",))} if "driverInfo" in status else {}
    rest = {key: value for key, value in status.items() if key != "executorState"}
    return rest | driver | ({"applicationState": state} if state else {})


def _of_pod(status):
    containers = [
        {"name": c["name"], "state": {k: _some(v, TELLING) for k, v in c["state"].items()}}
        for c in status.get("containerStatuses", [])
    ]
    conditions = [
        _some(c, ("type", "status", "reason", "message"))
        for c in status.get("conditions", [])
        if c["type"] in CONDITIONS
    ]
    found = _some(status, ("phase", "reason", "message"))
    return found | {"conditions": conditions, "containerStatuses": containers}


def _some(of, keys):
    return {key: of[key] for key in keys if key in of}


def record(kind, lists, write, **wanted):
    last = {}
    for event in watch.Watch().stream(*lists, **wanted):
        if event["type"] == "ERROR":
            sys.exit(f"the watch ended: {event['raw_object']}")
        item = event["raw_object"]
        told = line(kind, item)
        seen = (told["spec"], told["status"])
        if last.get(item["metadata"]["uid"]) != seen:
            last[item["metadata"]["uid"]] = seen
            write(json.dumps(told, sort_keys=True) + "\n")


def main(path):
    config.load_kube_config()
    lock = threading.Lock()
    with path.open("a", buffering=1) as file:

        def write(text):
            with lock:
                file.write(text)

        pods = [client.CoreV1Api().list_pod_for_all_namespaces]
        drivers = {"label_selector": "spark-role=driver"}
        threading.Thread(target=record, args=("Pod", pods, write), kwargs=drivers, daemon=True).start()
        applications = [client.CustomObjectsApi().list_cluster_custom_object, GROUP, VERSION, PLURAL]
        record("SparkApplication", applications, write)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
