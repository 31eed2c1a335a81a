"""Runs of the Dagster that a command finds: asked for, looked at, and why one failed."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.spike import Spike

if TYPE_CHECKING:
    import dagster as dg

LAUNCH_SECONDS = 120.0
_NOT_BEGUN = frozenset({"NOT_STARTED", "QUEUED"})


def launch(spike: Spike, since: datetime, until: datetime, config: Mapping[str, object]) -> str:
    """Ask the Dagster of `spike up`, or that DAGSTER_HOME names, for one run of these hours. Its id.

    Errors: `InvalidSpec` without an instance, `Transient` if it did not take the run."""
    from dagster._core.storage.tags import (  # noqa: PLC0415
        ASSET_PARTITION_RANGE_END_TAG,
        ASSET_PARTITION_RANGE_START_TAG,
    )

    from spike_pipelines.orchestration.assets import partition_key  # noqa: PLC0415
    from spike_pipelines.orchestration.backfill import RUN_TAGS, job_name, op_name  # noqa: PLC0415

    run_id = str(uuid.uuid4())
    tags = RUN_TAGS | {
        ASSET_PARTITION_RANGE_START_TAG: partition_key(since),
        ASSET_PARTITION_RANGE_END_TAG: partition_key(until),
    }
    command = (
        sys.executable, "-m", "dagster", "job", "launch", "-w", str(_workspace()), "-j", job_name(spike),
        "--run-id", run_id, "--tags", json.dumps(tags),
        "--config-json", json.dumps({"ops": {op_name(spike): {"config": dict(config)}}}),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=LAUNCH_SECONDS, check=False)
    if done.returncode != 0:
        tail = " | ".join(line.strip() for line in done.stderr.strip().splitlines()[-3:])
        raise Transient(f"Dagster did not take the run: {tail}")
    return run_id


def _workspace() -> Path:
    """The embedded stack's, which uses its code server; else the one of this folder."""
    home = os.environ.get("DAGSTER_HOME")
    if home is None:
        raise InvalidSpec('DAGSTER_HOME is not set: run `eval "$(spike env)"` beside a running `spike up`')
    found = next((p for p in (Path(home) / "workspace.yaml", Path("workspace.yaml")) if p.exists()), None)
    if found is None:
        raise InvalidSpec(f"there is no workspace.yaml, neither in {home} nor here")
    return found


def run_of(instance: "dg.DagsterInstance", run_id: str) -> "dg.DagsterRun":
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise Transient(f"Dagster has no run {run_id}")
    return run


def waiting(runs: Iterable["dg.DagsterRun"]) -> str:
    """Where no run is at work, and one is to come: why nothing happens, as far as one can tell from here."""
    left = [run for run in runs if not run.is_finished]
    if not left or any(run.status.value not in _NOT_BEGUN for run in left):
        return ""
    return (
        f"; run {left[0].run_id[:8]} is {left[0].status.value}: Dagster's daemon starts it, when no other "
        "backfill is at work"
    )


def reason(instance: "dg.DagsterInstance", run_id: str) -> str:
    """Why a run failed, in its own words."""
    import dagster as dg  # noqa: PLC0415

    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = record.dagster_event
        data = event.step_failure_data if event else None
        if data and data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
        if data and data.error:
            cause = data.error.cause or data.error
            return cause.message.strip()
    return f"run {run_id} says no more; see its page in Dagster"
