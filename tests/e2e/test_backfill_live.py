"""Hours on the whole stack while its stream runs: backfilled by `spike` and by Dagster's own commands,
closed, and reported on without a hand.

    SPIKE_PICTURES=docs/images .venv/bin/pytest tests/e2e/test_backfill_live.py

also makes the picture of docs/backfill.md.
"""

import io
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
from kafka import KafkaProducer
from test_stack import audited, published
from watching import picture

from spike_pipelines import read as reading
from spike_pipelines.adapters.s3 import connect
from spike_pipelines.domain.swap import SwapKind, SwapState
from spike_pipelines.examples.definitions import REPORT, object_key
from spike_pipelines.orchestration.assets import dataset_key, partition_key
from spike_pipelines.orchestration.backfill import job_name
from spike_pipelines.orchestration.closed import closed_key
from spike_pipelines.producer.records import Shares, make
from spike_pipelines.stack import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

AN_HOUR = timedelta(hours=1)
PER_HOUR = 300


def test_an_hour_is_read_again_after_a_change_and_the_stream_goes_on(stack, spike, spec):
    """Of the rows, a new filter leaves those of one state."""
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    hour = reading.hours(spec.dataset.name).index[-1].to_pydatetime()
    file = stack.applications / f"{spike}.yaml"
    was = file.read_text()
    file.write_text(f"{was}\nfilter: state = 'paid'\n")
    committed = stack.committed(spike)
    try:
        arguments = ("--from", f"{hour:%Y-%m-%dT%H}", "--why", "only what is paid", "--wait")
        told = stack.run("backfill", spike, *arguments)
    finally:
        file.write_text(was)
    assert "1 of 1 hour" in told
    assert "the run ended: SUCCESS" in told
    assert stack.committed(spike) > committed, "the live stream went on"

    swap = next(s for s in stack.platform.ledger.swaps(spike, 9) if s.kind is SwapKind.BACKFILL)
    assert (swap.state, swap.scope.since, swap.why) == (SwapState.SWAPPED, hour, "only what is paid")
    state = next(d for d in stack.platform.ledger.datasets() if d.name == spec.dataset.name)
    live = stack.platform.ledger.live_files(state.name, state.sequence)
    mine = {f.final_key for f in live if f.batch == swap.batch}
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    frame = reading.read(spec.dataset.name, hour)
    assert not frame.duplicated(["kafka_partition", "kafka_offset"]).any()
    assert mine, "some payouts are paid"

    assert turned(spec, hour), "the partition turned"
    assert audited(stack) == []


def turned(spec, hour) -> int:
    """How often a backfill materialized the partition."""
    asked = dg.AssetRecordsFilter(dataset_key(spec.dataset.name), asset_partitions=[partition_key(hour)])
    with dg.DagsterInstance.get() as instance:
        records = instance.fetch_materializations(asked, limit=100).records
    return sum("swaps" in r.asset_materialization.metadata for r in records)


def dagster(*arguments: str) -> None:
    """As in a shell prepared by `eval "$(spike env)"`."""
    command = (sys.executable, "-m", "dagster", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def last_hours(count: int) -> list[datetime]:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [now - n * AN_HOUR for n in range(count, 0, -1)]


def produce(stack, spec, hours) -> None:
    """What a producer that was cut off for hours brings in the end: payouts of each of these hours."""
    producer = KafkaProducer(bootstrap_servers=stack.platform.settings.require("kafka_bootstrap"))
    for hour in hours:
        for n in range(PER_HOUR):
            record = make(spec.topic, 7, n, hour, Shares(malformed=0.02, late=0))
            millis = int((hour + n * AN_HOUR / PER_HOUR).timestamp() * 1000)
            producer.send(spec.topic, record.value, key=record.key, timestamp_ms=millis)
    producer.flush()
    producer.close()


def rows(spec, hour) -> set[tuple[int, int]]:
    frame = reading.read(spec.dataset.name, hour)
    places = list(zip(frame["kafka_partition"], frame["kafka_offset"], strict=True))
    assert len(places) == len(set(places))
    return set(places)


@pytest.fixture
def old(stack, spike, spec):
    """Three whole hours that have been published, and nobody has backfilled yet."""
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    hours = last_hours(3)
    before = {hour: len(rows(spec, hour)) for hour in hours}
    produce(stack, spec, hours)

    def there() -> bool:
        return all(len(rows(spec, hour)) > before[hour] + PER_HOUR * 0.9 for hour in hours)

    stack.await_("three old hours are published", there)
    assert audited(stack) == []
    return hours


def test_hours_are_backfilled_by_dagsters_own_commands_while_the_stream_runs(stack, spike, spec, old):
    before, committed = {hour: rows(spec, hour) for hour in old}, stack.committed(spike)
    ends = (partition_key(old[0]), partition_key(old[1]))
    dagster(
        "asset", "materialize", "-m", "spike_pipelines.definitions", "--select",
        f'key:"{dataset_key(spec.dataset.name).to_user_string()}"', "--partition-range", "...".join(ends),
    )  # fmt: skip
    assert [turned(spec, hour) for hour in old] == [1, 1, 0]

    workspace = f"{os.environ['DAGSTER_HOME']}/workspace.yaml"
    dagster(
        "job", "backfill", "-w", workspace, "-j", job_name(spec), "--noprompt", "--from",
        partition_key(old[1]), "--to", partition_key(old[2]),
    )  # fmt: skip
    stack.await_("an hour is being read", lambda: stack.platform.ledger.open_swaps(spike) != (), 400)
    assert audited(stack) == [], "meanwhile"
    stack.await_("two runs", lambda: [turned(spec, hour) for hour in old] == [1, 2, 1], 400)
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    assert all(rows(spec, hour) >= before[hour] for hour in old), "late ones may have come"
    swaps = {s.scope.since: s.batch for s in stack.platform.ledger.swaps(spike, 9)[::-1]}
    live = {(f.hour, f.batch) for f in live_files(stack, spec)}
    assert {(hour, swaps[hour]) for hour in old} <= live, "from other files"
    assert stack.committed(spike) > committed, "the live stream went on"
    assert audited(stack) == []
    link = running.find(stack.folder).link
    picture("backfill-partitions", f"{link}/assets/dataset/{spec.dataset.name}?view=partitions")


def live_files(stack, spec):
    state = next(d for d in stack.platform.ledger.datasets() if d.name == spec.dataset.name)
    return stack.platform.ledger.live_files(state.name, state.sequence)


def made(key, hour) -> int:
    """How often the hour of an asset was materialized."""
    asked = dg.AssetRecordsFilter(key, asset_partitions=[partition_key(hour)])
    with dg.DagsterInstance.get() as instance:
        return len(instance.fetch_materializations(asked, limit=100).records)


def age(stack, spike) -> None:
    """As if the spike had been there for five hours: nobody waits for hours before it."""
    engine = sa.create_engine(stack.platform.settings.require("ledger_url"))
    with engine.begin() as db:
        aged = "UPDATE spikes SET created_at = created_at - interval '5 hours' WHERE name = :name"
        db.execute(sa.text(aged), {"name": spike})
    engine.dispose()


def reported(stack, spec, hour) -> int:
    """Payouts that the hour's report has."""
    s3 = connect(stack.platform.settings.s3_endpoint)
    body = s3.get_object(Bucket=spec.final.bucket, Key=object_key(hour))["Body"].read()
    return pd.read_parquet(io.BytesIO(body))["payouts"].sum()


def test_whole_hours_close_and_their_report_follows_also_what_comes_late(stack, spike, spec, old):
    """The producer's phones bring one payout in a hundred hours later."""
    hour, closed = old[1], closed_key(spec.dataset.name)
    before = len(rows(spec, hour))
    assert not made(closed, hour)
    age(stack, spike)
    stack.await_("closed", lambda: made(closed, hour), 400)
    stack.await_("reported", lambda: made(REPORT, hour), 400)
    assert before <= reported(stack, spec, hour) <= len(rows(spec, hour))

    told, reports, then = made(closed, hour), made(REPORT, hour), len(rows(spec, hour))
    stack.await_("late files are told", lambda: made(closed, hour) > told, 400)
    stack.await_("they are reported", lambda: made(REPORT, hour) > reports + 1, 400)
    assert then < reported(stack, spec, hour) <= len(rows(spec, hour))
    assert "late" in stack.run("hours", spec.dataset.name)
    assert audited(stack) == []
