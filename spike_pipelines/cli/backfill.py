"""`spike backfill`: hours read again from Kafka, in a Dagster run, beside the live stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Annotated

import typer

from spike_pipelines.cli.arguments import known, me
from spike_pipelines.cli.dagster_runs import launch, reason, run_of, waiting
from spike_pipelines.cli.fork import Wanted, fork
from spike_pipelines.cli.operations import request
from spike_pipelines.cli.read import HOUR_FORMATS
from spike_pipelines.domain.asked_offsets import check_offsets, parse_offsets
from spike_pipelines.domain.backfill import HourPlan, check_hours, whole_hour
from spike_pipelines.domain.batch import hour_text
from spike_pipelines.domain.closed import hour_ranges
from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import InvalidSpec, Refused
from spike_pipelines.domain.lag import human
from spike_pipelines.domain.offsets import OffsetRange, total
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.swap import HOURLY, Swap, SwapKind, SwapState
from spike_pipelines.domain.words import count_of, some
from spike_pipelines.platform import Platform
from spike_pipelines.services.backfill import Rehearsed

ENOUGH_READ = 0.05  # of the records: before that the time to go says nothing
LOOK_SECONDS = 2.0
MOST_SWAPS = 5_000  # of one spike that are looked at
MOST_RUNS = 20  # one for each stretch of hours
SOME = 5  # of each kind that are named
MOST_REFUSED = 20  # hours that are named with why
DOING = {SwapState.PLANNED: "reading", SwapState.STAGED: "counting and copying"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The plans of hours that were read before; hours of which `below` the spike's begin more may lie;
    where of some more may be gone, whose loss is accepted."""

    plans: Mapping[datetime, HourPlan]
    older: tuple[datetime, ...] = ()
    below: tuple[OffsetRange, ...] = ()
    cut: Mapping[datetime, str] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """An accepted loss is written down also where nothing is left to read."""
        return not (self.plans or self.older or self.cut)


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
        text = f"{self.hours} of {count_of(self.of_hours, 'hour')}, "
        text += f"{self.read:,} of {count_of(self.of_read, 'record')} read"
        if self.since and ENOUGH_READ * self.of_read <= self.read < self.of_read:
            left = (at - self.since) * ((self.of_read - self.read) / self.read)
            text += f", {human(left.total_seconds())} to go"
        if self.earlier:
            text += f"; {count_of(self.earlier, 'hour')} below where the spike began"
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
    text = f"{DOING[swap.state]} {hour_text(_hour(swap))}"
    if swap.kind is SwapKind.EARLIER:
        text += " below where the spike began"
    if swap.state is SwapState.PLANNED and swap.so_far:
        known = read.get(_hour(swap), swap.so_far) if swap.kind is SwapKind.BACKFILL else None
        # A consumer reads ahead of what it was asked for.
        text += (
            f": {min(swap.so_far, known):,} of {count_of(known, 'record')}"
            if known
            else f": {count_of(swap.so_far, 'record')}"
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
    if dry_run or asked.nothing:
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
    shown = ", ".join(f"{hour_text(since)} to {hour_text(until)}" for since, until in stretches) or "no hour"
    typer.echo(f"{offsets}: batches with these offsets counted records for {shown}")
    return hours


def _rehearsed(platform: Platform, spike: Spike, hours: tuple[datetime, ...], *, accept_loss: bool) -> Asked:
    """Errors come up before anything is begun."""
    found = _rehearse(platform, spike, hours, accept_loss=accept_loss)
    plans = {one.hour: one.plan for one in found if one.plan is not None}
    cut = {one.hour: one.cut for one in found if one.cut}
    older, below = platform.backfiller.older(spike, hours)
    empty = [hour_text(hour) for hour in hours if hour not in {*plans, *older, *cut}]
    records = count_of(sum(p.expected for p in plans.values()), "record")
    files = count_of(sum(len(p.replaces) for p in plans.values()), "file")
    offsets = count_of(sum(total(p.pieces) for p in plans.values()), "offset")
    typer.echo(
        f"{count_of(len(plans), 'hour')} with {records} in {files}; {offsets} to read again: whole batches, "
        "of which each hour takes its own records"
    )
    epoch = platform.ledger.epochs().get(spike.name)
    if epoch and epoch.state is EpochState.OPEN and epoch.application_version != spike.version:
        typer.echo(_other_version(spike, epoch.application_version))
    if empty:
        typer.echo(f"empty, nothing was ever read for them: {some(empty, SOME)}")
    if older:
        lies = f"below where {spike.name} began"
        typer.echo(
            f"{count_of(len(older), 'hour')} from {hour_text(older[0])} on, older than the ledger: "
            f"{count_of(total(below), f'offset {lies} is', f'offsets {lies} are')} looked through for "
            f"records ({some(below, SOME)})"
        )
    for plan in plans.values():
        if plan.lost:
            stay = count_of(len(plan.kept), "file stays", "files stay")
            typer.echo(f"{hour_text(plan.hour)}: {stay}, Kafka no longer has {some(plan.lost, SOME)}")
    for hour, told in cut.items():
        typer.echo(f"{hour_text(hour)}: {told}; what is left is read")
    return Asked(plans, older, below, cut)


def _rehearse(
    platform: Platform, spike: Spike, hours: tuple[datetime, ...], *, accept_loss: bool
) -> list[Rehearsed]:
    """Raises `Refused` with every hour that cannot be done and why."""
    found, refused = [], []
    for hour in hours:
        try:
            found.append(platform.backfiller.rehearse(spike, hour, accept_loss=accept_loss))
        except Refused as problem:
            refused.append(str(problem))
    if told := list(dict.fromkeys(refused)):  # what is wrong with the file is so for each of them
        more = [f"and {len(told) - MOST_REFUSED} more"] if told[MOST_REFUSED:] else []
        raise Refused("\n".join([*told[:MOST_REFUSED], *more]))
    return found


def _other_version(spike: Spike, runs: str) -> str:
    return (
        f"the driver runs with version {runs}, the file is at {spike.version}: what it commits now stays "
        f"as that version makes it. Begin with the driver (`spike stack kill {spike.name}`, on Kubernetes "
        f"`spike deploy {spike.name}`), or read such hours again afterwards: "
        f"`spike affected {spike.name} --version {runs}`"
    )


def _await(platform: Platform, spike: Spike, asked: Asked, after: int, ids: Sequence[str]) -> None:
    """Tell what changes until the runs have ended. Exit code 1 unless every hour is done."""
    import dagster as dg  # noqa: PLC0415

    said = None
    with dg.DagsterInstance.get() as instance:
        while True:
            runs = [run_of(instance, run_id) for run_id in ids]
            now = progress(asked, platform.ledger.swaps(spike.name, MOST_SWAPS), after), waiting(runs)
            if now != said:
                typer.echo(now[0].line(platform.ledger.now()) + now[1])
            said = now
            if all(run.is_finished for run in runs):
                break
            Event().wait(LOOK_SECONDS)
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        typer.echo(f"the run ended: {failed[0].status.value if failed else 'SUCCESS'}")
        for run in failed:
            typer.echo(reason(instance, run.run_id), err=True)
        if failed:
            raise typer.Exit(1)


def _begun(platform: Platform, first: datetime | None) -> datetime | None:
    """Where a new spike begins; None for all that Kafka has. Raises `InvalidSpec` for an hour to come: it
    would begin with what is written now."""
    since = None if first is None else _utc(first, "--from")
    if since is not None and since > (now := platform.ledger.now()):
        raise InvalidSpec(f"{hour_text(since)} has not begun: it is {now:%Y-%m-%dT%H:%M} UTC")
    return since


def _utc(hour: datetime, said: str) -> datetime:
    return whole_hour(hour.replace(tzinfo=UTC), said)


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)
