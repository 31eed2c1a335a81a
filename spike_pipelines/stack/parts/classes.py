"""What makes the drivers' class archive: once for an installation, beside everything else, then it ends."""

import sys
from collections.abc import Mapping
from pathlib import Path

from spike_pipelines.stack.part import Part


def class_archive(env: Mapping[str, str], cwd: Path) -> Part:
    return Part(
        name="classes",
        command=(sys.executable, "-m", "spike_pipelines.spark.class_archive"),
        cwd=cwd,
        env=env,
        needs=("dagster-webserver",),  # nothing is slower to come up for it
        restarts=False,
    )
