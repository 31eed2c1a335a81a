"""The conversation with the appender over real HTTP, and what a driver does with each answer."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from fake_appender import TOKEN, Answer, FakeAppender

from spike_pipelines.appender.app import KAFKA_SECONDS
from spike_pipelines.domain.batch import FileKind, HourCounts, NewBatch, StagedFile
from spike_pipelines.domain.errors import BatchTooLarge, Conflict, Fenced, InvalidSpec, Transient
from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.offsets import OffsetRange, Partition
from spike_pipelines.driver.client import TIMEOUT, AppenderClient
from spike_pipelines.driver.decisions import Refusal
from spike_pipelines.driver.heartbeat import HeartbeatThread
from spike_pipelines.driver.life import Driver
from spike_pipelines.driver.session import MAX_REGISTER_RETRIES, Halted, Session, Stopped
from spike_pipelines.driver.vitals import VitalsBoard
from spike_pipelines.wire import MAX_FILES, OpenEpoch

HOUR = datetime(2026, 1, 1, tzinfo=UTC)


def batch(start: int, end: int) -> NewBatch:
    counts = HourCounts(HOUR, 0, 0, end - start)
    return NewBatch(
        (OffsetRange(Partition("events", "topic-id", 0), start, end),), (), end - start, (counts,), "1"
    )


class Setup:
    """One driver and one appender."""

    def __init__(self, driver: str = "driver-1") -> None:
        self.appender = FakeAppender()
        self.url = self.appender.start()
        self.board = VitalsBoard()
        self.client = AppenderClient(self.url, "spike", TOKEN)
        self.session = self.new_session(driver)

    def new_session(self, driver: str) -> Session:
        return Session(self.client, self.board, driver=driver, version="1", back_off=lambda _: 0.0)

    def driver(self, engine, clock=lambda: 0.0) -> Driver:
        return Driver(self.session, engine, self.board, clock=clock, back_off=lambda _: 0.0)


@pytest.fixture
def setup():
    setup = Setup()
    yield setup
    setup.client.close()
    setup.appender.stop()


class Registers:
    """An engine that registers these batches, and then waits to be stopped."""

    def __init__(self, *batches: NewBatch, fails: tuple[Exception, ...] = ()) -> None:
        self.batches = list(batches)
        self.fails = list(fails)
        self.grants = []

    def run(self, grant, register, board):
        self.grants.append(grant)
        if self.fails:
            raise self.fails.pop(0)
        while self.batches:
            register(self.batches[0])
            self.batches.pop(0)
        board.stop.wait(30)


def in_thread(driver: Driver) -> tuple[threading.Thread, list]:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(driver.run()))
    thread.start()
    return thread, codes


def test_batch_is_registered_with_the_token_of_its_epoch(setup):
    assert setup.session.register(batch(0, 5), setup.session.open()).number == 1
    assert (setup.appender.batches[0].epoch, setup.appender.batches[0].nonce) == (1, "nonce-1")


def test_lost_reply_to_a_batch_posts_the_same_body_again(setup):
    setup.appender.say("batches", Answer(lost=True))
    setup.session.register(batch(0, 5), setup.session.open())
    first, second = setup.appender.posts
    assert first == second
    assert len(setup.appender.batches) == 1


def test_lost_reply_to_an_open_asks_for_the_same_epoch_again(setup):
    setup.appender.say("epochs", Answer(lost=True))
    with pytest.raises(Transient):
        setup.session.open()
    assert setup.session.open().epoch == 1
    assert setup.appender.opens == [OpenEpoch(driver="driver-1", application_version="1")] * 2


def test_resync_gives_up_the_epoch_it_has(setup):
    setup.session.open()
    setup.session.open()
    assert [o.after for o in setup.appender.opens] == [None, 1]


def test_open_waits_while_another_driver_is_alive(setup):
    setup.appender.say("epochs", *[Answer(409, "held", retry_after=0.01)] * 3)
    assert setup.session.open().epoch == 1
    assert len(setup.appender.opens) == 4


def test_backpressure_waits_in_phase_waiting_and_is_no_problem(setup):
    setup.appender.say("batches", Answer(429, "too_many_staged", retry_after=0.2))
    seen = []
    watcher = threading.Thread(
        target=lambda: (
            setup.appender.wait_for(lambda: setup.appender.posts),
            seen.append(wait_for_phase(setup.board, "waiting")),
        )
    )
    watcher.start()
    setup.session.register(batch(0, 5), setup.session.open())
    watcher.join()
    assert seen == [None]


def wait_for_phase(board: VitalsBoard, phase: str) -> str | None:
    for _ in range(10_000):
        if board.now.phase == phase:
            return board.now.problem
        threading.Event().wait(0.001)
    raise AssertionError(f"never {phase}")


def test_outage_of_the_appender_is_a_problem_until_it_is_over(setup):
    setup.appender.say("batches", *[Answer(503)] * 3)
    setup.session.register(batch(0, 5), setup.session.open())
    assert len(setup.appender.posts) == 4
    assert setup.board.now.problem is None


def test_outage_without_an_end_ends_the_tries(setup):
    setup.appender.say("batches", *[Answer(503)] * (MAX_REGISTER_RETRIES + 1))
    with pytest.raises(Transient, match="unavailable"):
        setup.session.register(batch(0, 5), setup.session.open())
    assert setup.board.now.problem == "scripted unavailable"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (409, "fenced", Fenced),
        (409, "gap", Conflict),
        (409, "overlap", Conflict),
        (422, "invalid", Conflict),
        (413, "too_large", BatchTooLarge),
        (409, "topic_changed", Halted),
        (409, "lost", Halted),
    ],
)
def test_refused_batch_is_not_sent_again(setup, status, code, error):
    setup.appender.say("batches", Answer(status, code))
    with pytest.raises(error, match=code):
        setup.session.register(batch(0, 5), setup.session.open())
    assert len(setup.appender.posts) == 1


def with_files(number: int, key: str = "{}") -> NewBatch:
    files = tuple(StagedFile(key.format(i), FileKind.FINAL, HOUR, 1, 1, "e") for i in range(number))
    return replace(batch(0, number), files=files)


@pytest.mark.parametrize(
    "made", [with_files(MAX_FILES + 1), with_files(9_000, "k" * 890 + "{}")], ids=["files", "bytes"]
)
def test_a_batch_that_the_appender_cannot_take_is_not_sent(setup, made):
    """The appender would end the connection in the middle of it, which looks like an outage."""
    grant = setup.session.open()
    with pytest.raises(BatchTooLarge):
        setup.session.register(made, grant)
    assert setup.appender.posts == []


def test_a_batch_of_an_epoch_that_is_given_up_is_not_registered_under_the_next_one(setup):
    old = setup.session.open()
    new = setup.session.open()
    with pytest.raises(Conflict, match="epoch 1 comes too late: epoch 2 is open now"):
        setup.session.register(batch(0, 5), old)
    assert setup.appender.posts == []
    assert setup.session.register(batch(0, 5), new).number == 1


def test_an_engine_that_outlives_its_epoch_registers_nothing(setup):
    """A query that did not end in time still calls with the batch it has."""

    class Late(Registers):
        def run(self, grant, register, board):
            self.register = getattr(self, "register", register)
            super().run(grant, self.register, board)

    engine = Late(batch(0, 5), fails=(OSError("S3 is down"),))
    thread, _ = in_thread(setup.driver(engine))
    setup.appender.wait_for(lambda: len(setup.appender.opens) >= 3)
    setup.board.stop.set()
    thread.join(30)
    assert setup.appender.posts == []


def test_stopping_ends_a_wait_at_once(setup):
    setup.appender.say("epochs", Answer(409, "held", retry_after=60))
    setup.board.stop.set()
    with pytest.raises(Stopped):
        setup.session.open()


def test_answer_that_is_not_the_apis_is_no_answer(setup):
    other = AppenderClient(setup.url + "/proxy", "spike", "another-token")
    found = other.open_epoch(OpenEpoch(driver="d"))
    assert isinstance(found, Refusal)
    assert found.code == "unavailable"


def test_silent_server_is_unavailable():
    found = AppenderClient("http://127.0.0.1:9", "spike", TOKEN).open_epoch(OpenEpoch(driver="d"))
    assert isinstance(found, Refusal)
    assert "http://127.0.0.1:9" in found.message


def test_fenced_batch_stops_the_driver_for_good(setup):
    setup.appender.say("batches", Answer(409, "fenced"))
    engine = Registers(batch(0, 5))
    assert setup.driver(engine).run() is Exit.FENCED
    assert len(engine.grants) == len(setup.appender.opens) == 1


def test_fenced_open_stops_the_driver_for_good(setup):
    setup.appender.say("epochs", Answer(409, "fenced"))
    assert setup.driver(Registers()).run() is Exit.FENCED
    assert len(setup.appender.opens) == 1


def test_fenced_heartbeat_stops_a_driver_that_only_reads(setup):
    thread, codes = in_thread(setup.driver(Registers()))
    with HeartbeatThread(setup.client, setup.board):
        setup.appender.wait_for(lambda: setup.appender.beats)
        setup.appender.epoch += 1  # somebody else has the spike now
        thread.join(30)
    assert codes == [Exit.FENCED]
    assert len(setup.appender.opens) == 1


def test_heartbeat_of_an_epoch_given_up_does_not_fence(setup):
    setup.session.open()
    setup.session.open()
    setup.board.fence("late answer", epoch=1)
    assert setup.board.fenced is None


def test_heartbeat_while_the_next_epoch_is_asked_for_does_not_fence(setup):
    setup.session.open()
    setup.board.opening()
    setup.board.fence("the new epoch may be this driver's own", epoch=1)
    assert not setup.board.stop.is_set()


def test_gap_opens_a_new_epoch_from_the_ledgers_offsets(setup):
    setup.appender.ends = {0: 3}
    engine = Registers(batch(5, 9))
    thread, codes = in_thread(setup.driver(engine))
    setup.appender.wait_for(lambda: setup.appender.epoch >= 2)
    setup.board.stop.set()
    thread.join(30)
    assert engine.grants[1].offsets[0].offset == 3
    assert codes == [Exit.STOPPED]


def test_failed_batch_opens_a_new_epoch_and_tells_the_problem(setup):
    engine = Registers(batch(0, 5), fails=(OSError("no such bucket"),))
    thread, codes = in_thread(setup.driver(engine))
    setup.appender.wait_for(lambda: setup.appender.batches)
    setup.board.stop.set()
    thread.join(30)
    assert codes == [Exit.STOPPED]
    assert [o.after for o in setup.appender.opens] == [None, 1]


def test_problem_is_in_the_heartbeat(setup):
    setup.session.open()
    setup.board.problem("S3 answers 503")
    with HeartbeatThread(setup.client, setup.board):
        setup.appender.wait_for(lambda: setup.appender.beats)
    assert (setup.appender.beats[0].phase, setup.appender.beats[0].problem) == ("retrying", "S3 answers 503")


def test_failures_without_an_end_give_up(setup):
    times = iter(range(0, 100_000, 100))
    engine = Registers(fails=tuple(OSError("S3 is down") for _ in range(99)))
    assert setup.driver(engine, clock=lambda: next(times)).run() is Exit.GAVE_UP
    assert len(engine.grants) == 10


@pytest.mark.parametrize("code", ["topic_changed", "lost"])
def test_changed_topic_stops_with_a_code_of_its_own(setup, code):
    setup.appender.say("epochs", Answer(409, code))
    assert setup.driver(Registers()).run() is Exit.REFUSED


def test_an_application_file_that_was_moved_under_its_rows_stops_at_once(setup):
    setup.appender.say("epochs", Answer(409, "spec_changed"))
    assert setup.driver(Registers()).run() is Exit.INVALID


def test_missing_topic_is_asked_for_again(setup):
    setup.appender.say("epochs", *[Answer(409, "topic_missing")] * 3)
    engine = Registers()
    thread, codes = in_thread(setup.driver(engine))
    setup.appender.wait_for(lambda: len(setup.appender.opens) == 4)
    setup.board.stop.set()
    thread.join(30)
    assert codes == [Exit.STOPPED]


def test_wrong_application_stops_at_once(setup):
    assert setup.driver(Registers(fails=(InvalidSpec("no such column"),))).run() is Exit.INVALID


def test_a_driver_says_who_it_is_in_each_request_also_where_its_token_is_refused():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["spike-driver"])
        return httpx.Response(401, json={"error": {"code": "unauthorized", "message": "no"}})

    transport = httpx.MockTransport(answer)
    client = AppenderClient("http://appender", "spike", TOKEN, driver="me", transport=transport)
    assert client.open_epoch(OpenEpoch(driver="me")).code == "unauthorized"
    assert asked == ["me"]


def test_kafka_s_silence_is_told_before_a_driver_stops_waiting_for_the_appender():
    """Three waits of the API are the most: for who connects, to connect, to ask."""
    assert TIMEOUT.read is not None
    assert TIMEOUT.read > 3 * KAFKA_SECONDS
