"""What the producer makes up, and what it says was acknowledged."""

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as Number
from itertools import count, islice
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spike_pipelines.adapters.applications import load_applications
from spike_pipelines.domain.ddl import Array, Column, Decimal, Map, Primitive, Struct, Type, parse
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.producer.acks import Acks, merge, read_acks
from spike_pipelines.producer.dice import FACES, zipf
from spike_pipelines.producer.events import MAKERS, REQUIRED
from spike_pipelines.producer.numbers import Numbers
from spike_pipelines.producer.pace import Pace
from spike_pipelines.producer.records import Flaw, Record, Shares, make
from spike_pipelines.producer.run import Loop
from spike_pipelines.producer.sources import Outgoing, Topic, events, lines
from spike_pipelines.producer.topics import until_up
from spike_pipelines.stack.parts.producer import Producer

AT = datetime(2026, 6, 15, 12, tzinfo=UTC)
SPIKES = {s.topic: s for s in load_applications(Path(__file__).parents[2] / "deployments" / "applications")}
KINDS = sorted(MAKERS)
CLEAN = Shares(malformed=0, late=0)


def some(kind: str, count: int = 2_000, shares: Shares = CLEAN) -> list[Record]:
    return [make(kind, 1, number, AT, shares) for number in range(count)]


def fits(value: object, kind: Type) -> bool:  # noqa: C901  # one arm for each type
    """Whether Spark's JSON reader would take this value for this type."""
    if value is None:
        return True
    match kind:
        case Struct(fields):
            return isinstance(value, dict) and all(fits(value.get(f.name), f.type) for f in fields)
        case Array(element):
            return isinstance(value, list) and all(fits(v, element) for v in value)
        case Map(_, inner):
            return isinstance(value, dict) and all(fits(v, inner) for v in value.values())
        case Decimal(precision, scale):
            _, digits, exponent = Number(str(value)).as_tuple()
            return -int(exponent) <= scale and len(digits) + int(exponent) <= precision - scale
        case Primitive.STRING:
            return isinstance(value, str)
        case Primitive.BOOLEAN:
            return isinstance(value, bool)
        case Primitive.INT | Primitive.BIGINT:
            return isinstance(value, int) and abs(value) < (2**31 if kind is Primitive.INT else 2**63)
        case Primitive.DOUBLE:
            return isinstance(value, int | float)
        case Primitive.TIMESTAMP:
            return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
        case Primitive.DATE:
            return isinstance(value, str) and bool(date.fromisoformat(value))
    raise AssertionError(f"no event has a {kind}")


def complete(event: dict[str, object], schema: tuple[Column, ...]) -> bool:
    return all(event.get(c.name) is not None for c in schema if not c.nullable)


def test_every_example_topic_has_events_and_an_application():
    assert set(SPIKES) == set(MAKERS) == set(REQUIRED)


@pytest.mark.parametrize("kind", KINDS)
def test_events_fit_the_schema_of_their_application(kind):
    schema = parse(SPIKES[kind].schema)
    for record in some(kind):
        event = orjson.loads(record.value)
        assert fits(event, Struct(schema)), event
        assert complete(event, schema), event


@pytest.mark.parametrize("kind", KINDS)
def test_required_fields_are_the_schemas_not_null_columns(kind):
    assert set(REQUIRED[kind]) == {c.name for c in parse(SPIKES[kind].schema) if not c.nullable}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_topic_and_number_make_the_same_record(kind):
    assert some(kind, 50, Shares()) == some(kind, 50, Shares())
    assert make(kind, 1, 7, AT, CLEAN) != make(kind, 2, 7, AT, CLEAN)
    assert make(kind, 1, 7, AT, CLEAN) != make(kind, 1, 8, AT, CLEAN)


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_records_do_not_fit_whatever_their_flaw(kind):
    schema = parse(SPIKES[kind].schema)
    records = some(kind, 200, Shares(malformed=1))
    assert {r.flaw for r in records} == set(Flaw)
    for record in records:
        assert record.key
        try:
            event = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            continue
        assert not (fits(event, Struct(schema)) and complete(event, schema)), record


def test_one_in_a_thousand_is_malformed_and_one_or_two_in_a_hundred_late():
    records = some("crt.session", 20_000, Shares())
    assert 5 <= sum(r.flaw is not None for r in records) <= 40
    late = [AT - r.timestamp for r in records if r.timestamp != AT]
    assert 200 <= len(late) <= 400
    assert timedelta(hours=2) < max(late) <= timedelta(hours=3)


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_drift_both_ways(kind):
    known = {c.name for c in parse(SPIKES[kind].schema)}
    seen = [set(orjson.loads(r.value)) for r in some(kind, 6_000)]
    assert any(keys - known for keys in seen), "some events have fields the schema does not know"
    always = set.intersection(*seen)
    assert always == set(REQUIRED[kind]), "every optional field is missing in some event"


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_skewed(kind):
    counts = Counter(r.key for r in some(kind)).most_common()
    assert counts[0][1] > 4 * counts[len(counts) // 2][1]


def test_event_times_are_late_and_out_of_order():
    times = [datetime.fromisoformat(orjson.loads(r.value)["event_time"]) for r in some("crt.payout")]
    assert all(t <= AT for t in times)
    assert times != sorted(times)
    assert max(AT - t for t in times) > timedelta(hours=1)


def test_some_events_are_filtered_in_each_filtered_application():
    assert any(orjson.loads(r.value).get("is_test") for r in some("cct.adtracking.success"))
    assert any(not orjson.loads(r.value)["consent"] for r in some("crt.session"))


def test_zipf_gives_the_first_most_and_fills_the_pool():
    pool = Counter(zipf("abcd", exponent=1))
    assert sum(pool.values()) == FACES
    assert pool["a"] > pool["b"] > pool["c"] > pool["d"]
    assert pool["a"] == pytest.approx(2 * pool["b"], rel=0.01)


def test_topic_may_take_the_events_of_another():
    assert Topic.parse("crt.payout") == Topic("crt.payout", "crt.payout")
    assert Topic.parse(" mine=crt.payout") == Topic("mine", "crt.payout")
    with pytest.raises(InvalidSpec, match=r"no events are known for 'mine': one of .*crt\.payout"):
        Topic.parse("mine")


def test_source_ends_after_its_records_and_goes_on_from_a_number():
    topic = Topic.parse("crt.payout")

    def source(first: int, records: int) -> list[Outgoing]:
        return list(
            events(topic, seed=1, numbers=count(first), records=records, shares=CLEAN, now=lambda: AT)
        )

    assert len(source(0, 5)) == 5
    assert source(3, 2) == source(0, 5)[3:]


def test_replay_sends_lines_as_they_are_with_a_field_as_key(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"id": "a", "n": 1}\r\n\n{"id": 7}\n')
    assert [(r.key, r.value) for r in lines(path, key_field="id", now=lambda: AT)] == [
        (b"a", b'{"id": "a", "n": 1}'),
        (b"7", b'{"id": 7}'),
    ]
    assert [r.key for r in lines(path, key_field=None, now=lambda: AT)] == [None, None]
    with pytest.raises(InvalidSpec, match=r"mine\.jsonl:3: no field 'n'"):
        list(lines(path, key_field="n", now=lambda: AT))


def test_lines_that_become_dead_letters_are_sent_and_the_first_few_are_told(tmp_path, caplog):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"id": 1}\n' + b"[1]\n{oh\n" * 4)
    assert len(list(lines(path, key_field=None, now=lambda: AT))) == 9
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"{path}:2: no JSON object: sent as it is, a dead letter"
    assert len(told) == 5


def test_line_that_kafka_would_not_take_is_refused_with_its_number(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 2**21)
    with pytest.raises(InvalidSpec, match=r"big\.jsonl:2: 2097152 bytes"):
        list(lines(path, key_field=None, now=lambda: AT))


def test_pace_is_the_rate_and_missed_time_is_not_made_up_for():
    pace = Pace(rate=100, started=0.0)
    assert pace.due(0.1) == 10
    pace.sent(10)
    assert pace.due(0.1) == 0
    assert pace.due(60.0) == 100, "one second's worth, not a minute's"
    pace.sent(100)
    assert pace.due(60.0) == 0
    assert pace.due(60.1) == 10, "and the rate goes on from there"
    assert Pace(rate=0, started=0.0, burst=7).due(99.0) == 7


@given(st.lists(st.floats(0, 100), max_size=20).map(sorted), st.sampled_from([0.1, 1, 7, 1000]))
def test_pace_is_never_negative_and_keeps_to_the_rate(moments, rate):
    pace = Pace(rate, started=0.0)
    total = 0
    for now in moments:
        due = pace.due(now)
        assert due >= 0
        pace.sent(due)
        total += due
    assert total <= max(moments, default=0) * rate + 1


def test_runs_are_merged():
    assert merge([(5, 6), (0, 2), (2, 5), (9, 10), (1, 3)]) == ((0, 6), (9, 10))
    assert merge([]) == ()


def test_acks_file_has_what_was_acknowledged_as_runs(tmp_path):
    path = tmp_path / "deep" / "acks.txt"
    acks = Acks(path)
    for offset in (0, 1, 2, 7):
        acks.add("t", 0, offset)
    acks.flush()
    acks.add("t", 0, 3)
    acks.add("t", 1, 0)
    acks.add("t", 1, -1)  # acknowledged on a retry: it counts, its offset is not known
    acks.close()
    assert path.read_text().splitlines()[:2] == ["t 0 0 3", "t 0 7 8"]
    assert read_acks(path) == {("t", 0): ((0, 4), (7, 8)), ("t", 1): ((0, 1),)}
    assert acks.counts() == {"t": 7}


def test_acks_line_that_was_never_finished_does_not_count_and_nonsense_is_refused(tmp_path):
    path = tmp_path / "acks.txt"
    path.write_text("t 0 0 3\nt 0 3 1")
    assert read_acks(path) == {("t", 0): ((0, 3),)}
    path.write_text("t 0 0\n")
    with pytest.raises(InvalidSpec, match=r"acks\.txt:1"):
        read_acks(path)


class FlakySender:
    """Refuses now and then, as Kafka does when a topic's leader is away; acknowledges at once."""

    def __init__(self, acks: Acks) -> None:
        self.acks = acks
        self.taken: list[bytes] = []
        self.calls = 0
        self.waiting = 0
        self.flushes = 0
        self.full = False

    def send(self, topic: str, record: Outgoing) -> None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise Transient("no leader")
        self.waiting = 1
        self.taken.append(record.value or b"")
        self.acks.add(topic, 0, len(self.taken) - 1)

    def flush(self, timeout_seconds: float) -> None:
        self.flushes += 1
        self.waiting = 0

    def failures(self) -> dict[str, int]:
        return {}


def test_record_that_kafka_does_not_take_is_sent_next_and_none_is_skipped():
    acks = Acks()
    sender = FlakySender(acks)
    source = (Outgoing(None, b"%d" % n, AT) for n in range(10))
    outcome = Loop(sender, acks, threading.Event()).run({"t": source}, rate=0)
    assert sender.taken == [b"%d" % n for n in range(10)]
    assert outcome.acknowledged == {"t": 10}
    assert outcome.complete


def test_broker_that_comes_up_later_is_waited_for_and_told_once(caplog):
    tries = iter([Transient("Kafka is away")] * 2)

    def attempt() -> str:
        error = next(tries, None)
        if error is not None:
            raise error
        return "up"

    stop = threading.Event()
    assert until_up(attempt, stop, retry_seconds=0) == "up"
    assert [r.message for r in caplog.records] == ["Kafka is away; trying until it is up"]


def test_waiting_for_the_broker_ends_when_told_to_stop():
    stop = threading.Event()
    stop.set()

    def attempt() -> None:
        raise Transient("Kafka is away")

    with pytest.raises(Transient, match="away"):
        until_up(attempt, stop)


def test_bad_line_ends_the_replay_and_what_came_before_it_is_flushed():
    def source() -> Iterator[Outgoing]:
        yield Outgoing(None, b"1", AT)
        raise InvalidSpec("mine.jsonl:2: too long")

    acks = Acks()
    sender = FlakySender(acks)
    with pytest.raises(InvalidSpec, match="too long"):
        Loop(sender, acks, threading.Event()).run({"t": source()}, rate=0)
    assert sender.flushes == 1


def test_trouble_is_told_once_however_long_it_lasts_and_so_is_its_end(caplog):
    caplog.set_level("INFO")
    acks = Acks()
    sender = FlakySender(acks)
    source = (Outgoing(None, b"%d" % n, AT) for n in range(30))
    Loop(sender, acks, threading.Event()).run({"t": source}, rate=0)
    told = [r.message for r in caplog.records]
    assert told.count("no leader") == told.count("Kafka answers again")


def test_a_number_is_given_out_once_whenever_the_producer_is_killed(tmp_path):
    """Each run is killed after some numbers: nothing is written then."""
    taken = [
        number
        for used in (1, 3, 4, 5, 9)
        for number in islice(Numbers(tmp_path / "numbers.json", block=4).of("a", first=2), used)
    ]
    assert taken[0] == 2
    assert len(taken) == len(set(taken)) == 22


def test_numbers_of_topics_are_their_own_and_first_is_not_before_what_was_taken(tmp_path):
    numbers = Numbers(tmp_path / "new" / "numbers.json", block=4)
    a, b = numbers.of("a", first=0), numbers.of("b", first=7)
    assert [next(a), next(b), next(a)] == [0, 7, 1]
    assert next(numbers.of("a", first=0)) == 4
    assert next(numbers.of("b", first=100)) == 100


@pytest.mark.parametrize("text", ["", "[]", '{"a": "x"}'])
def test_a_file_without_numbers_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "numbers.json").write_text(text)
    with pytest.raises(InvalidSpec, match=r"numbers\.json has no numbers"):
        next(Numbers(tmp_path / "numbers.json").of("a", first=0))


def test_the_stacks_producer_goes_on_behind_what_it_sent(tmp_path):
    part = Producer(1.0, 1, None, tmp_path / "acks", tmp_path / "numbers", {}, tmp_path).part()
    option = part.command.index("--numbers-file")
    assert part.command[option + 1] == str(tmp_path / "numbers")
