"""Datasets as Dagster executes them: materializing hours of one is their backfill."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from spike_pipelines.domain.backfill import check_hours
from spike_pipelines.domain.batch import hour_of, hour_text
from spike_pipelines.domain.earlier import Survey
from spike_pipelines.domain.errors import Conflict, InvalidSpec, Refused
from spike_pipelines.domain.operations import Author
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.words import count_of
from spike_pipelines.orchestration.assets import HOUR_FORMAT, dataset_key, dataset_specs
from spike_pipelines.platform import Platform
from spike_pipelines.services.backfill import Ask, Backfilled, Backfiller
from spike_pipelines.services.operate import Request

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

POOL = "backfill"
DEFAULT_WHY = "materialized in Dagster"
ASKED_TAGS = (
    "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end",
)  # fmt: skip
# Recoveries and appender runs go first, and a month of hours takes longer than any other run may.
RUN_TAGS = {"dagster/priority": "-10", "dagster/max_runtime": str(7 * 24 * 3600)}


class BackfillConfig(dg.Config):
    """Who asks and why, kept with each swap. `accept_loss` leaves files as they are whose records Kafka no
    longer has, and goes on with the others."""

    who: str = ""
    why: str = DEFAULT_WHY
    accept_loss: bool = False

    def ask(self, run_id: str) -> Ask:
        """Raises `InvalidSpec` for a loss that nobody accepts in their own words."""
        if self.accept_loss and self.why == DEFAULT_WHY:
            raise InvalidSpec("accept_loss leaves records behind: say `why` in the run's config")
        author = Author(self.who or f"Dagster run {run_id[:8]}", self.why)
        return Ask(Request(f"backfill-{run_id}-{secrets.token_hex(4)}", author), self.accept_loss)


@dataclass(frozen=True, slots=True)
class HourFailed:
    """An hour that stays as it was; the others are done all the same."""

    hour: datetime
    message: str


def dataset_assets(spike: Spike) -> dg.AssetsDefinition:
    """Both tables of a spike: one read fills them."""

    @dg.multi_asset(
        name=op_name(spike),
        specs=dataset_specs(spike),
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
        required_resource_keys={"platform"},
    )
    def backfill(
        context: dg.AssetExecutionContext, config: BackfillConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Read hours again from Kafka beside the live stream, and swap each in."""
        check_asked(context.run.tags)
        hours, ask = hours_of(context.partition_keys), config.ask(context.run.run_id)
        found = list(run_backfill(context.resources.platform, spike, hours, ask, context.log.info))
        fail_with(found)
        yield from results(context.selected_asset_keys, found)

    return backfill


def backfill_job(spike: Spike) -> "UnresolvedAssetJobDefinition":
    """For `dagster job backfill`, which launches a run for each partition."""
    return dg.define_asset_job(
        job_name(spike),
        selection=dg.AssetSelection.assets(*map(dataset_key, spike.dataset.tables.values())).without_checks(),
        description=f"Reads hours of {spike.name} again from Kafka and swaps them in.",
        tags=RUN_TAGS,
    )


def op_name(spike: Spike) -> str:
    return f"{spike.asset_name}_hours"


def job_name(spike: Spike) -> str:
    return f"backfill_{spike.asset_name}"


def hours_of(keys: Iterable[str]) -> tuple[datetime, ...]:
    return tuple(datetime.strptime(key, HOUR_FORMAT).replace(tzinfo=UTC) for key in keys)


def check_asked(tags: Mapping[str, str]) -> None:
    """Raise `InvalidSpec` for a key within an hour (Dagster takes the next hour for it), and for a range that
    ends before it begins (of which it makes no hour at all): it says nothing of either."""
    asked = hours_of(tags[name] for name in ASKED_TAGS if name in tags)
    for hour in asked:
        if hour != hour_of(hour):
            raise InvalidSpec(
                f"{hour:{HOUR_FORMAT}} is no partition: hours begin on the hour, as "
                f"{hour_of(hour):{HOUR_FORMAT}}"
            )
    if list(asked) != sorted(asked):
        raise InvalidSpec(
            f"the range from {asked[0]:{HOUR_FORMAT}} to {asked[-1]:{HOUR_FORMAT}} ends before it begins"
        )


def run_backfill(
    platform: Platform,
    spike: Spike,
    hours: Sequence[datetime],
    ask: Ask,
    say: Callable[[str], None],
) -> Iterator[Backfilled | HourFailed]:
    """One hour after the other. What is wrong with one alone stops no other; what did not answer, all."""
    check_hours(min(hours), max(hours), spike.dataset.start, platform.ledger.now())
    with closing(platform.backfiller) as backfiller:
        survey, unseen = _surveyed(backfiller, spike, hours)
        for hour in hours:
            try:
                if hour in unseen:
                    raise unseen[hour]
                done = backfiller.backfill(spike, hour, ask, survey)
            except (Conflict, Refused) as problem:
                say(f"{hour_text(hour)} stays as it was: {problem}")
                yield HourFailed(hour, str(problem))
                continue
            say(str(done))
            if why_not := platform.publisher.show(spike):
                say(f"committed; the next appender run shows it to readers: {why_not}")
            yield done


def _surveyed(
    backfiller: Backfiller, spike: Spike, hours: Sequence[datetime]
) -> tuple[Survey, Mapping[datetime, Conflict | Refused]]:
    """What was found of hours older than the ledger; why not, for each of them, where it was refused."""
    try:
        return backfiller.survey(spike, hours), {}
    except (Conflict, Refused) as problem:
        return Survey(), dict.fromkeys(backfiller.maybe_older(spike, hours), problem)


def fail_with(found: Iterable[Backfilled | HourFailed]) -> None:
    failed = [one for one in found if isinstance(one, HourFailed)]
    if failed:
        told = "; ".join(f"{hour_text(one.hour)}: {one.message}" for one in failed)
        raise dg.Failure(
            f"{count_of(len(failed), 'hour stays as it was', 'hours stay as they were')}: {told}",
            allow_retries=False,
        )


def results(
    keys: Iterable[dg.AssetKey], found: Iterable[Backfilled | HourFailed]
) -> Iterator[dg.MaterializeResult[None]]:
    """One for each table that was asked for; the appender reports each hour by itself as well."""
    done = [one for one in found if isinstance(one, Backfilled)]
    metadata: dict[str, int | str] = {
        "hours": len(done),
        "empty hours": sum(not one.swaps for one in done),
        "rows": sum(one.final for one in done),
        "dead_letters": sum(one.dead_letter for one in done),
        "filtered": sum(one.filtered for one in done),
        "records read": sum(one.scanned for one in done),
        "swaps": ", ".join(str(swap.number) for one in done for swap in one.swaps),
    }
    for key in sorted(keys):
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)
