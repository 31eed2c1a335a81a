"""Deployments as Helm releases (port `Deployer`), one for each spike, by the helm command.

What dies half way leaves a release `pending-…`, on which Helm refuses every further deployment: one that has
been so for longer than any deployment takes is ended here, before the next is begun.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from spike_pipelines.domain.errors import Conflict, InvalidSpec, Transient
from spike_pipelines.domain.kubernetes_names import SPEC_DIGEST_ANNOTATION, SPEC_HASH_ANNOTATION
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Deployed

SECONDS = 120.0  # for one command; none of ours waits for pods
ABANDONED = timedelta(seconds=2 * SECONDS)
KEPT = 10  # revisions of each release
_SPEC = [
    re.compile(rf'^    {re.escape(note)}: "?([0-9a-f]+)"?$', re.MULTILINE)
    for note in (SPEC_DIGEST_ANNOTATION, SPEC_HASH_ANNOTATION)
]
_GONE = "release: not found"


class _Revision(BaseModel):
    """One line of `helm history`."""

    model_config = ConfigDict(extra="ignore")
    revision: int
    updated: datetime
    status: str


@dataclass(frozen=True, slots=True)
class HelmReleases:
    """`chart` is the folder of charts/spike, `values` what is the same for all spikes."""

    namespace: str
    chart: Path
    values: Path
    helm: str = "helm"

    def deploy(self, spike: Spike, application: Path) -> Deployed:
        """Install or upgrade. Killed before Helm is done: the same again repeats or ends it."""
        for path, variable in ((self.chart, "SPIKE_CHART"), (self.values, "SPIKE_CHART_VALUES")):
            if not path.exists():
                raise InvalidSpec(f"{path} is not there: start in the repository, or set {variable}")
        self._end_abandoned(spike.resource_name)
        before = self._manifest(spike.resource_name)
        files = [x for path in (self.values, application) for x in ("--values", str(path))]
        done = self._json(
            "upgrade", "--install", spike.resource_name, str(self.chart), *files, "--output", "json",
            "--history-max", str(KEPT),
        )  # fmt: skip
        manifest = done["manifest"]
        spec, old = _spec(manifest), _spec(before or "")  # nothing else starts a driver anew
        return Deployed(int(done["version"]), spec is None or spec != old, spec or spike.version)

    def good_revision(self, spike: Spike, bad: int, stable: str | None) -> int | None:
        """The newest before `bad` with other resources, and of the spec `stable` where one is known;
        none where somebody deployed after `bad`: theirs is not ours to take back."""
        history = self._history(spike.resource_name)
        if not history or history[-1].revision != bad:
            return None
        failed = self._manifest(spike.resource_name, bad)
        for revision in reversed(history):
            if revision.revision >= bad or revision.status not in ("superseded", "deployed"):
                continue
            manifest = self._manifest(spike.resource_name, revision.revision)
            if manifest is not None and manifest != failed and stable in (None, _spec(manifest)):
                return revision.revision
        return None

    def roll_back(self, spike: Spike, revision: int) -> None:
        """Twice is as once: the same resources again."""
        self._run("rollback", spike.resource_name, str(revision), "--history-max", str(KEPT))

    def uninstall(self, name: str) -> bool:
        """Waits until the resources are gone."""
        return self._ask("uninstall", name, "--wait", "--timeout", f"{SECONDS / 2:.0f}s") is not None

    def application(self, spike: Spike, revision: int) -> str:
        """What the application file said then, as YAML; comments are gone."""
        text = self._json(
            "get", "values", spike.resource_name, "--revision", str(revision), "--output", "json"
        )
        said = {key: value for key, value in text.items() if key != "platform"}
        return json.dumps(said, indent=2, ensure_ascii=False) + "\n"  # JSON is YAML

    def _end_abandoned(self, name: str) -> None:
        history = self._history(name)
        if not history or not history[-1].status.startswith("pending-"):
            return
        last = history[-1]
        if datetime.now(UTC) - last.updated < ABANDONED:
            raise Conflict(f"{name} is being deployed by somebody else since {last.updated:%H:%M:%S %Z}")
        standing = [r.revision for r in history if r.status == "deployed"]
        if standing:
            self._run("rollback", name, str(standing[-1]), "--history-max", str(KEPT))
        else:
            self._run("uninstall", name)

    def _history(self, name: str) -> list[_Revision]:
        """Oldest first; empty if there is no such release."""
        text = self._ask("history", name, "--output", "json", "--max", str(KEPT))
        if text is None:
            return []
        try:
            return [_Revision.model_validate(line) for line in json.loads(text)]
        except (ValueError, ValidationError) as error:
            raise Transient(f"helm history {name} cannot be read: {error}") from error

    def _manifest(self, name: str, revision: int | None = None) -> str | None:
        which = () if revision is None else ("--revision", str(revision))
        return self._ask("get", "manifest", name, *which)

    def _ask(self, *arguments: str) -> str | None:
        """None if there is no such release."""
        done = self._call(*arguments)
        if done.returncode != 0 and _GONE in done.stderr:
            return None
        return _checked(done, arguments)

    def _run(self, *arguments: str) -> str:
        return _checked(self._call(*arguments), arguments)

    def _json(self, *arguments: str) -> Mapping[str, Any]:
        text = self._run(*arguments)
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Transient(f"helm {arguments[0]} answered no JSON: {text[:200]!r}") from error
        if not isinstance(found, dict):
            raise Transient(f"helm {arguments[0]} answered no JSON object: {text[:200]!r}")
        return found

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        binary = shutil.which(self.helm)
        if binary is None:
            raise InvalidSpec(
                f"{self.helm} is not installed: see https://helm.sh/docs/intro/install, "
                "or go install helm.sh/helm/v3/cmd/helm@v3.19.0"
            )
        command = [binary, *arguments, "--namespace", self.namespace]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise Transient(f"helm {arguments[0]} did not end within {SECONDS:.0f} s") from error


def _checked(done: subprocess.CompletedProcess[str], arguments: tuple[str, ...]) -> str:
    if done.returncode == 0:
        return done.stdout
    told = done.stderr.strip()[-2000:]
    message = f"helm {' '.join(arguments[:2])} failed: {told}"
    if "another operation" in told and "in progress" in told:
        raise Conflict(message)
    if re.search(r"values don't meet|execution error|YAML parse error|is invalid|error calling fail", told):
        raise InvalidSpec(message)
    raise Transient(message)


def _spec(manifest: str) -> str | None:
    """What the SparkApplication among the resources is called as a deployment."""
    found = next(filter(None, (wanted.search(manifest) for wanted in _SPEC)), None)
    return found[1] if found else None
