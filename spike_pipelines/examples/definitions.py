"""The report `payouts_per_publisher`: made for every closed hour of `payout`, and anew when one changes.

Take it as the pattern for your own: depend on `closed_key(dataset)`, be partitioned by `closed_hours`, be
automated `ON_CLOSED_HOURS`, write one object an hour. A backfill or late data then needs nobody's hand.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg

from spike_pipelines.domain.spike import Spike
from spike_pipelines.orchestration.assets import HOUR_FORMAT
from spike_pipelines.orchestration.closed import ON_CLOSED_HOURS, closed_hours, closed_key
from spike_pipelines.platform import Platform

SPIKE = "crt-payout-v1-1.0"  # without its application file there is no example
REPORT = dg.AssetKey(["report", "payouts_per_publisher"])
HOURS_A_RUN = 24


def example_definitions(spikes: Mapping[str, Spike]) -> dg.Definitions:
    if SPIKE not in spikes:
        return dg.Definitions()
    return dg.Definitions(assets=[payout_report(spikes[SPIKE])], sensors=[automation_sensor()])


def payout_report(spike: Spike) -> dg.AssetsDefinition:
    @dg.asset(
        key=REPORT,
        deps=[closed_key(spike.dataset.name)],
        partitions_def=closed_hours(spike),
        automation_condition=ON_CLOSED_HOURS,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_A_RUN),
        required_resource_keys={"platform"},
        group_name="reports",
        kinds={"pandas", "parquet"},
        description="What each publisher was to be paid in each hour, and what was paid.",
    )
    def payouts_per_publisher(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys:
            written = write_hour(context.resources.platform, spike, hour_of_key(key))
            context.add_asset_metadata(written, partition_key=key)

    return payouts_per_publisher


def write_hour(platform: Platform, spike: Spike, hour: datetime) -> Mapping[str, int | str]:
    """One object, put as a whole: a second run of the hour takes the first one's place, and a run that dies
    leaves the old one."""
    from spike_pipelines.examples.payout_report import COLUMNS, as_parquet, report  # noqa: PLC0415
    from spike_pipelines.read import read  # noqa: PLC0415

    payouts = read(spike.dataset.name, hour, COLUMNS, settings=platform.settings)
    made = report(payouts, hour)
    key = object_key(hour)
    platform.store.put(spike.final.bucket, key, as_parquet(made))
    return {"payouts": len(payouts), "rows": made.num_rows, "location": f"s3://{spike.final.bucket}/{key}"}


def object_key(hour: datetime) -> str:
    return f"reports/payouts_per_publisher/hour={hour:%Y-%m-%d-%H}/payouts.parquet"


def hour_of_key(key: str) -> datetime:
    return datetime.strptime(key, HOUR_FORMAT).replace(tzinfo=UTC)


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        "automation_sensor",
        target=[REPORT],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
    )
