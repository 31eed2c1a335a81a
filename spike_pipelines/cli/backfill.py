"""`spike backfill`: hours read again from Kafka, in a Dagster run, beside the live stream."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.read import HOUR_FORMATS
from spike_pipelines.domain.backfill import HOUR, HourPlan, check_hours
from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import Swap, SwapKind, SwapState
from spike_pipelines.platform import Platform
from spike_pipelines.services.backfill import told_below

if TYPE_CHECKING:
    import dagster as dg

LOOK_SECONDS = 2.0
LAUNCH_SECONDS = 120.0
MOST_SWAPS = 5_000  # of one spike that are looked at


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the hours that have records: how many are swapped in, and how many records those have of all."""

    hours: int
    of_hours: int
    records: int
    of_records: int

    def line(self, elapsed: timedelta) -> str:
        text = f"{self.hours} of {self.of_hours} hours, {self.records:,} of {self.of_records:,} records"
        if not self.records or self.records >= self.of_records:
            return text
        left = elapsed * ((self.of_records - self.records) / self.records)
        return f"{text}, {left.total_seconds():.0f} s to go"


def progress(plans: Mapping[datetime, HourPlan], swaps: tuple[Swap, ...], after: int) -> Progress:
    """`after` is the newest swap there was before."""
    mine = {
        s.scope.since
        for s in swaps
        if s.number > after and s.kind is SwapKind.BACKFILL and s.state is SwapState.SWAPPED
    }
    done = [hour for hour in plans if hour in mine]
    records = sum(plans[hour].expected for hour in done)
    return Progress(len(done), len(plans), records, sum(p.expected for p in plans.values()))


def backfill(
    name: Annotated[str, typer.Argument(help="Name of the spike.")],
    first: Annotated[
        datetime, typer.Option("--from", formats=list(HOUR_FORMATS), help="UTC hour, as 2026-11-22T21.")
    ],
    to: Annotated[
        datetime | None,
        typer.Option("--to", formats=list(HOUR_FORMATS), help="Up to this UTC hour, it included."),
    ] = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; exit code 1 if it failed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, do nothing.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Leave alone what Kafka no longer has.")
    ] = False,
    why: Annotated[str | None, typer.Option(help="What was changed; it is kept with the swaps.")] = None,
    who: Annotated[str | None, typer.Option(help="Who asks.", show_default="you@this-host")] = None,
) -> None:
    """Read hours of a spike again with its application file as it is now, and swap each in."""
    if accept_loss and not why:
        raise InvalidSpec("--accept-loss leaves records behind: say why with --why …")
    platform = Platform()
    spike = known(platform.spikes, name)
    last = first if to is None else to
    hours = check_hours(_utc(first), _utc(last), spike.dataset.start, platform.ledger.now())
    plans = _rehearsed(platform, spike, hours, accept_loss=accept_loss)
    if dry_run or not plans:
        return
    after = max((s.number for s in platform.ledger.swaps(spike.name, 1)), default=0)
    config = {"who": who or me(), "why": why or "spike backfill", "accept_loss": accept_loss}
    run_id = launch(spike, hours, config)
    typer.echo(f"Dagster run {run_id}")
    if wait:
        _await(platform, spike, plans, after, run_id)


def _rehearsed(
    platform: Platform, spike: Spike, hours: tuple[datetime, ...], *, accept_loss: bool
) -> Mapping[datetime, HourPlan]:
    """The plans of the hours that have records; errors come up before anything is begun."""
    found = {hour: platform.backfiller.rehearse(spike, hour, accept_loss=accept_loss) for hour in hours}
    plans = {hour: plan for hour, plan in found.items() if plan is not None}
    empty = [f"{hour:%Y-%m-%dT%H}" for hour, plan in found.items() if plan is None]
    typer.echo(
        f"{len(plans)} hours with {sum(p.expected for p in plans.values()):,} records in "
        f"{sum(len(p.replaces) for p in plans.values()):,} files; "
        f"{sum(len(r) for p in plans.values() for r in p.pieces):,} offsets to read again"
    )
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        none = [hour for hour, plan in found.items() if plan is None]
        below = platform.backfiller.never_read(spike, none[0], none[-1] + HOUR)
        typer.echo(f"empty, nothing was ever read for them: {shown}{told_below(below)}")
    for plan in plans.values():
        if plan.lost:
            lost = ", ".join(map(str, plan.lost[:5])) + (" …" if len(plan.lost) > 5 else "")
            typer.echo(f"{plan.hour:%Y-%m-%dT%H}: {len(plan.kept)} files stay, Kafka no longer has {lost}")
    return plans


def launch(spike: Spike, hours: tuple[datetime, ...], config: Mapping[str, object]) -> str:
    """Ask the Dagster of `spike up`, or that DAGSTER_HOME names, for one run of all hours. Its id.

    Errors: `InvalidSpec` without an instance, `Transient` if it did not take the run."""
    from dagster._core.storage.tags import (  # noqa: PLC0415
        ASSET_PARTITION_RANGE_END_TAG,
        ASSET_PARTITION_RANGE_START_TAG,
    )

    from spike_pipelines.orchestration.assets import partition_key  # noqa: PLC0415
    from spike_pipelines.orchestration.backfill import RUN_TAGS, job_name, op_name  # noqa: PLC0415

    run_id = str(uuid.uuid4())
    tags = RUN_TAGS | {
        ASSET_PARTITION_RANGE_START_TAG: partition_key(hours[0]),
        ASSET_PARTITION_RANGE_END_TAG: partition_key(hours[-1]),
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


def _await(
    platform: Platform, spike: Spike, plans: Mapping[datetime, HourPlan], after: int, run_id: str
) -> None:
    """Tell what changes until the run has ended. Exit code 1 unless every hour is done."""
    import dagster as dg  # noqa: PLC0415

    begun, said = monotonic(), None
    with dg.DagsterInstance.get() as instance:
        while True:
            ended = _ended(instance, run_id)
            now = progress(plans, platform.ledger.swaps(spike.name, MOST_SWAPS), after)
            if now != said:
                typer.echo(now.line(timedelta(seconds=monotonic() - begun)))
            said = now
            if ended:
                break
            Event().wait(LOOK_SECONDS)
        typer.echo(f"the run ended: {ended}")
        if ended != "SUCCESS":
            typer.echo(_reason(instance, run_id), err=True)
            raise typer.Exit(1)


def _ended(instance: "dg.DagsterInstance", run_id: str) -> str | None:
    """The run's last status, once it has one."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise Transient(f"Dagster has no run {run_id}")
    return run.status.value if run.is_finished else None


def _reason(instance: "dg.DagsterInstance", run_id: str) -> str:
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


def _utc(hour: datetime) -> datetime:
    return hour_of(hour.replace(tzinfo=UTC))


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)
