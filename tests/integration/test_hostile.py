"""What a hostile or broken client may send to the appender: each is refused in its own words, nothing is
written. The API is the real one over a real ledger; where bytes on the wire matter, behind a real server."""

import gzip
import json
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi.testclient import TestClient

from spike_pipelines import wire
from spike_pipelines.adapters.ledger import Tokens, register_token
from spike_pipelines.adapters.ledger.schema import metadata
from spike_pipelines.appender import app as appender
from spike_pipelines.domain.batch import BatchState
from spike_pipelines.wire import PostBatch

pytestmark = pytest.mark.real
PATH = "/v1/spikes/payouts/batches"
TOKEN = "token of payouts"


@pytest.fixture
def app(world, ledger_url):
    register_token(ledger_url, "payouts", TOKEN)
    world.spike(records=100, max_staged_batches=10)
    world.spike("session")
    tokens = Tokens(ledger_url)
    yield appender.build(world.registrar, world.ledger, world.spikes.__getitem__, tokens.allows)
    tokens.close()


@pytest.fixture
def api(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture
def body(world):
    """A batch that is right in every way."""
    driver = world.driver(world.spikes["payouts"])
    made = PostBatch.of(driver.write(), epoch=driver.token.number, nonce=driver.token.nonce)
    return made.model_dump(mode="json")


def everything(world):
    """Every row of every table; of tokens all but the last use, which a refused request is too."""
    with world.ledger.begin() as tx:
        return {
            table.name: sorted(
                str(row)
                for row in tx._db.execute(
                    table.select().with_only_columns(*(c for c in table.c if c.name != "last_used_at"))
                )
            )
            for table in metadata.sorted_tables
        }


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    error = wire.ErrorBody.model_validate(answer.json()).error
    assert error.code == code, error
    assert len(answer.content) < 2_000, "an answer does not echo what was sent"
    return error


def test_the_body_that_the_others_are_made_from_is_accepted(api, body):
    assert api.post(PATH, json=body).status_code == 201


# keys

KEYS = {
    "parent": "../00000002/part.parquet",
    "parent in the middle": "a/../../part.parquet",
    "parent at the end": "a/..",
    "dot": "a/./part.parquet",
    "only dot": ".",
    "absolute": "/etc/passwd",
    "absolute staging": "/staging/payouts/00000001/part.parquet",
    "double slash": "a//part.parquet",
    "slash at the end": "a/",
    "encoded slash": "a%2fpart.parquet",
    "encoded dots": "%2e%2e/part.parquet",
    "encoded twice": "%252e%252e/part.parquet",
    "percent": "100%.parquet",
    "backslash": "..\\part.parquet",
    "a bucket": "s3://other/part.parquet",
    "s3a": "s3a://other/part.parquet",
    "a URL": "https://example.com/part.parquet",
    "user at host": "user@host/part.parquet",
    "query": "part.parquet?versionId=1",
    "fragment": "part.parquet#1",
    "NUL": "part\x00.parquet",
    "newline": "part\n.parquet",
    "newline at the end": "part.parquet\n",
    "carriage return": "part\r.parquet",
    "tab": "a\tb",
    "escape": "a\x1b[2Jb",
    "delete": "a\x7fb",
    "space": "a b",
    "space at the end": "part.parquet ",
    "full-width dots": "\uff0e\uff0e/part.parquet",
    "full-width slash": "a\uff0fb",
    "one dot leader": "\u2024\u2024/part.parquet",
    "right-to-left override": "part\u202eteuqrap",
    "zero width": "part\u200b.parquet",
    "composed": "caf\u00e9.parquet",
    "decomposed": "cafe\u0301.parquet",
    "Arabic digits": "part-\u0661.parquet",
    "line separator": "a\u2028b",
    "emoji": "\U0001f4a9.parquet",
    "asterisk": "*.parquet",
    "tilde": "~root/part.parquet",
    "dollar": "${HOME}/part.parquet",
    "quotes": "a'b\"c",
    "SQL": "'; DROP TABLE files; --",
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_that_is_not_plain_is_refused_by_its_place(api, world, body, key):
    before = everything(world)
    body["files"][1]["key"] = key
    error = refused(api.post(PATH, json=body), 422, "bad_key")
    assert error.field == "files[1].key"
    assert everything(world) == before


def test_another_epochs_or_spikes_prefix_is_only_a_folder_below_ones_own(api, world, body):
    """There is no way to name it: a key is below the server's prefix whatever it looks like."""
    key = "staging/session/00000009/part.parquet"
    body["files"][0]["key"] = key
    number = api.post(PATH, json=body).json()["number"]
    with world.ledger.begin() as tx:
        assert tx.files(number)[0].staging_key == f"staging/payouts/00000001/{key}"


# bodies whose JSON is right


def at(*path):
    """A change of the value at that place of the body."""

    def change(body, value):
        *parents, last = path
        for step in parents:
            body = body[step]
        body[last] = value

    return change


def without(*path):
    def change(body, _):
        *parents, last = path
        for step in parents:
            body = body[step]
        del body[last]

    return change


def twice(part):
    def change(body, _):
        body[part].append(body[part][0])

    return change


def second_range(**changes):
    def change(body, _):
        body["ranges"].append({**body["ranges"][0], **changes})

    return change


R, F, H = ("ranges", 0), ("files", 0), ("hours", 0)
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
# How it is changed, the value, the code of the refusal and the field that it names: none where the ledger,
# not the body, is the reason.
BODIES = {
    # wrong types and numbers
    "offset as text": (at(*R, "start"), "0", "invalid", "body.ranges.0.start"),
    "offset as float": (at(*R, "end"), 6.0, "invalid", "body.ranges.0.end"),
    "offset as boolean": (at(*R, "start"), False, "invalid", "body.ranges.0.start"),
    "offset null": (at(*R, "end"), None, "invalid", "body.ranges.0.end"),
    "offset negative": (at(*R, "start"), -1, "invalid", "body.ranges.0.start"),
    "offset beyond 64 bits": (at(*R, "end"), 2**63, "invalid", "body.ranges.0.end"),
    "offset of 4000 digits": (at(*R, "end"), 10**4000, "invalid", "body.ranges.0.end"),
    "offset beyond the broker": (at(*R, "end"), 101, "invalid", "ranges[0].end"),
    "end before start": (at(*R, "start"), 7, "invalid", "body.ranges.0"),
    "empty range": (at(*R, "end"), 0, "invalid", "ranges"),
    "partition negative": (at(*R, "partition"), -1, "invalid", "body.ranges.0.partition"),
    "partition beyond 32 bits": (at(*R, "partition"), 2**31, "invalid", "body.ranges.0.partition"),
    "partition that is not there": (at(*R, "partition"), 5, "invalid", "ranges[0].partition"),
    "topic of another spike": (at(*R, "topic"), "session-topic", "invalid", "ranges[0].topic"),
    "topic as a list": (at(*R, "topic"), ["payouts-topic"], "invalid", "body.ranges.0.topic"),
    "rows zero": (at(*F, "rows"), 0, "invalid", "body.files.0.rows"),
    "rows as text": (at(*F, "rows"), "2", "invalid", "body.files.0.rows"),
    "size negative": (at(*F, "size"), -1, "invalid", "body.files.0.size"),
    "size as exponent": (at(*F, "size"), 1e300, "invalid", "body.files.0.size"),
    "etag with quotes": (at(*F, "etag"), '"abc"', "invalid", "body.files.0.etag"),
    "etag empty": (at(*F, "etag"), "", "invalid", "body.files.0.etag"),
    "etag any": (at(*F, "etag"), "*", "invalid", "body.files.0.etag"),
    "kind unknown": (at(*F, "kind"), "FINAL", "invalid", "body.files.0.kind"),
    "key as object": (at(*F, "key"), {"bucket": "b"}, "invalid", "body.files.0.key"),
    "key empty": (at(*F, "key"), "", "invalid", "body.files.0.key"),
    "key of 901": (at(*F, "key"), "k" * 901, "invalid", "body.files.0.key"),
    "read as boolean": (at("read"), True, "invalid", "body.read"),
    "read negative": (at("read"), -6, "invalid", "body.read"),
    "epoch zero": (at("epoch"), 0, "invalid", "body.epoch"),
    "epoch as text": (at("epoch"), "1", "invalid", "body.epoch"),
    "nonce empty": (at("nonce"), "", "invalid", "body.nonce"),
    "nonce with NUL": (at("nonce"), "a\x00", "invalid", "body.nonce"),
    "nonce with a lone surrogate": (at("nonce"), "\ud800", "invalid", "body.nonce"),
    "nonce as object": (at("nonce"), {"$ne": None}, "invalid", "body.nonce"),
    "deep nesting in a field": (at("files"), DEEP, "invalid", "body.files.0"),
    "ranges as object": (at("ranges"), {"0": 1}, "invalid", "body.ranges"),
    "no ranges": (at("ranges"), [], "invalid", "body.ranges"),
    "version of two lines": (at("application_version"), "1\n2", "invalid", "body.application_version"),
    # hours
    "hour that is not full": (at(*F, "hour"), "2026-11-22T21:00:01Z", "invalid", "files[0].hour"),
    "hour without zone": (at(*F, "hour"), "2026-11-22T21:00:00", "invalid", "body.files.0.hour"),
    "hour as a number": (at(*F, "hour"), 1_795_381_200, "invalid", "body.files.0.hour"),
    "hour as a number in text": (at(*F, "hour"), "1795381200", "invalid", "body.files.0.hour"),
    "hour of half an hour's zone": (at(*F, "hour"), "2026-11-22T21:00:00+05:30", "invalid", "files[0].hour"),
    "hour without counts": (at(*F, "hour"), "2026-11-22T20:00:00Z", "invalid", "files[0].hour"),
    "hour of day 32": (at(*F, "hour"), "2026-11-32T21:00:00Z", "invalid", "body.files.0.hour"),
    "hour beyond the calendar": (at(*H, "hour"), "0001-01-01T00:00:00+01:00", "invalid", "hours"),
    "hour of a date": (at(*H, "hour"), "2026-11-22", "invalid", "body.hours.0.hour"),
    "counts beyond 64 bits together": (at(*H, "final"), 2**62, "invalid", "hours"),
    # fields
    "field missing": (without("files"), None, "invalid", "body.files"),
    "field missing in a file": (without(*F, "etag"), None, "invalid", "body.files.0.etag"),
    "field missing in a range": (without(*R, "topic_id"), None, "invalid", "body.ranges.0.topic_id"),
    "field unknown": (at("bucket"), "other", "invalid", "body.bucket"),
    "field unknown in a file": (at(*F, "bucket"), "other", "invalid", "body.files.0.bucket"),
    "field of Python": (at("__class__"), "x", "invalid", "body.__class__"),
    # twice
    "file twice": (twice("files"), None, "duplicate", "files[3].key"),
    "hour twice": (twice("hours"), None, "duplicate", "hours"),
    "partition twice": (second_range(start=6, end=9), None, "duplicate", "ranges[1]"),
    "ranges that overlap": (second_range(start=3, end=9), None, "duplicate", "ranges[1]"),
    "partition twice by topic id": (second_range(topic_id="other"), None, "duplicate", "ranges[1]"),
    # against the ledger
    "epoch of the future": (at("epoch"), 2, "fenced", None),
    "nonce guessed": (at("nonce"), "0" * 32, "fenced", None),
    "topic id guessed": (at(*R, "topic_id"), "guess", "topic_changed", None),
    "range that leaves records out": (at(*R, "start"), 1, "gap", None),
}  # fmt: skip
STATUS = {"fenced": 409, "topic_changed": 409, "gap": 409}


@pytest.mark.parametrize(("change", "value", "code", "field"), BODIES.values(), ids=BODIES)
def test_a_body_that_is_not_right_is_refused_for_that_and_nothing_is_written(  # noqa: PLR0917
    api, world, body, change, value, code, field
):
    before = everything(world)
    change(body, value)
    answer = api.post(PATH, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert refused(answer, STATUS.get(code, 422), code).field == field
    assert everything(world) == before


@pytest.mark.parametrize(
    ("part", "count"),
    [("files", wire.MAX_FILES + 1), ("hours", wire.MAX_HOURS + 1), ("ranges", wire.MAX_PARTITIONS + 1)],
)
def test_a_giant_list_is_refused(api, world, body, part, count):
    before = everything(world)
    error = refused(api.post(PATH, json={**body, part: body[part][:1] * count}), 422, "too_large")
    assert error.field == f"body.{part}"
    assert everything(world) == before


def test_a_file_registered_with_one_batch_is_not_registered_with_another(api, world, body):
    """Its records would be there twice, with offsets and counts that look right."""
    assert api.post(PATH, json=body).status_code == 201
    before = everything(world)
    again = {**body, "ranges": [{**body["ranges"][0], "start": 6, "end": 12}]}
    error = refused(api.post(PATH, json=again), 422, "duplicate")
    assert error.field == "files"
    assert everything(world) == before


def test_an_overlapping_batch_is_refused(api, world, body):
    assert api.post(PATH, json=body).status_code == 201
    before = everything(world)
    refused(api.post(PATH, json={**body, "ranges": [{**body["ranges"][0], "end": 9}]}), 409, "overlap")
    assert everything(world) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (at(*H, "final"), "hours[0].final"),
        (at(*H, "dead_letter"), "hours[0].dead_letter"),
        (at(*F, "rows"), "hours[0].final"),
    ],
    ids=["final", "dead letters", "rows"],
)
def test_counts_that_are_not_the_files_rows_are_refused_with_their_field(api, world, body, change, field):
    before = everything(world)
    change(body, 50)
    assert refused(api.post(PATH, json=body), 422, "invalid").field == field
    assert everything(world) == before


@pytest.mark.parametrize("change", [at("read"), at(*H, "filtered")], ids=["read", "filtered"])
def test_wrong_totals_are_never_visible_and_held_for_a_person(api, world, body, change):
    """Not refused: a driver would send them for ever. The appender counts by itself (I8)."""
    change(body, 50)
    assert api.post(PATH, json=body).status_code == 201
    spike = world.spikes["payouts"]
    world.settle(spike)
    (batch,) = world.ledger.last_batches("payouts", 10)
    assert batch.state is BatchState.HELD
    assert (world.keys("final/"), world.dataset(spike).sequence) == ([], 0)


# bodies that are no JSON, or not what they say

PLAIN = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PARTS = {"Content-Type": "multipart/form-data; boundary=b"}
BYTES = {
    "nothing": (b"", PLAIN, 400, "malformed"),
    "cut off": (b'{"epoch": 1', PLAIN, 400, "malformed"),
    "two documents": (b"{}{}", PLAIN, 400, "malformed"),
    "comment": (b"{} // ok", PLAIN, 400, "malformed"),
    "NaN": (b'{"read": NaN}', PLAIN, 400, "malformed"),
    "Infinity": (b'{"read": -Infinity}', PLAIN, 400, "malformed"),
    "single quotes": (b"{'epoch': 1}", PLAIN, 400, "malformed"),
    "Latin-1": (b'{"nonce": "\xe9"}', PLAIN, 400, "malformed"),
    "overlong UTF-8": (b'{"nonce": "\xc0\xae"}', PLAIN, 400, "malformed"),
    "UTF-16": ('{"epoch": 1}'.encode("utf-16"), PLAIN, 400, "malformed"),
    "byte order mark": (b"\xef\xbb\xbf{}", PLAIN, 400, "malformed"),
    "100,000 lists deep": (b"[" * 100_000, PLAIN, 400, "malformed"),
    "100,000 objects deep": (b'{"a":' * 100_000, PLAIN, 400, "malformed"),
    "a number of a million digits": (b'{"read": ' + b"9" * 1_000_000 + b"}", PLAIN, 400, "malformed"),
    "member twice": (b'{"epoch": 1, "epoch": 2}', PLAIN, 422, "duplicate"),
    "member twice, escaped": (b'{"epoch": 1, "\\u0065poch": 2}', PLAIN, 422, "duplicate"),
    "member twice, deep": (b'{"files": [{"key": "a", "key": "../b"}]}', PLAIN, 422, "duplicate"),
    "list": (b"[]", PLAIN, 422, "invalid"),
    "null": (b"null", PLAIN, 422, "invalid"),
    "text": (b'"batch"', PLAIN, 422, "invalid"),
    "form": (b"epoch=1", FORM, 415, "unsupported_media_type"),
    "plain text": (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    "no type": (b"{}", {}, 415, "unsupported_media_type"),
    "multipart": (b"--b--", PARTS, 415, "unsupported_media_type"),
    "gzip bomb": (
        gzip.compress(b"[" + b"0," * 50_000_000 + b"0]", 9)[: 1024 * 1024],
        {**PLAIN, "Content-Encoding": "gzip"}, 415, "unsupported_media_type",
    ),
    "gzip not said": (gzip.compress(b"{}"), PLAIN, 400, "malformed"),
    "too large": (b" " * (wire.MAX_BODY_BYTES + 1), PLAIN, 413, "too_large"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "headers", "status", "code"), BYTES.values(), ids=BYTES)
def test_what_is_no_json_is_refused_and_nothing_is_written(api, world, content, headers, status, code):  # noqa: PLR0917
    before = everything(world)
    for path in (PATH, "/v1/spikes/payouts/epochs", "/v1/spikes/payouts/heartbeat"):
        refused(api.post(path, content=content, headers=headers), status, code)
    assert everything(world) == before


def test_a_strangers_body_is_not_even_parsed(api):
    """Or anybody could keep the appender busy with nonsense."""
    answer = api.post(PATH, content=b"{", headers={**PLAIN, "Authorization": "Bearer wrong"})
    refused(answer, 401, "unauthorized")


def test_one_spike_cannot_post_for_another(api, world, body, ledger_url):
    register_token(ledger_url, "session", "token of session")
    before = everything(world)
    answer = api.post(PATH, json=body, headers={"Authorization": "Bearer token of session"})
    refused(answer, 401, "unauthorized")
    refused(api.post("/v1/spikes/session/batches", json=body), 401, "unauthorized")
    assert everything(world) == before


# bytes on the wire


@contextmanager
def served(app):
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who connects before the server runs waits
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(30)


def head(length):
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_does_not_arrive_is_given_up_and_the_connection_closed(world, ledger_url, monkeypatch):
    monkeypatch.setattr(appender, "BODY_SECONDS", 0.3)
    register_token(ledger_url, "payouts", TOKEN)
    world.spike()
    app = appender.build(world.registrar, world.ledger, world.spikes.__getitem__, Tokens(ledger_url).allows)
    with served(app) as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(head(1000) + b'{"epoch": 1')
        answer = b""
        while piece := client.recv(4096):  # until the server closes
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"too_slow"' in answer
    assert world.ledger.backlog() == ()


def test_a_client_that_goes_away_in_the_middle_of_a_body_writes_nothing(app, world, body):
    text = json.dumps(body).encode()
    before = everything(world)
    with served(app) as address:
        with socket.create_connection(address, timeout=20) as client:
            client.sendall(head(len(text)) + text[:-1])
        with socket.create_connection(address, timeout=20) as client:  # and the server goes on
            client.sendall(head(len(text)) + text)
            assert client.recv(12) == b"HTTP/1.1 201"
    assert everything(world)["epochs"] == before["epochs"]
    assert world.ledger.backlog()[0].batches == 1


def test_there_are_at_least_sixty_of_them():
    assert len(KEYS) + len(BODIES) + len(BYTES) >= 60
