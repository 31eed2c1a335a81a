"""Closed hours as Dagster sees them: the tick that tells them, what is automated on them, the example."""

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pandas as pd
import pytest
from builders import HOUR, NEXT_HOUR, partition, spike
from dagster import DagsterEvent, DagsterEventType

from spike_pipelines.adapters.applications import Applications, load_applications
from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.closed import Closing
from spike_pipelines.domain.errors import Transient
from spike_pipelines.examples import definitions as example
from spike_pipelines.examples.payout_report import as_parquet, report
from spike_pipelines.orchestration.assets import partition_key
from spike_pipelines.orchestration.build import build
from spike_pipelines.orchestration.closed import (
    closed_hours,
    closed_key,
    closed_specs,
    materialization,
    unpacked,
    with_closed_hours,
)
from spike_pipelines.ports import HourBook
from spike_pipelines.settings import Settings

CLOSING = Closing(
    3, "payouts", HOUR, HOUR + timedelta(hours=2), HOUR + timedelta(hours=2, seconds=9), {partition(): 12},
    closed_at=HOUR + timedelta(hours=2, minutes=1), sequence=7,
)  # fmt: skip
BOOK = HourBook("payouts", HOUR, 9, 1234, 5, 6, 7890, 1, 10, CLOSING)


class Ledger:
    """What a tick asks: hours stay untold until they are marked."""

    def __init__(self, *books):
        self.books, self.marked, self.up = {b.closing.id: b for b in books}, [], True

    def mark_told(self, told):
        if not self.up:
            raise Transient("down")
        self.marked.append(dict(told))
        self.books = {i: b for i, b in self.books.items() if i not in told}

    def untold_hours(self, limit):
        return tuple(self.books.values())[:limit]


class Platform:
    def __init__(self, *books):
        self.ledger, self.closer, self.closed = Ledger(*books), self, 0

    def close(self):
        self.closed += 1


def tick(platform, cursor=None):
    def lag(_, cursor, now):
        assert now == NEXT_HOUR
        return dg.SensorResult(asset_events=[], cursor=f"{cursor}+")

    return with_closed_hours(platform, cursor, lag, NEXT_HOUR)


def test_an_hour_is_told_and_marked_only_in_the_tick_after():
    platform = Platform(BOOK)
    first = tick(platform)
    assert [e.asset_key for e in first.asset_events] == [closed_key("payouts")]
    assert (platform.closed, platform.ledger.marked) == (1, [{}])
    second = tick(platform, first.cursor)
    assert platform.ledger.marked == [{}, {3: 9}]
    assert second.asset_events == []


def test_a_tick_whose_events_and_cursor_were_lost_tells_again():
    platform = Platform(BOOK)
    tick(platform)
    assert len(tick(platform).asset_events) == 1


def test_without_a_ledger_nothing_is_told_and_nothing_forgotten():
    platform = Platform(BOOK)
    first = tick(platform)
    platform.ledger.up = False
    second = tick(platform, first.cursor)
    assert second.asset_events == []
    platform.ledger.up = True
    tick(platform, second.cursor)
    assert platform.ledger.marked[-1] == {3: 9}


def test_lags_own_cursor_goes_through_and_one_from_before_is_lags():
    assert unpacked(tick(Platform()).cursor) == ("None+", {})
    before = json.dumps({"payouts/lag": ["OK", 1.0]})
    assert unpacked(before) == (before, {})
    assert unpacked(tick(Platform(), before).cursor)[0] == f"{before}+"


def test_an_event_has_the_counts_the_late_ones_and_the_evidence():
    event = materialization(BOOK)
    plain = {name: value.value for name, value in event.metadata.items()}
    assert event.partition == "2026-11-22-21:00"
    assert event.description == "1,234 rows and 5 dead letters, 10 of them late, at #9"
    assert (plain["rows"], plain["late_records"], plain["sequence"]) == (1234, 10, 9)
    assert "Closed 2026-11-22 23:01:00 UTC" in plain["evidence"]
    assert "| events:0 | 12 |" in plain["evidence"]
    assert "late" not in materialization(replace(BOOK, late_records=0)).description


# the graph


@pytest.fixture(scope="module")
def spikes():
    return {s.name: s for s in load_applications(Settings().applications_dir)}


def test_the_example_is_loaded_and_depends_on_closed_hours(spikes):
    whole = dg.Definitions.merge(
        build(Applications(spikes, {}), Settings()), example.example_definitions(spikes)
    )
    dg.Definitions.validate_loadable(whole)
    graph = whole.resolve_asset_graph()
    assert graph.get(example.REPORT).parent_keys == {closed_key("payout")}
    sensors = {s.name: s.default_status for s in whole.get_repository_def().sensor_defs}
    assert sensors["automation_sensor"] is dg.DefaultSensorStatus.RUNNING


def test_without_its_application_file_there_is_no_example():
    assert (
        example.example_definitions({"payouts": spike()}).resolve_asset_graph().get_all_asset_keys() == set()
    )


def test_an_hour_that_can_close_is_a_partition_and_the_current_one_is_not():
    hours = closed_hours(spike())
    keys = hours.get_partition_keys(NEXT_HOUR + timedelta(minutes=30))
    assert keys[-1] == partition_key(HOUR)
    assert example.hour_of_key(keys[-1]) == HOUR


# automation


class Automated:
    """The example's condition on a real instance, minute by minute."""

    def __init__(self):
        one = spike()
        self.asset = example.payout_report(one)
        self.definitions = dg.Definitions(
            assets=[*closed_specs([one]), self.asset], resources={"platform": object()}
        )
        self.instance, self.cursor, self.now = dg.DagsterInstance.ephemeral(), None, datetime(
            2026, 11, 23, 3, 30, tzinfo=UTC
        )  # fmt: skip

    def requested(self):
        self.now += timedelta(minutes=1)
        seen = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = seen.cursor
        return seen.get_requested_partitions(example.REPORT)

    def tell(self, *hours):
        for hour in hours:
            self.instance.report_runless_asset_event(materialization(replace(BOOK, hour=hour)))

    @contextmanager
    def at_work(self, hour, end=DagsterEventType.RUN_SUCCESS):
        """A run of the hour that has begun, and ends with the block."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        tags = {"dagster/partition": partition_key(hour)}
        run = self.instance.create_run_for_job(
            job, asset_selection=frozenset([example.REPORT]), tags=tags, status=dg.DagsterRunStatus.STARTED
        )
        yield
        if end is DagsterEventType.RUN_SUCCESS:
            self.run(hour)
        self.instance.report_dagster_event(DagsterEvent(end.value, job.name), run_id=run.run_id)

    def run(self, hour):
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(example.REPORT, partition=partition_key(hour))
        )


def test_the_report_is_made_for_each_hour_that_closed_and_for_no_other():
    automated = Automated()
    assert automated.requested() == set()
    automated.tell(HOUR, NEXT_HOUR)
    assert automated.requested() == {partition_key(HOUR), partition_key(NEXT_HOUR)}
    assert automated.requested() == set()


def test_the_report_is_made_anew_for_a_closed_hour_that_changed():
    automated = Automated()
    automated.requested()
    automated.tell(HOUR, NEXT_HOUR)
    automated.requested()
    automated.run(HOUR), automated.run(NEXT_HOUR)
    assert automated.requested() == set()
    automated.tell(HOUR)
    assert automated.requested() == {partition_key(HOUR)}


def test_a_change_that_is_told_right_after_a_request_is_not_forgotten():
    """The run of the request may have read the hour before it changed."""
    automated = Automated()
    automated.requested()
    for _ in range(3):
        automated.tell(HOUR)
        assert automated.requested() == {partition_key(HOUR)}
    assert automated.requested() == set()


def test_nor_is_one_that_is_told_before_the_run_has_ended():
    automated = Automated()
    automated.requested()
    automated.tell(HOUR)
    automated.requested(), automated.requested()
    automated.tell(HOUR)
    automated.run(HOUR)
    assert automated.requested() == {partition_key(HOUR)}
    assert automated.requested() == set()


def test_a_change_while_a_run_is_at_work_is_for_the_next_one():
    automated = Automated()
    automated.requested()
    automated.tell(HOUR)
    automated.requested()
    with automated.at_work(HOUR):
        automated.tell(HOUR)
        assert automated.requested() == automated.requested() == set()
    assert automated.requested() == {partition_key(HOUR)}
    assert automated.requested() == set()


def test_a_run_that_failed_is_asked_for_again_at_the_next_full_hour_until_one_has_made_it():
    automated = Automated()
    automated.requested()
    automated.tell(HOUR)
    automated.requested()
    for _ in range(2):
        with automated.at_work(HOUR, DagsterEventType.RUN_FAILURE):
            automated.requested()
        assert automated.requested() == automated.requested() == set()
        automated.now = hour_of(automated.now) + timedelta(hours=1)
        assert automated.requested() == {partition_key(HOUR)}
    with automated.at_work(HOUR):
        automated.requested()
    automated.now += timedelta(hours=1)
    assert automated.requested() == automated.requested() == set()


def test_hours_that_closed_before_anybody_looked_are_left_to_a_backfill():
    automated = Automated()
    automated.tell(HOUR)
    assert automated.requested() == automated.requested() == set()


# the report


def payouts(*rows):
    return pd.DataFrame(
        [(p, c, s, Decimal(a)) for p, c, s, a in rows],
        columns=["publisher_id", "currency", "state", "amount"],
    )


def test_a_report_has_one_row_for_each_publisher_and_currency():
    made = report(
        payouts(
            (7, "EUR", "paid", "0.1000"),
            (7, "EUR", "requested", "0.2000"),
            (7, "USD", "rejected", "5.0000"),
            (1, "EUR", "paid", "3.0000"),
        ),
        HOUR,
    ).to_pylist()
    assert [(r["publisher_id"], r["currency"], r["payouts"], r["amount"], r["paid"]) for r in made] == [
        (1, "EUR", 1, Decimal("3.0000"), Decimal("3.0000")),
        (7, "EUR", 2, Decimal("0.3000"), Decimal("0.1000")),
        (7, "USD", 1, Decimal("5.0000"), Decimal("0.0000")),
    ]
    assert {r["hour"] for r in made} == {HOUR}


def test_the_report_of_an_empty_hour_is_a_file_without_rows():
    made = report(payouts(), HOUR)
    assert made.num_rows == 0
    assert len(as_parquet(made)) > 100


def test_an_hour_is_one_object_below_a_prefix_of_its_own():
    assert example.object_key(HOUR) == "reports/payouts_per_publisher/hour=2026-11-22-21/payouts.parquet"
