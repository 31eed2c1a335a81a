"""A submission as the Spark operator makes it: the resource's fields as arguments of spark-submit."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyspark
from reconciler import SubmissionFailed

from spike_pipelines.adapters.kubernetes.fields import APP_NAME_LABEL, SUBMISSION_LABEL
from spike_pipelines.domain.kubernetes_names import GROUP, VERSION
from spike_pipelines.stack.java import find_java

SECONDS = 120.0
CONTAINERS = {"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"}


@dataclass(frozen=True)
class SparkSubmit:
    """`master` is the API server's URL; who asks there is KUBECONFIG's. `folder` is for pod templates."""

    master: str
    namespace: str
    folder: Path

    def __call__(self, app: dict, submission: str) -> None:
        home = Path(pyspark.__file__).parent
        environment = dict(os.environ) | {"SPARK_HOME": str(home), "JAVA_HOME": str(find_java())}
        command = [str(home / "bin" / "spark-submit"), *self.arguments(app, submission)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
        if done.returncode != 0:
            raise SubmissionFailed(done.stderr[-2000:])

    def arguments(self, app: dict, submission: str) -> list[str]:
        spec, name = app["spec"], app["metadata"]["name"]
        settings = dict(_settings(app, submission)) | {"spark.kubernetes.namespace": self.namespace}
        for role, container in CONTAINERS.items():
            settings[f"spark.kubernetes.{role}.podTemplateFile"] = str(self._template(app, role, submission))
            settings[f"spark.kubernetes.{role}.podTemplateContainerName"] = container
        conf = [x for key, value in settings.items() for x in ("--conf", f"{key}={value}")]
        where = ["--master", f"k8s://{self.master}", "--deploy-mode", spec["mode"], "--name", name]
        return [*where, *conf, spec["mainApplicationFile"], *spec.get("arguments", [])]

    def _template(self, app: dict, role: str, submission: str) -> Path:
        """The driver's pod goes with its resource; the executors' go with the driver's."""
        meta = app["metadata"]
        owner = {
            "apiVersion": f"{GROUP}/{VERSION}", "kind": "SparkApplication", "name": meta["name"],
            "uid": meta["uid"], "controller": True,
        }  # fmt: skip
        own = {"metadata": {"ownerReferences": [owner]}} if role == "driver" else {}
        path = self.folder / f"{submission}-{role}.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod"} | app["spec"][role]["template"] | own))
        return path


def _settings(app: dict, submission: str) -> Iterator[tuple[str, object]]:
    spec, meta = app["spec"], app["metadata"]
    yield from spec.get("sparkConf", {}).items()
    yield from ((f"spark.hadoop.{key}", value) for key, value in spec.get("hadoopConf", {}).items())
    yield "spark.kubernetes.submission.waitAppCompletion", "false"
    yield "spark.kubernetes.container.image", spec["image"]
    yield "spark.kubernetes.container.image.pullPolicy", spec["imagePullPolicy"]
    yield "spark.kubernetes.driver.pod.name", f"{meta['name']}-driver"
    yield "spark.executor.instances", spec["executor"]["instances"]
    labels = {APP_NAME_LABEL: meta["name"], SUBMISSION_LABEL: submission} | meta.get("labels", {})
    for role in CONTAINERS:
        yield from _of_role(role, spec[role], labels)


def _of_role(role: str, part: Mapping, labels: Mapping) -> Iterator[tuple[str, object]]:
    names = {
        "cores": f"spark.{role}.cores",
        "memory": f"spark.{role}.memory",
        "memoryOverhead": f"spark.{role}.memoryOverhead",
        "javaOptions": f"spark.{role}.extraJavaOptions",
        "coreRequest": f"spark.kubernetes.{role}.request.cores",
        "coreLimit": f"spark.kubernetes.{role}.limit.cores",
        "serviceAccount": f"spark.kubernetes.authenticate.{role}.serviceAccountName",
    }
    yield from ((setting, part[name]) for name, setting in names.items() if name in part)
    for kind, found in (
        ("label", labels | part.get("labels", {})),
        ("annotation", part.get("annotations", {})),
    ):
        yield from ((f"spark.kubernetes.{role}.{kind}.{key}", value) for key, value in found.items())
