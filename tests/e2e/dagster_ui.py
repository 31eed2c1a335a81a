"""Dagster as a person has it in the UI: what a check said last, how runs ended, sensors."""

from dataclasses import dataclass

import httpx

SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "spike_pipelines"}
HISTORY = """
query($key: AssetKeyInput!, $check: String!, $limit: Int!) {
  assetCheckExecutions(assetKey: $key, checkName: $check, limit: $limit) {
    evaluation { success severity description timestamp }
  }
}"""
RUNS = """
query($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 100) { ... on Runs { results { runId status } } }
}"""
SENSOR = """
query($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    __typename
    ... on Sensor { sensorState { id status } }
  }
}"""
STOP = """
mutation($id: String!) {
  stopSensor(id: $id) {
    __typename
    ... on StopSensorMutationResult { instigationState { status } }
  }
}"""
START = """
mutation($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on Sensor { sensorState { status } } }
}"""


@dataclass(frozen=True)
class Said:
    """What a check said; `at` in seconds since the epoch."""

    passed: bool
    severity: str
    sentence: str
    at: float

    @property
    def red(self) -> bool:
        return not self.passed and self.severity == "ERROR"


@dataclass(frozen=True)
class Dagster:
    url: str

    def history(self, asset: str, check: str, limit: int = 25) -> list[Said]:
        """Of an asset (`spike/…`), newest first."""
        variables = {"key": {"path": asset.split("/")}, "check": check, "limit": limit}
        found = [e["evaluation"] for e in self._ask(HISTORY, variables)["assetCheckExecutions"]]
        return [Said(e["success"], e["severity"], e["description"], e["timestamp"]) for e in found if e]

    def runs(self, job: str) -> list[str]:
        """The statuses of its newest runs, newest first."""
        found = self._ask(RUNS, {"filter": {"pipelineName": job}})["runsOrError"]["results"]
        return [run["status"] for run in found]

    def stop(self, sensor: str) -> None:
        state = self._ask(SENSOR, {"selector": _selector(sensor)})["sensorOrError"]["sensorState"]
        done = self._ask(STOP, {"id": state["id"]})["stopSensor"]
        assert done["instigationState"]["status"] == "STOPPED", done

    def start(self, sensor: str) -> None:
        done = self._ask(START, {"selector": _selector(sensor)})["startSensor"]
        assert done["sensorState"]["status"] == "RUNNING", done

    def _ask(self, document: str, variables: dict) -> dict:
        body = {"query": document, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=body, timeout=30).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


def _selector(sensor: str) -> dict:
    return SELECTOR | {"sensorName": sensor}
