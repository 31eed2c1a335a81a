"""Hours read again by a finite SparkApplication: made like the live one, told by objects, ended with it."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from builders import BUCKET, HOUR, partition
from builders import spike as plain_spike

from spike_pipelines.adapters.backfill_files import (
    HourAnswerFile,
    HourOrderFile,
    SurveyAnswerFile,
    told_order,
)
from spike_pipelines.adapters.kubernetes import rereader as module
from spike_pipelines.adapters.kubernetes.rereader import BACKFILL_LABEL, KubernetesRereader
from spike_pipelines.adapters.memory_store import MemoryObjectStore
from spike_pipelines.adapters.order_box import OrderBox, serve_box
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.earlier import Place
from spike_pipelines.domain.errors import InvalidSpec, LeaseLost, Transient
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.retention import OrdersPlace, place_of
from spike_pipelines.ports import BackfillOrder, Surveyed, SurveyOrder

ARGUMENTS = ["/etc/spike/applications/payouts.yaml"]
FILE = StagedFile("a/f.parquet", FileKind.FINAL, HOUR, 3, 9, "etag")
BATCH = NewBatch((), (FILE,), 4, (HourCounts(HOUR, 3, 0, 1),), "2.0", 5)


def order(number=7, hour=HOUR):
    pieces = (OffsetRange(partition(), 0, 9),)
    prefix = f"staging/payouts/backfill-{number}/"
    return BackfillOrder("payouts", hour, pieces, ("dead",), datetime(2026, 11, 23, tzinfo=UTC), prefix)


class Bench:
    """The spike is deployed; `pause` is where the world goes on while the run waits."""

    def __init__(self, site):
        self.site, self.store, self.waits = site, MemoryObjectStore(BUCKET), []
        site.deploy(arguments=ARGUMENTS, mainApplicationFile="local:///opt/spike/driver.py", suspend=False)
        self.meanwhile = self.answer
        self.rereader = KubernetesRereader(
            site.api, site.namespace, self.store, {"payouts": plain_spike()}, pause=self.pause
        )
        self.seen = []

    def pause(self, seconds):
        self.waits.append(seconds)
        self._last = self.rereader._open
        assert len(self.waits) < 50
        self.meanwhile()

    @property
    def made(self):
        items = self.site.api.get(self.site.apps)["items"]
        return [item for item in items if BACKFILL_LABEL in (item["metadata"].get("labels") or {})]

    @property
    def last(self):
        """The application that was made last."""
        (made,) = [item for item in self.made if item["metadata"]["name"] == self._last.name]
        return made

    @property
    def box(self):
        return OrderBox.at(self.last["spec"]["arguments"][1], self.store)

    def answer(self):
        """All orders that there are."""
        number = 1
        while (told := self.box.order(number)) is not None:
            one = HourOrderFile.model_validate_json(told).order()
            if self.box.answered(number) is None:
                self.seen.append(one)
                self.box.answer(number, HourAnswerFile.of(BATCH).model_dump_json())
            number += 1

    def reread(self, *orders, keep_alive=lambda: None):
        return [self.rereader.reread(one, keep_alive) for one in orders]

    def say(self, state, error=None):
        name = self.last["metadata"]["name"]
        status = {"applicationState": {"state": state, "errorMessage": error}, "driverInfo": {}}
        self.site.api.patch(f"{self.site.apps}/{name}/status", {"status": status})


@pytest.fixture
def bench(site):
    return Bench(site)


def test_a_finite_application_like_the_live_one_takes_the_order_and_answers(bench):
    assert bench.reread(order()) == [BATCH]
    assert bench.seen == [order()]
    (made,) = bench.made
    live = bench.site.get()
    assert made["metadata"]["name"].startswith("payouts-bf-")
    assert made["spec"]["restartPolicy"] == {"type": "Never"}
    assert made["spec"]["mainApplicationFile"] == "local:///opt/spike/backfill.py"
    assert made["spec"]["arguments"][0] == ARGUMENTS[0]
    assert made["spec"]["timeToLiveSeconds"] > 0
    assert {k: made["spec"][k] for k in ("image", "driver", "mode")} == {
        k: live["spec"][k] for k in ("image", "driver", "mode")
    }


def test_the_supervisor_does_not_see_it_and_network_policies_do(bench):
    bench.reread(order())
    assert bench.last["metadata"]["labels"]["app.kubernetes.io/part-of"] == "spike-pipelines"
    assert [app.name for app in bench.site.cluster.applications()] == ["payouts"]


def test_all_hours_of_a_run_are_of_one_application_which_is_told_the_end(bench):
    later = order(8, HOUR + timedelta(hours=1))
    bench.reread(order(), later)
    assert (len(bench.made), bench.seen) == (1, [order(), later])
    assert not bench.box.ended
    bench.rereader.close()
    assert bench.box.ended
    bench.reread(order())
    assert len(bench.made) == 2


def test_a_suspended_spike_can_be_backfilled(bench):
    bench.site.change("payouts", {"spec": {"suspend": True}})
    bench.reread(order())
    assert "suspend" not in bench.made[0]["spec"]


def test_what_the_job_says_of_its_failure_is_told(bench):
    bench.meanwhile = lambda: bench.box.fail("no column 'x'", invalid=True)
    with pytest.raises(InvalidSpec, match="no column 'x'"):
        bench.reread(order())
    bench.meanwhile = lambda: bench.box.fail("Kafka is away", invalid=False)
    with pytest.raises(Transient, match="Kafka is away"):
        bench.reread(order())
    assert len(bench.made) == 2, "each failure ends its application"


@pytest.mark.parametrize("state", ["FAILED", "SUBMISSION_FAILED", "COMPLETED"])
def test_one_that_is_over_without_an_answer_is_an_error_that_says_where_to_look(bench, state):
    bench.meanwhile = lambda: bench.say(state, "OOMKilled")
    with pytest.raises(
        Transient, match=rf"{state} without an answer: OOMKilled .*kubectl -n .* logs payouts-bf-"
    ):
        bench.reread(order())


def test_an_answer_beside_the_end_counts(bench):
    def both():
        bench.answer()
        bench.say("COMPLETED")

    bench.meanwhile = both
    assert bench.reread(order()) == [BATCH]


def test_one_that_somebody_deletes_is_an_error(bench):
    def delete():
        bench.site.api.delete(f"{bench.site.apps}/{bench.made[0]['metadata']['name']}")

    bench.meanwhile = delete
    with pytest.raises(Transient, match="was deleted before it had answered"):
        bench.reread(order())


def test_a_lost_lease_tells_it_the_end(bench):
    def lost():
        raise LeaseLost("over")

    bench.meanwhile = lambda: None
    with pytest.raises(LeaseLost):
        bench.reread(order(), keep_alive=lost)
    assert bench.box.ended


def test_it_has_a_bound(bench):
    bench.rereader.longest_seconds = -1
    bench.meanwhile = lambda: None
    with pytest.raises(Transient, match="choose fewer hours"):
        bench.reread(order())


def test_a_spike_that_is_not_deployed_says_so(bench):
    bench.site.api.delete(f"{bench.site.apps}/payouts")
    with pytest.raises(InvalidSpec, match="spike deploy payouts"):
        bench.reread(order())


def test_a_long_name_stays_one_that_kubernetes_takes(bench):
    long = "p" * 39 + "-" + "q" * 10
    bench.site.deploy(long, arguments=ARGUMENTS)
    bench.rereader.spikes = {long: plain_spike(long)}
    bench.reread(replace(order(), spike=long))
    name = bench.last["metadata"]["name"]
    assert len(name) <= 50
    assert "--" not in name


# the job's side


def served(store, *, idle=30.0, answer=bytes.decode):
    box = OrderBox(store, BUCKET, "staging/x/")
    thread = threading.Thread(
        target=serve_box, args=(box, answer), kwargs={"idle_seconds": idle, "pause": threading.Event().wait}
    )
    thread.start()
    return box, thread


def test_the_job_answers_orders_in_turn_until_the_end(monkeypatch):
    monkeypatch.setattr("spike_pipelines.adapters.order_box.LOOK_SECONDS", 0.01)
    box, thread = served(MemoryObjectStore(BUCKET))
    for number in (1, 2):
        box.give(number, f"order {number}")
    box.end()
    thread.join(10)
    assert not thread.is_alive()
    assert [box.answered(n) for n in (1, 2, 3)] == [b"order 1", b"order 2", None]


def test_the_job_ends_when_nobody_gives_an_order_any_more(monkeypatch):
    monkeypatch.setattr("spike_pipelines.adapters.order_box.LOOK_SECONDS", 0.01)
    _, thread = served(MemoryObjectStore(BUCKET), idle=0.1)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("uri", ["staging/x/", "s3://bucket", "s3://bucket/x", "s3:///x/", "https://b/x/"])
def test_a_place_for_orders_is_a_prefix_of_a_bucket(uri):
    with pytest.raises(InvalidSpec, match="is no place for orders"):
        OrderBox.at(uri, MemoryObjectStore(BUCKET))


def test_what_is_left_of_the_orders_lies_where_retention_sweeps_it(bench):
    bench.reread(order())
    keys = [o.key.removeprefix("staging/payouts/") for o in bench.store.list(BUCKET, "")]
    assert {place_of(key) for key in keys} == {OrdersPlace()}
    assert module.TTL_SECONDS <= 3600


def test_the_same_application_is_asked_where_older_hours_lie(bench):
    pieces = (OffsetRange(partition(), 0, 9),)
    asked = SurveyOrder("payouts", pieces, HOUR, HOUR + timedelta(hours=2))
    found = Surveyed((Place(HOUR, OffsetRange(partition(), 2, 5), 3),), 9)
    seen = []

    def answer():
        for number in (1, 2):
            if (told := bench.box.order(number)) is not None and bench.box.answered(number) is None:
                one = told_order(told)
                survey = isinstance(one, SurveyOrder)
                seen.append(one)
                reply = SurveyAnswerFile.of(found) if survey else HourAnswerFile.of(BATCH)
                bench.box.answer(number, reply.model_dump_json())

    bench.meanwhile = answer
    assert bench.rereader.survey(asked, lambda: None) == found
    assert bench.reread(order()) == [BATCH]
    assert seen == [asked, order()]
    assert len(bench.made) == 1


def test_whoever_waits_is_told_how_far_the_job_is(bench):
    heard, answer = [], bench.answer

    def reading():
        bench.box.tell(1, "1200")
        if heard:
            answer()

    bench.meanwhile = reading
    bench.reread(order(), keep_alive=lambda so_far=None: heard.append(so_far))
    assert set(heard) == {1200}
