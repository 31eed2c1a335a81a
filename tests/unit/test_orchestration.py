"""Dagster's definitions: the graph as a newcomer sees it, thin functions, and the pure parts of them."""

import ast
import json
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname

import dagster as dg
import pytest
from builders import HOUR, NEXT_HOUR, partition, spike

import spike_pipelines.orchestration as package
from spike_pipelines.adapters.applications import Applications, load_applications, read_applications
from spike_pipelines.adapters.s3 import connect
from spike_pipelines.domain import causes
from spike_pipelines.domain.batch import Batch, BatchState, Counts
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.ladder import Rung
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.offsets import Break, OffsetRange
from spike_pipelines.domain.supervision import Action, ActionKind, Decision, Verdict
from spike_pipelines.orchestration.appender import (
    AppenderConfig,
    appender_request,
    fail_with,
    materialization,
    run_drain,
)
from spike_pipelines.orchestration.assets import spike_key
from spike_pipelines.orchestration.broken import broken_checks
from spike_pipelines.orchestration.build import build
from spike_pipelines.orchestration.checks import check_events, check_keys, lag_checks, look, results
from spike_pipelines.orchestration.conserved import conserved_checks, held_events
from spike_pipelines.orchestration.resources import BoundedS3Resource, resources
from spike_pipelines.orchestration.supervisor import (
    RecoverConfig,
    in_recovery,
    observation,
    recovery,
    recovery_request,
    supervisor_sensor,
)
from spike_pipelines.ports import Backlog, DatasetState, HourReport
from spike_pipelines.services.close import HoursSeen
from spike_pipelines.services.drain import APPENDER_LEASE, FailedTurn, Terms
from spike_pipelines.services.supervise import Recovered
from spike_pipelines.settings import Settings

NAMES = {
    "cct_adtracking_failure_v1_1_1",
    "cct_adtracking_success_v1_1_0",
    "crt_payout_v1_1_0",
    "crt_session_v1_1_0",
}


@pytest.fixture(scope="module")
def applications():
    return load_applications(Settings().applications_dir)


@pytest.fixture(scope="module")
def definitions(applications):
    return build(Applications({spike.name: spike for spike in applications}, {}), Settings())


@pytest.fixture(scope="module")
def graph(definitions):
    dg.Definitions.validate_loadable(definitions)
    return definitions.resolve_asset_graph()


# the graph


def test_lineage_goes_from_topic_to_spike_to_datasets(graph, applications):
    edges = {
        (parent.to_user_string(), key.to_user_string())
        for key in graph.get_all_asset_keys()
        for parent in graph.get(key).parent_keys
    }
    expected = set()
    for one in applications:
        running = f"spike/{one.asset_name}"
        topic = "".join(c if c.isalnum() else "_" for c in one.topic)
        expected |= {
            (f"topic/{topic}", running),
            (running, f"dataset/{one.dataset.name}"),
            (running, f"dataset/{one.dataset.name}_dead_letters"),
            (f"dataset/{one.dataset.name}", f"closed/{one.dataset.name}"),
        }
    assert edges == expected
    assert {f"spike/{name}" for name in NAMES} <= {child for _, child in edges}


def test_datasets_are_partitioned_by_utc_hours_from_their_start_to_the_current_one(graph, applications):
    for one in applications:
        for table in (one.dataset.name, one.dataset.dead_letters):
            hours = graph.get(dg.AssetKey(["dataset", table])).partitions_def
            now = one.dataset.start + timedelta(hours=2, minutes=30)
            expected = [one.dataset.start + timedelta(hours=h) for h in range(3)]
            assert hours.get_partition_keys(now) == [f"{hour:%Y-%m-%d-%H}:00" for hour in expected]
    others = [k for k in graph.get_all_asset_keys() if k.path[0] not in {"dataset", "closed"}]
    assert all(graph.get(key).partitions_def is None for key in others)


def test_dagster_executes_datasets_only(graph, applications):
    executed = {key.path[-1] for key in graph.get_all_asset_keys() if graph.get(key).is_executable}
    tables = {(one.dataset.name, one.dataset.dead_letters) for one in applications}
    assert executed == {table for both in tables for table in both}


SPIKE_NAMES = {"lag", "retention", "progress", "topic_identity", "offsets_contiguous", "conserved"}


def test_every_spike_and_dataset_has_its_checks(graph, applications):
    spikes = {(name, check) for name in NAMES for check in SPIKE_NAMES}
    datasets = {(one.dataset.name, check) for one in applications for check in ("fresh", "closed")}
    assert {(k.asset_key.path[-1], k.name) for k in graph.asset_check_keys} == spikes | datasets


def test_every_sensor_runs_by_default(definitions):
    repository = definitions.get_repository_def()
    sensors = {s.name: s.default_status for s in repository.sensor_defs}
    assert set(sensors) == {
        "appender_sensor", "supervisor_sensor", "lag_sensor", "conserved_sensor", "failure_sensor",
    }  # fmt: skip
    assert set(sensors.values()) == {dg.DefaultSensorStatus.RUNNING}
    schedules = {s.name: (s.default_status, s.cron_schedule) for s in repository.schedule_defs}
    assert schedules == {"retention_schedule": (dg.DefaultScheduleStatus.RUNNING, "17 * * * *")}
    assert {"appender", "recovery", "retention"} <= {job.name for job in repository.get_all_jobs()}


def test_loading_definitions_reaches_for_nothing(monkeypatch):
    """No ledger, no broker, no S3: only the application files."""

    def refuse(*_):
        raise AssertionError("definitions went out while they loaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    dg.Definitions.validate_loadable(build(Applications({spike().name: spike()}, {}), Settings()))


def test_a_broken_application_file_is_a_failing_check_and_hides_no_other_spike(tmp_path):
    for path in Settings().applications_dir.glob("crt-*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    broken = tmp_path / "crt-payout-v1-1.0.yaml"
    broken.write_text(broken.read_text().replace("lag:", "leg:"))
    definitions = build(read_applications(tmp_path), Settings())
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert dg.AssetKey(["dataset", "session"]) in graph.get_all_asset_keys()
    assert dg.AssetKey(["dataset", "payout"]) not in graph.get_all_asset_keys()
    (check,) = broken_checks(read_applications(tmp_path).broken)
    result = dg.materialize([check], selection=dg.AssetSelection.all_asset_checks())
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key.path[-1], evaluation.passed) == ("crt_payout_v1_1_0", False)
    assert "unknown key 'leg'" in (evaluation.description or "")


DECORATORS = {
    "op",
    "job",
    "sensor",
    "asset",
    "multi_asset_check",
    "asset_check",
    "run_failure_sensor",
    "schedule",
}


def decorated_functions():
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(map(is_dagsters, node.decorator_list)):
                yield pytest.param(node, id=f"{path.stem}.{node.name}")


def is_dagsters(decorator):
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr in DECORATORS


@pytest.mark.parametrize("function", list(decorated_functions()))
def test_a_decorated_function_is_ten_lines_or_fewer(function):
    assert function.end_lineno - function.lineno + 1 <= 10


def test_the_thin_function_test_sees_all_of_them():
    names = {p.values[0].name for p in decorated_functions()}
    assert names >= {"drain", "recover", "appender", "recovery", "appender_sensor", "supervisor_sensor",
                     "sensor", "check", "failure_sensor"}  # fmt: skip


# the appender


class Ledger:
    """What `needs_appender` asks."""

    def __init__(self, token=7, alive=False, behind=True, orphan=None):
        self.token, self.alive, self.behind, self.orphan = token, alive, behind, orphan

    def lease_state(self, resource):
        assert resource == APPENDER_LEASE
        return self.token, self.alive

    def backlog(self):
        return () if self.orphan is None else (Backlog(self.orphan, 3, HOUR, False, True),)

    def datasets(self):
        return (DatasetState("payouts", "payouts", 5, 4, 4 if self.behind else 5),)

    def uncleaned(self):
        return ()


class Platform:
    def __init__(self, **parts):
        self.__dict__.update(parts)


def request(now=HOUR, **state):
    return appender_request(Platform(ledger=Ledger(**state), spikes={"payouts": spike()}), now)


def test_a_run_is_requested_for_work_that_nobody_does():
    assert request().tags == {"spike/reason": "commits to publish: payouts"}
    assert isinstance(request(alive=True), dg.SkipReason)
    assert isinstance(request(behind=False), dg.SkipReason)


def test_batches_of_a_spike_without_application_file_ask_for_no_run_and_are_told():
    skipped = request(behind=False, orphan="gone")
    assert (
        "gone: 3 batches wait, and no application file that can be read describes this spike"
        in skipped.skip_message
    )


def test_a_run_key_is_new_after_every_run_that_worked_and_for_every_minutes_attempt():
    assert request().run_key == request(HOUR + timedelta(seconds=59)).run_key
    assert request().run_key != request(HOUR + timedelta(seconds=60)).run_key
    assert request().run_key != request(token=8).run_key


OFFSETS = """| partition | start | end |
| --- | --- | --- |
| events:0 | 0 | 30 |
| events:1 | 5 | 17 |"""
REPORT = HourReport(
    dataset="payouts",
    hour=HOUR,
    sequence=9,
    files=3,
    rows=40,
    dead_letters=2,
    size=1234,
    latency_seconds=1.23456,
    batches=(11, 12),
    ranges=(OffsetRange(partition(), 0, 30), OffsetRange(partition(1), 5, 17)),
)


def test_a_materialization_tells_offsets_rows_bytes_files_sequence_and_duration():
    event = materialization(REPORT)
    assert (event.asset_key, event.partition) == (dg.AssetKey(["dataset", "payouts"]), "2026-11-22-21:00")
    assert event.tags == {"spike/sequence": "9"}
    assert event.description == "40 rows and 2 dead letters at #9"
    assert materialization(replace(REPORT, rows=1, dead_letters=1)).description == (
        "1 row and 1 dead letter at #9"
    )
    plain = {name: value.value for name, value in event.metadata.items()}
    assert plain == {
        "rows": 40,
        "dead_letters": 2,
        "bytes": 1234,
        "files": 3,
        "sequence": 9,
        "seconds_from_staged_to_committed": 1.235,
        "batches": "11, 12",
        "offsets": OFFSETS,
    }


def test_a_materializations_partition_is_one_of_its_asset(graph, applications):
    one = applications[0]
    event = materialization(replace(REPORT, dataset=one.dataset.name, hour=NEXT_HOUR))
    hours = graph.get(event.asset_key).partitions_def
    assert event.partition == hours.get_partition_keys(NEXT_HOUR + timedelta(minutes=1))[-1]


def test_a_run_fails_for_trouble_that_needs_a_person_and_names_all_of_it():
    fail_with([])
    with pytest.raises(dg.Failure, match="not retried: a: x; b: y"):
        fail_with([FailedTurn("a", "x", final=True), FailedTurn("b", "y", final=True)])


def test_a_drain_names_its_run_and_passes_its_terms_on():
    asked = []

    class Drains:
        def run(self):
            yield REPORT

    def drain(holder, terms, run_id):
        assert run_id == "r1"
        asked.append((holder, terms))
        return Drains()

    terms = AppenderConfig(idle_seconds=3, longest_seconds=9).terms()
    assert list(run_drain(Platform(drain=drain), "r1", terms)) == [REPORT]
    assert asked == [
        (
            f"run r1 on {gethostname()} pid {os.getpid()}",
            Terms(idle=timedelta(seconds=3), longest=timedelta(seconds=9)),
        )
    ]


# the supervisor


def needed(name="payouts", stop=("a",), cause="no heartbeat for 61 s"):
    return Decision(name, Verdict.HUNG, cause, Action(ActionKind.RESTART, name, stop))


FINE = Decision("session", Verdict.RUNNING, "reading")


def test_one_recovery_run_is_requested_for_all_spikes_that_need_it():
    made = recovery_request([needed(), FINE, needed("clicks")], HOUR)
    assert made.run_config["ops"]["recover"]["config"] == {"spikes": ["payouts", "clicks"]}


def test_nothing_to_do_says_how_every_spike_is():
    skipped = recovery_request([FINE], HOUR)
    assert skipped.skip_message == "session RUNNING: reading"


def test_the_same_sight_within_a_minute_is_acted_on_once_and_later_again():
    def key(decision, seconds=0):
        return recovery_request([decision], HOUR + timedelta(seconds=seconds)).run_key

    assert key(needed()) == key(needed(cause="no heartbeat for 66 s"), 30)
    assert key(needed()) != key(needed(), 60)
    assert key(needed()) != key(needed(stop=("b",)))
    assert key(needed()) != key(needed("session"))


def test_a_spike_whose_recovery_is_under_way_gets_no_second_run():
    with dg.DagsterInstance.ephemeral() as instance:
        now = datetime.now(UTC)
        asked = recovery_request([needed()], now)
        instance.create_run_for_job(recovery, run_config=asked.run_config, tags=asked.tags)
        assert in_recovery(instance, now) == {"payouts"}
        assert in_recovery(instance, now + timedelta(minutes=2)) == set()
    made = recovery_request([needed(), needed("clicks")], HOUR, busy={"payouts"})
    assert made.run_config["ops"]["recover"]["config"] == {"spikes": ["clicks"]}


class Recovers:
    """A platform whose supervisor has done this, and has its spike."""

    def __init__(self, done):
        self.supervisor, self.done = self, done
        self.spikes = {"payouts": spike("payouts")}

    def recover_all(self, names):
        assert names == ["payouts"]
        yield self.done


@pytest.mark.parametrize("rung", [None, Rung.MORE_MEMORY])
@pytest.mark.parametrize("kind", ActionKind)
def test_a_recovery_run_ends_well_and_its_observation_is_kept(kind, rung):
    """As Dagster stores it, which takes fewer values than an event does in memory."""
    action = Action(kind, "payouts", ("a",), rung=rung)
    decision = Decision("payouts", Verdict.HUNG, "no heartbeat", action, trouble=causes.Trouble.TWO_DRIVERS)
    platform = Recovers(Recovered(decision, action, "b", ("line 1",), ("BackOff: again",)))
    with dg.DagsterInstance.ephemeral() as instance:
        run = recovery.execute_in_process(
            run_config=dg.RunConfig(ops={"recover": RecoverConfig(spikes=["payouts"])}),
            resources={"platform": dg.ResourceDefinition.hardcoded_resource(platform)},
            instance=instance,
        )
        assert run.success
        key = spike_key(platform.spikes["payouts"])
        (kept,) = instance.fetch_observations(key, limit=10).records
    told = {name: value.value for name, value in kept.asset_observation.metadata.items()}
    assert (told["action"], told["trouble"]) == (str(rung or kind), "two drivers")


class Looks:
    """A platform whose supervisor sees this, or does not see."""

    def __init__(self, seen):
        self.seen, self.spikes, self.done = seen, {}, []
        self.supervisor = self.ledger = self

    def watch(self):
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def succeeded(self, duty):
        self.done.append(duty)


def tick(platform):
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"platform": platform})
        return supervisor_sensor.evaluate_tick(context)


def test_each_look_of_the_supervisor_is_a_duty_done_and_one_that_fails_is_not():
    """SpikeDutyMissed watches the watcher by it."""
    platform = Looks([FINE])
    assert tick(platform).skip_message == "session RUNNING: reading"
    assert platform.done == ["supervisor"]
    blind = Looks(Transient("the ledger database does not answer"))
    with pytest.raises(Transient):
        tick(blind)
    assert blind.done == []


def test_an_observation_tells_what_was_done_and_what_the_driver_said_last():
    decision = needed()
    platform = Platform(spikes={"payouts": spike()})
    event = observation(platform, Recovered(decision, decision.action, "b", ("line 1", "line 2")))
    assert event.asset_key == dg.AssetKey(["spike", "payouts"])
    plain = {name: value.value for name, value in event.metadata.items()}
    assert plain["ended drivers"] == "a"
    assert plain["started driver"] == "b"
    assert "line 1\nline 2" in plain["log tail"]


def test_connections_end_with_the_tick_that_made_them():
    closed = []

    class Part:
        def close(self):
            closed.append(self)

    with dg.build_resources(resources(Settings())) as made:
        made.platform.__dict__["surveyor"] = Part()
        made.platform.__dict__["ledger"] = Part()
        assert closed == []
    assert len(closed) == 2


# the checks


def test_the_cursor_remembers_what_was_told():
    platform = Watched(LagVerdict.OK)
    now = datetime.fromtimestamp(10_000, HOUR.tzinfo)
    first = check_events(platform, None, now)
    assert {e.check_name for e in first.asset_events} == SPIKE_NAMES - {"conserved"} | {"fresh", "closed"}
    assert check_events(platform, first.cursor, now + timedelta(seconds=60)).asset_events == []
    platform.verdict = LagVerdict.LOST
    changed = check_events(platform, first.cursor, now + timedelta(seconds=120))
    assert [(e.check_name, e.passed) for e in changed.asset_events] == [("lag", False)]


def test_a_check_of_a_spike_that_is_gone_is_forgotten():
    platform = Watched(LagVerdict.OK)
    cursor = json.dumps({"gone/lag": ["OK", 1.0]})
    assert "gone/lag" not in json.loads(check_events(platform, cursor, HOUR).cursor)["checks"]


def test_a_cursor_from_before_there_was_more_to_remember_is_read():
    platform = Watched(LagVerdict.OK)
    first = check_events(platform, None, HOUR)
    old = json.dumps(json.loads(first.cursor)["checks"])
    assert check_events(platform, old, HOUR + timedelta(seconds=60)).asset_events == []


GAP = {"payouts": (Break(partition(), 10, 12),)}


def contiguous(tick):
    return [e.passed for e in tick.asset_events if e.check_name == "offsets_contiguous"]


def test_a_break_stays_red_until_the_ledger_is_whole_again():
    """Ten minutes later nothing of it is among what was committed lately; a dark look forgets nothing."""
    platform, now = Watched(LagVerdict.OK, breaks=GAP), HOUR
    first = check_events(platform, None, now)
    assert contiguous(first) == [False]
    for minutes in range(1, 40):
        platform.down = minutes == 20
        tick = check_events(platform, first.cursor, now := HOUR + timedelta(minutes=minutes))
        assert contiguous(tick) == ([False] if minutes in {20, 21} else [])
        first = tick
    assert platform.asked[-1][1] == ["payouts"]
    assert platform.asked[-1][0] <= HOUR - timedelta(minutes=10)
    platform.breaks = {}
    assert contiguous(check_events(platform, first.cursor, now + timedelta(minutes=1))) == [True]


def test_a_sensor_that_was_away_proves_all_that_was_committed_meanwhile_and_a_day_at_most():
    platform = Watched(LagVerdict.OK)
    cursor = None
    for hours, back in ((0, 24), (1, 1 + 1 / 6), (1 + 1 / 60, 1 / 60 + 1 / 6), (90, 24)):
        platform.time = now = HOUR + timedelta(hours=hours)
        cursor = check_events(platform, cursor, now).cursor
        assert now - platform.asked[-1][0] == timedelta(hours=back)


def test_a_check_executed_by_hand_and_the_sensor_correct_each_other():
    platform = Watched(LagVerdict.OK)
    platform.time = now = datetime.now(UTC)
    platform.broken_at = now - timedelta(hours=5)

    def executed():
        dg.materialize(
            [lag_checks(platform.spikes.values())], selection=dg.AssetSelection.all_asset_checks(),
            resources={"platform": platform}, instance=instance,
        )  # fmt: skip

    with dg.DagsterInstance.ephemeral() as instance:
        first = check_events(platform, None, now, instance)
        platform.verdict = LagVerdict.LOST
        platform.breaks = GAP
        executed()
        platform.verdict = LagVerdict.OK
        later = now + timedelta(minutes=1)
        second = check_events(platform, first.cursor, later, instance)
        assert [(e.check_name, e.passed) for e in second.asset_events] == [("lag", True)], "no longer so"
        assert json.loads(second.cursor)["broken"].keys() == {"payouts"}, "a longer look found it"
        platform.breaks = {}
        third = check_events(platform, second.cursor, later + timedelta(minutes=1), instance)
        assert [(e.check_name, e.passed) for e in third.asset_events] == [("offsets_contiguous", True)]


def test_an_executed_check_gives_the_same_as_the_event():
    platform = Watched(LagVerdict.WILL_LOSE)
    chosen = check_keys(platform.spikes.values())
    made = list(results(chosen, look(platform, platform.observer.lag(), lambda now: now - timedelta(days=1))))
    events = check_events(platform, None, HOUR).asset_events
    assert {(r.check_name, r.passed, r.description) for r in made} == {
        (e.check_name, e.passed, e.description) for e in events
    }


def test_a_ledger_that_does_not_answer_fails_what_only_it_knows_as_a_warning():
    platform = Watched(LagVerdict.UNKNOWN, down=True)
    events = {e.check_name: e for e in check_events(platform, None, HOUR).asset_events}
    for name in ("offsets_contiguous", "fresh", "closed"):
        assert (events[name].passed, events[name].severity.value) == (False, "WARN")


class Watched:
    """What checks ask of the platform."""

    def __init__(self, verdict, *, down=False, breaks=None):
        self.verdict, self.down, self.breaks, self.time = verdict, down, breaks or {}, HOUR
        self.broken_at = HOUR
        self.asked = []
        self.spikes = {"payouts": spike()}
        self.observer = self.ledger = self.closer = self

    def lag(self):
        lag = PartitionLag(partition(), 0, 10, 1.0)
        return {"payouts": LagReport(self.verdict, "a sentence", 10, 1.0, (lag,), running=True, at=HOUR)}

    watch = lag

    def now(self):
        return self.time

    def datasets(self):
        if self.down:
            raise Transient("the ledger does not answer")
        return ()

    def look(self):
        return {"payouts": HoursSeen(HOUR, problem="the ledger does not answer" if self.down else None)}

    def recent_breaks(self, since, spikes=None):
        if self.down:
            raise Transient("the ledger does not answer")
        assert since < self.time
        self.asked.append((since, spikes))
        return self.breaks if since <= self.broken_at else {}


def test_where_events_have_no_order_nothing_is_corrected_and_nothing_fails():
    """Dagster's SQLite keeps each run's events in a file of its own."""
    with dg.instance_for_test() as instance:
        first = check_events(Watched(LagVerdict.OK), None, HOUR, instance)
        later = HOUR + timedelta(seconds=60)
        assert check_events(Watched(LagVerdict.OK), first.cursor, later, instance).asset_events == []


def test_dagsters_s3_client_waits_no_longer_than_ours():
    ours = connect("http://127.0.0.1:1").meta.config
    theirs = BoundedS3Resource(endpoint_url="http://127.0.0.1:1").get_client().meta.config
    for setting in ("connect_timeout", "read_timeout", "retries", "max_pool_connections", "s3"):
        assert getattr(theirs, setting) == getattr(ours, setting)


# the check of held batches


def test_a_held_batch_fails_its_spikes_check_with_the_reason_until_it_is_decided_on():
    held = Batch(7, "payouts", "live", 1, BatchState.HELD, (), Counts(3, 2, 0, 0), HOUR, held_reason="odd")

    class Ledger:
        def __init__(self):
            self.found = {"payouts": held}

        def held(self):
            return self.found

    ledger = Ledger()
    platform = Platform(ledger=ledger, spikes={"payouts": spike(), "session": spike("session")})
    first = held_events(platform, None, HOUR)
    told = {e.asset_key.path[-1]: (e.check_name, e.passed, e.description) for e in first.asset_events}
    assert told == {
        "payouts": ("conserved", False, "batch 7 is held: odd"),
        "session": ("conserved", True, "no batch is held"),
    }
    assert held_events(platform, first.cursor, HOUR + timedelta(seconds=30)).asset_events == []
    ledger.found = {}
    (event,) = held_events(platform, first.cursor, HOUR + timedelta(seconds=60)).asset_events
    assert (event.passed, event.asset_key.path[-1]) == (True, "payouts")
    del platform.spikes["session"]
    assert set(json.loads(held_events(platform, first.cursor, HOUR).cursor)) == {"payouts"}


def test_while_the_ledger_is_down_no_spike_is_said_to_be_conserved():
    class Ledger:
        up = True

        def held(self):
            if not self.up:
                raise Transient("the ledger database does not answer")
            return {}

    platform = Platform(ledger=Ledger(), spikes={"payouts": spike()})
    green = held_events(platform, None, HOUR)
    platform.ledger.up = False
    dark = held_events(platform, green.cursor, HOUR + timedelta(seconds=30))
    (event,) = dark.asset_events
    assert (event.passed, event.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert event.description == "not observed: the ledger database does not answer"
    (result,) = dg.materialize(
        [conserved_checks([spike()])], selection=dg.AssetSelection.all_asset_checks(),
        resources={"platform": platform},
    ).get_asset_check_evaluations()  # fmt: skip
    assert (result.passed, result.description) == (False, event.description)
    assert held_events(platform, dark.cursor, HOUR + timedelta(seconds=60)).asset_events == []
    platform.ledger.up = True
    (again,) = held_events(platform, dark.cursor, HOUR + timedelta(seconds=90)).asset_events
    assert again.passed
