"""`spike backfill`: hours read again from Kafka, in a Dagster run, beside the live stream."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.fork import Wanted, fork
from spike_pipelines.cli.operations import request
from spike_pipelines.cli.read import HOUR_FORMATS
from spike_pipelines.domain.asked_offsets import check_offsets, parse_offsets
from spike_pipelines.domain.backfill import HourPlan, check_hours, whole_hour
from spike_pipelines.domain.closed import hour_ranges
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.lag import human
from spike_pipelines.domain.offsets import OffsetRange, total
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import HOURLY, Swap, SwapKind, SwapState
from spike_pipelines.platform import Platform

if TYPE_CHECKING:
    import dagster as dg

ENOUGH_READ = 0.05  # of the records: before that the time to go says nothing
LOOK_SECONDS = 2.0
LAUNCH_SECONDS = 120.0
MOST_SWAPS = 5_000  # of one spike that are looked at
MOST_RUNS = 20  # one for each stretch of hours
SHOWN = "%Y-%m-%dT%H"
_NOT_BEGUN = frozenset({"NOT_STARTED", "QUEUED"})
DOING = {SwapState.PLANNED: "reading", SwapState.STAGED: "counting and copying"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The plans of hours that were read before; hours of which `below` the spike's begin more may lie."""

    plans: Mapping[datetime, HourPlan]
    older: tuple[datetime, ...] = ()
    below: tuple[OffsetRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the hours that were read before: how many are swapped in, and how many offsets were read again of
    all that will be, first at `since`. `earlier` hours were read below where the spike began. `now` is what
    is done at this moment, and with which hour; empty between two, and while the run waits."""

    hours: int
    of_hours: int
    read: int
    of_read: int
    now: str = ""
    earlier: int = 0
    since: datetime | None = None

    def line(self, at: datetime) -> str:
        text = f"{self.hours} of {self.of_hours} hours, {self.read:,} of {self.of_read:,} records read"
        if self.since and ENOUGH_READ * self.of_read <= self.read < self.of_read:
            left = (at - self.since) * ((self.of_read - self.read) / self.read)
            text += f", {human(left.total_seconds())} to go"
        if self.earlier:
            text += f"; {self.earlier} hours below where the spike began"
        return f"{text}; {self.now}" if self.now else text


def progress(asked: Asked, swaps: tuple[Swap, ...], after: int) -> Progress:
    """`after` is the newest swap there was before."""
    plans = asked.plans
    mine = [
        s for s in swaps if s.number > after and s.scope.since in {*plans, *asked.older} and s.kind in HOURLY
    ]
    again = [s for s in mine if s.kind is SwapKind.BACKFILL and s.scope.since in plans]
    done = {_hour(s) for s in again if s.state is SwapState.SWAPPED}
    read = {hour: total(plan.pieces) for hour, plan in plans.items()}
    at_work = sum(min(s.so_far, read[_hour(s)]) for s in again if s.state is SwapState.PLANNED)
    at_work += sum(read[_hour(s)] for s in again if s.state is SwapState.STAGED)
    return Progress(
        hours=len(done),
        of_hours=len(plans),
        read=sum(read[hour] for hour in done) + at_work,
        of_read=sum(read.values()),
        now=", ".join(_doing(s, read) for s in mine if s.state in DOING),
        earlier=sum(s.kind is SwapKind.EARLIER and s.state is SwapState.SWAPPED for s in mine),
        since=min((s.planned_at for s in again), default=None),
    )


def _doing(swap: Swap, read: Mapping[datetime, int]) -> str:
    text = f"{DOING[swap.state]} {swap.scope.since:{SHOWN}}"
    if swap.kind is SwapKind.EARLIER:
        text += " below where the spike began"
    if swap.state is SwapState.PLANNED and swap.so_far:
        known = read.get(_hour(swap), swap.so_far) if swap.kind is SwapKind.BACKFILL else None
        # A consumer reads ahead of what it was asked for.
        text += (
            f": {min(swap.so_far, known):,} of {known:,} records" if known else f": {swap.so_far:,} records"
        )
    return text


def _hour(swap: Swap) -> datetime:
    assert swap.scope.since is not None  # of an hour
    return swap.scope.since


def backfill(
    name: Annotated[str, typer.Argument(help="Name of the spike.")],
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=list(HOUR_FORMATS), help="UTC hour, as 2026-11-22T21."),
    ] = None,
    to: Annotated[
        datetime | None,
        typer.Option("--to", formats=list(HOUR_FORMATS), help="Up to this UTC hour, it included."),
    ] = None,
    *,
    offsets: Annotated[
        str | None, typer.Option(help="Instead: the hours of topic:partition:start-end,… (end not included).")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; exit code 1 if it failed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, do nothing.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Leave alone what Kafka no longer has.")
    ] = False,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="A new spike and dataset from the same topic; the old ones stay."),
    ] = None,
    staging: Annotated[str | None, typer.Option(help="With --as: its staging place, s3://…")] = None,
    final: Annotated[str | None, typer.Option(help="With --as: its final place, s3://…")] = None,
    why: Annotated[str | None, typer.Option(help="What was changed; it is kept with the swaps.")] = None,
    who: Annotated[str | None, typer.Option(help="Who asks.", show_default="you@this-host")] = None,
) -> None:
    """Read hours of a spike again with its application file as it is now, and swap each in."""
    if accept_loss and not why:
        raise InvalidSpec("--accept-loss leaves records behind: say why with --why …")
    platform = Platform()
    spike = known(platform.spikes, name)
    if as_ is not None:
        _check_alone("--as", {"--to": to, "--offsets": offsets, "--wait": wait})
        wanted = Wanted(as_, _begun(platform, first), staging, final)
        return fork(
            platform, spike, wanted, request(who, why) if accept_loss and why else None, dry_run=dry_run
        )
    if staging or final:
        raise InvalidSpec("--staging and --final are of a new spike: name it with --as")
    hours = asked_hours(platform, spike, first, to, offsets)
    asked = _rehearsed(platform, spike, hours, accept_loss=accept_loss)
    if dry_run or not (asked.plans or asked.older):
        return None
    after = max((s.number for s in platform.ledger.swaps(spike.name, 1)), default=0)
    config = {"who": who or me(), "why": why or "spike backfill", "accept_loss": accept_loss}
    runs: list[str] = []
    try:
        for since, until in hour_ranges(hours):
            runs.append(launch(spike, since, until, config))
    finally:  # those that Dagster took go on, whatever became of the next
        if runs:
            typer.echo(f"Dagster run {', '.join(runs)}")
    if wait:
        _await(platform, spike, asked, after, runs)
    return None


def _check_alone(option: str, others: Mapping[str, object]) -> None:
    if given := [name for name, value in others.items() if value]:
        raise InvalidSpec(
            f"{given[0]} says nothing with {option}: the new spike is a stream, which reads on to the end of "
            "its topic and along with it"
        )


def asked_hours(
    platform: Platform, spike: Spike, first: datetime | None, to: datetime | None, offsets: str | None
) -> tuple[datetime, ...]:
    """From `first` to `to`, or those that the offsets fed. Raises `InvalidSpec` for what cannot be."""
    if (first is None) == (offsets is None):
        raise InvalidSpec(
            "spike backfill: give --from HOUR (and --to HOUR), or --offsets topic:partition:start-end"
        )
    if offsets is None:
        assert first is not None
        last = first if to is None else to
        since, until = _utc(first, "--from"), _utc(last, "--to")
        return check_hours(since, until, spike.dataset.start, platform.ledger.now())
    if to is not None:
        raise InvalidSpec("--to goes with --from; offsets say their own end")
    positions = platform.ledger.all_positions().get(spike.name, {})
    ranges = check_offsets(parse_offsets(offsets), spike.topic, positions)
    hours = platform.ledger.fed_hours(spike.name, ranges)
    stretches = hour_ranges(hours)
    for since, until in stretches:
        check_hours(since, until, spike.dataset.start, platform.ledger.now())
    if len(stretches) > MOST_RUNS:
        raise InvalidSpec(
            f"the offsets went into {len(hours)} hours in {len(stretches)} places, more than {MOST_RUNS}: "
            "choose fewer, or hours with --from and --to"
        )
    shown = ", ".join(f"{since:{SHOWN}} to {until:{SHOWN}}" for since, until in stretches) or "no hour"
    typer.echo(f"{offsets}: batches with these offsets counted records for {shown}")
    return hours


def _rehearsed(platform: Platform, spike: Spike, hours: tuple[datetime, ...], *, accept_loss: bool) -> Asked:
    """Errors come up before anything is begun."""
    found = {hour: platform.backfiller.rehearse(spike, hour, accept_loss=accept_loss) for hour in hours}
    plans = {hour: plan for hour, plan in found.items() if plan is not None}
    older, below = platform.backfiller.older(spike, hours)
    empty = [f"{hour:{SHOWN}}" for hour, plan in found.items() if plan is None and hour not in older]
    typer.echo(
        f"{len(plans)} hours with {sum(p.expected for p in plans.values()):,} records in "
        f"{sum(len(p.replaces) for p in plans.values()):,} files; "
        f"{sum(len(r) for p in plans.values() for r in p.pieces):,} offsets to read again: whole batches, of "
        "which each hour takes its own records"
    )
    epoch = platform.ledger.epochs().get(spike.name)
    if epoch and epoch.state is EpochState.OPEN and epoch.application_version != spike.version:
        typer.echo(_other_version(spike, epoch.application_version))
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        typer.echo(f"empty, nothing was ever read for them: {shown}")
    if older:
        typer.echo(
            f"{len(older)} hours from {older[0]:{SHOWN}} on are older than the ledger: {total(below):,} "
            f"offsets below where {spike.name} began are looked through for their records "
            f"({', '.join(map(str, below[:5]))}{' …' if below[5:] else ''})"
        )
    for plan in plans.values():
        if plan.lost:
            lost = ", ".join(map(str, plan.lost[:5])) + (" …" if len(plan.lost) > 5 else "")
            typer.echo(f"{plan.hour:%Y-%m-%dT%H}: {len(plan.kept)} files stay, Kafka no longer has {lost}")
    return Asked(plans, older, below)


def _other_version(spike: Spike, runs: str) -> str:
    return (
        f"the driver runs with version {runs}, the file is at {spike.version}: what it commits now stays "
        f"as that version makes it. Begin with the driver (`spike stack kill {spike.name}`, on Kubernetes "
        f"`spike deploy {spike.name}`), or read such hours again afterwards: "
        f"`spike affected {spike.name} --version {runs}`"
    )


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


def _await(platform: Platform, spike: Spike, asked: Asked, after: int, ids: Sequence[str]) -> None:
    """Tell what changes until the runs have ended. Exit code 1 unless every hour is done."""
    import dagster as dg  # noqa: PLC0415

    said = None
    with dg.DagsterInstance.get() as instance:
        while True:
            runs = [_run(instance, run_id) for run_id in ids]
            now = progress(asked, platform.ledger.swaps(spike.name, MOST_SWAPS), after), _waiting(runs)
            if now != said:
                typer.echo(now[0].line(platform.ledger.now()) + now[1])
            said = now
            if all(run.is_finished for run in runs):
                break
            Event().wait(LOOK_SECONDS)
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        typer.echo(f"the run ended: {failed[0].status.value if failed else 'SUCCESS'}")
        for run in failed:
            typer.echo(_reason(instance, run.run_id), err=True)
        if failed:
            raise typer.Exit(1)


def _run(instance: "dg.DagsterInstance", run_id: str) -> "dg.DagsterRun":
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise Transient(f"Dagster has no run {run_id}")
    return run


def _waiting(runs: Iterable["dg.DagsterRun"]) -> str:
    """Where no run is at work, and one is to come: why nothing happens, as far as one can tell from here."""
    left = [run for run in runs if not run.is_finished]
    if not left or any(run.status.value not in _NOT_BEGUN for run in left):
        return ""
    return (
        f"; run {left[0].run_id[:8]} is {left[0].status.value}: Dagster's daemon starts it, when no other "
        "backfill is at work"
    )


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


def _begun(platform: Platform, first: datetime | None) -> datetime | None:
    """Where a new spike begins; None for all that Kafka has. Raises `InvalidSpec` for an hour to come: it
    would begin with what is written now."""
    since = None if first is None else _utc(first, "--from")
    if since is not None and since > (now := platform.ledger.now()):
        raise InvalidSpec(f"{since:{SHOWN}} has not begun: it is {now:%Y-%m-%dT%H:%M} UTC")
    return since


def _utc(hour: datetime, said: str) -> datetime:
    return whole_hour(hour.replace(tzinfo=UTC), said)


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)
