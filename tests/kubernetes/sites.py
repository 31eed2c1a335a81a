"""A namespace in which tests play the operator and people."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fake_api import FakeApi
from kubernetes import client
from waiting import until

from spike_pipelines.adapters.kubernetes import Api, KubernetesCluster
from spike_pipelines.adapters.kubernetes.fields import APP_NAME_LABEL, SUBMISSION_LABEL
from spike_pipelines.domain.kubernetes_names import GROUP, PLURAL, SPEC_HASH_ANNOTATION, SPIKE_LABEL, VERSION


@dataclass
class Site:
    """The operator's hand, and a person's: what they write, as they write it."""

    api: Api
    namespace: str
    fake: FakeApi | None = None
    attempts: dict = field(default_factory=dict)
    now: Callable = lambda: datetime.now(UTC)

    @property
    def cluster(self) -> KubernetesCluster:
        return KubernetesCluster(self.api, self.namespace)

    @property
    def apps(self):
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}"

    @property
    def pods(self):
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def deploy(self, spike="payouts", spec_hash="v2", **spec):
        """As the chart does."""
        name = spike.replace(".", "-")
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "SparkApplication",
            "metadata": {
                "name": name,
                "labels": {SPIKE_LABEL: spike},
                "annotations": {SPEC_HASH_ANNOTATION: spec_hash},
            },
            "spec": {
                "type": "Python",
                "mode": "cluster",
                "sparkVersion": "4.1.1",  # required by the operator's own CRD, as two more are
                "mainApplicationFile": "local:///opt/spike/driver.py",
                "image": f"spike:{spec_hash}",
                "driver": {"cores": 1, "memory": "512m"},
                "executor": {"instances": 1},
                "restartPolicy": {"type": "Always", "onFailureRetryInterval": 10},
                **spec,
            },
        }
        self.shown(self.api.post(self.apps, body))

    def get(self, name="payouts"):
        return self.api.get(f"{self.apps}/{name}")

    def annotate(self, name="payouts", **notes):
        keys = {f"spike-pipelines.io/{key.replace('_', '-')}": value for key, value in notes.items()}
        self.change(name, {"metadata": {"annotations": keys}})

    def change(self, name, body):
        self.shown(self.api.patch(f"{self.apps}/{name}", body))

    def shown(self, written):
        """Lists come from the server's cache, which is a moment behind: until it has what was written."""
        name, version = written["metadata"]["name"], written["metadata"]["resourceVersion"]
        self._until(lambda: any((a.name, a.resource_version) == (name, version) for a in self._seen()))

    def settle(self):
        """Until the cache has what anybody wrote up to now."""
        for item in () if self.fake is not None else self.api.get(self.apps)["items"]:
            self.shown(item)

    def _seen(self):
        return () if self.fake is not None else self.cluster.applications()

    def _until(self, holds):
        until(lambda: self.fake is not None or holds(), 10, "the server's cache follows")

    def notes(self, name="payouts"):
        return self.get(name)["metadata"].get("annotations") or {}

    def submit(self, name="payouts", state="RUNNING"):
        """A new submission, as the operator makes it; its id."""
        submission = str(uuid.uuid4())
        self.attempts[name] = self.attempts.get(name, 0) + 1
        self.status(
            name,
            state,
            submissionID=submission,
            lastSubmissionAttemptTime=self.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            submissionAttempts=1,
            executionAttempts=self.attempts[name],
            sparkApplicationId=f"spark-{submission[:8]}",
            driverInfo={"podName": f"{name}-driver", "webUIAddress": "10.0.0.1:4040", "webUIPort": 4040},
            executorState={f"{name}-exec-1": "RUNNING"},
        )
        return submission

    def status(self, name="payouts", state="RUNNING", error=None, **more):
        status = {"applicationState": {"state": state, "errorMessage": error}, "driverInfo": {}, **more}
        self.shown(self.api.patch(f"{self.apps}/{name}/status", {"status": status}))

    def fails(self, name="payouts", code=1, reason="Error"):
        error = f"driver container failed with ExitCode: {code}, Reason: {reason}"
        self.status(name, "FAILING", error)

    def pod(self, submission, name="payouts", pod=None, **status):
        """A driver pod that no kubelet has seen; `status` as a kubelet would write it."""
        pod = pod or f"{name}-driver"
        labels = {
            "spark-role": "driver", APP_NAME_LABEL: name, SUBMISSION_LABEL: submission, SPIKE_LABEL: name,
        }  # fmt: skip
        container = {"name": "spark-kubernetes-driver", "image": "none.invalid/none:1"}
        # no node has this scheduler's name: the pod stays as we write it
        spec = {"schedulerName": "nobody", "containers": [container], "terminationGracePeriodSeconds": 0}
        made = self.api.post(self.pods, {"metadata": {"name": pod, "labels": labels}, "spec": spec})
        self.api.patch(f"{self.pods}/{pod}/status", {"status": {"phase": "Running", **status}})
        return made["metadata"]["uid"]

    def pod_is(self, phase, code=None, reason="Error", pod="payouts-driver"):
        """As its kubelet writes it; `code` is what its container ended with."""
        status = {"phase": phase}
        if code is not None:
            ended = {"terminated": {"exitCode": code, "reason": reason}}
            status["containerStatuses"] = [
                {"name": "spark-kubernetes-driver", "image": "i", "imageID": "", "ready": False,
                 "restartCount": 0, "state": ended}
            ]  # fmt: skip
        self.api.patch(f"{self.pods}/{pod}/status", {"status": status})

    def delete(self, name="payouts"):
        self.api.delete(f"{self.apps}/{name}")
        self._until(lambda: all(a.name != name for a in self._seen()))


def fake_connection(fake, **changes):
    settings = client.Configuration(host=fake.url)
    settings.retries = False
    return Api(client.ApiClient(settings), **changes)
