"""The appender API as a driver meets it: over HTTP, a real ledger behind it."""

import shutil
from dataclasses import replace

import pytest
from builders import BUCKET, HOUR, IDLE_LIMIT, World
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from spike_pipelines import wire
from spike_pipelines.adapters.ledger import SqlLedger, Tokens, register_token
from spike_pipelines.appender import app as appender
from spike_pipelines.appender.app import build
from spike_pipelines.appender.application_folder import ApplicationFolder
from spike_pipelines.appender.errors import UnknownSpike
from spike_pipelines.domain.errors import Transient
from spike_pipelines.services.register import Registrar
from spike_pipelines.settings import Settings
from spike_pipelines.wire import PostBatch

pytestmark = pytest.mark.real

NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def spike(world):
    return world.spike()


@pytest.fixture
def api(world: World, spike, ledger_url):
    for name in ("payouts", "session", "nobody"):
        register_token(ledger_url, name, f"token of {name}")

    def find(name):
        if name not in world.spikes:
            raise UnknownSpike(f"no application file describes a spike named {name!r}")
        return world.spikes[name]

    app = build(world.registrar, world.ledger, find, Tokens(ledger_url).allows)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = "Bearer token of payouts"
        yield client


def error(response, status, code, field=...):
    assert response.status_code == status, response.text
    body = wire.ErrorBody.model_validate(response.json()).error
    assert body.code == code
    assert body.message
    if field is not ...:
        assert body.field == field
    return body


def open_epoch(api, driver="a", after=None):
    return api.post("/v1/spikes/payouts/epochs", json={"driver": driver, "after": after})


def body_of(world, spike, **changes):
    """The next batch of driver `a`, written to staging, as JSON."""
    driver = world.driver(spike)
    post = PostBatch.of(driver.write(), epoch=driver.token.number, nonce=driver.token.nonce)
    return {**post.model_dump(mode="json"), **changes}


def post(api, body):
    return api.post("/v1/spikes/payouts/batches", json=body)


# the conversation


def test_a_driver_opens_registers_beats_and_is_seen(api, world, spike):
    granted = open_epoch(api)
    grant = wire.EpochGrant.model_validate(granted.json())
    assert granted.status_code == 201
    assert (grant.epoch, grant.staging_prefix) == (1, "staging/payouts/00000001/")
    assert [o.offset for o in grant.offsets] == [0]
    assert grant.heartbeat_seconds < grant.idle_seconds / 3

    body = body_of(world, spike)
    first, again = post(api, body), post(api, body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()

    token = {"epoch": grant.epoch, "nonce": grant.nonce}
    beat = {
        **token,
        "phase": "waiting",
        "problem": "appender behind",
        "read_offsets": granted.json()["offsets"],
    }
    assert api.post("/v1/spikes/payouts/heartbeat", json=beat).json() == {"ok": True}

    status = wire.SpikeStatus.model_validate(api.get("/v1/spikes/payouts").json())
    assert (status.epoch, status.driver, status.phase, status.problem) == (
        1,
        "a",
        "waiting",
        "appender behind",
    )
    assert ([o.offset for o in status.staged], [o.offset for o in status.committed]) == ([6], [0])
    assert status.unfinished_batches == 1
    (batch,) = api.get("/v1/spikes/payouts/batches").json()
    assert (batch["state"], batch["read"], batch["number"]) == ("staged", 6, first.json()["number"])


def test_a_spike_that_never_ran_has_a_status(api):
    status = wire.SpikeStatus.model_validate(api.get("/v1/spikes/payouts").json())
    assert (status.epoch, status.driver, status.staged) == (0, None, [])


def test_a_newcomer_is_held_and_told_when_to_ask_again(api):
    open_epoch(api)
    held = open_epoch(api, "b")
    error(held, 409, "held")
    assert 1 <= int(held.headers["Retry-After"]) <= 5


def test_beyond_the_bound_the_answer_is_429_with_retry_after(api, world, spike):
    world.spikes["payouts"] = replace(spike, max_staged_batches=1)
    post(api, body_of(world, spike))
    body = body_of(world, spike)
    body["ranges"][0]["end"] += 1
    full = post(api, body)
    error(full, 429, "too_many_staged")
    assert int(full.headers["Retry-After"]) >= 1


def changed(part, **changes):
    def change(body):
        target = body if part is None else body[part][0]
        target.update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        (changed(None, nonce="other"), 409, "fenced", None),
        (changed(None, epoch=2), 409, "fenced", None),
        (changed("ranges", start=1), 409, "gap", None),
        (changed("ranges", topic_id="other"), 409, "topic_changed", None),
        (changed("ranges", end=101), 422, "invalid", "ranges[0].end"),
        (changed("ranges", topic="secret"), 422, "invalid", "ranges[0].topic"),
        (changed("ranges", partition=9), 422, "invalid", "ranges[0].partition"),
        (changed("ranges", start=-1), 422, "invalid", "body.ranges.0.start"),
        (changed("ranges", partition=2**31), 422, "invalid", "body.ranges.0.partition"),
        (changed("ranges", start=7), 422, "invalid", "body.ranges.0"),
        (changed(None, ranges=[]), 422, "invalid", "body.ranges"),
        (changed(None, colour="red"), 422, "invalid", "body.colour"),
        (changed("files", bucket="other"), 422, "invalid", "body.files.0.bucket"),
        (changed("files", key="../other"), 422, "bad_key", "files[0].key"),
        (changed("files", key="k" * 901), 422, "invalid", "body.files.0.key"),
        (changed("files", rows=0), 422, "invalid", "body.files.0.rows"),
        (changed("files", etag='"quoted"'), 422, "invalid", "body.files.0.etag"),
        (changed("files", kind="other"), 422, "invalid", "body.files.0.kind"),
        (changed("files", hour="2026-11-22T21:00:00"), 422, "invalid", "body.files.0.hour"),
        (changed("files", hour="2026-11-22T21:30:00Z"), 422, "invalid", "files[0].hour"),
        (changed("files", hour="0001-01-01T00:00:00+01:00"), 422, "invalid", "files[0].hour"),
        (changed("hours", final=2**63), 422, "invalid", "body.hours.0.final"),
        (changed("hours", final=2**62, filtered=2**62), 422, "invalid", "hours"),
        (changed(None, read=-1), 422, "invalid", "body.read"),
        (changed(None, read=2**62 + 1), 422, "invalid", "body.read"),
        (changed(None, nonce="\x00"), 422, "invalid", "body.nonce"),
        (changed(None, application_version="a\x00b"), 422, "invalid", "body.application_version"),
    ],
)  # fmt: skip
def test_a_batch_that_is_not_right_is_refused_with_code_and_field(  # noqa: PLR0917 - a table
    api, world, spike, change, status, code, field
):
    body = body_of(world, spike)
    change(body)
    error(post(api, body), status, code, field)
    assert world.ledger.backlog() == ()


def test_lists_are_bounded(api, world, spike):
    body = body_of(world, spike)
    body["files"] = body["files"][:1] * (wire.MAX_FILES + 1)
    error(post(api, body), 422, "too_large", "body.files")


def test_an_overlap_and_a_fenced_heartbeat_are_conflicts(api, world, spike):
    first = body_of(world, spike)
    post(api, first)
    first["ranges"][0]["end"] += 1
    error(post(api, first), 409, "overlap")
    beat = {"epoch": 1, "nonce": "other", "phase": "reading"}
    error(api.post("/v1/spikes/payouts/heartbeat", json=beat), 409, "fenced")


@pytest.mark.parametrize(
    "body",
    [
        {"epoch": 1, "nonce": "n", "phase": "dreaming"},
        {"epoch": 1, "nonce": "n\x00", "phase": "reading"},
        {"epoch": 0, "nonce": "n", "phase": "reading"},
        {"epoch": 1, "nonce": "n", "phase": "reading", "problem": "p" * 2001},
    ],
)
def test_a_heartbeat_that_is_not_right_is_refused(api, body):
    error(api.post("/v1/spikes/payouts/heartbeat", json=body), 422, "invalid")


def test_a_problem_may_have_several_lines_and_any_characters(api):
    nonce = open_epoch(api).json()["nonce"]
    beat = {"epoch": 1, "nonce": nonce, "phase": "retrying", "problem": "line\n\tline ü € \x00"}
    assert api.post("/v1/spikes/payouts/heartbeat", json=beat).status_code == 200


@pytest.mark.parametrize("driver", ["", "d" * 257, "a\x00b", "a\nb", None, 7])
def test_a_driver_must_have_a_name_that_can_be_kept(api, driver):
    error(open_epoch(api, driver), 422, "invalid", "body.driver")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"driver": "\\ud800"}', b"[" * 100_000],
    ids=["empty", "cut off", "list", "null", "string", "not UTF-8", "lone surrogate", "deep"],
)
def test_what_is_not_the_json_of_an_epoch_request_is_refused(api, content):
    answer = api.post(
        "/v1/spikes/payouts/epochs", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}
    wire.ErrorBody.model_validate(answer.json())


# who may speak


ROUTES = [
    ("POST", "/v1/spikes/{name}/epochs"),
    ("POST", "/v1/spikes/{name}/batches"),
    ("POST", "/v1/spikes/{name}/heartbeat"),
    ("GET", "/v1/spikes/{name}"),
    ("GET", "/v1/spikes/{name}/batches"),
]
STRANGERS = [None, "Bearer wrong", "Bearer token of session", "Bearer ", "Basic dG9rZW4=", "token of payouts"]


@pytest.mark.parametrize("credentials", STRANGERS)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_a_spikes_own_token_speaks_for_it(api, method, path, credentials):
    headers = {} if credentials is None else {"Authorization": credentials}
    del api.headers["Authorization"]
    answer = api.request(method, path.format(name="payouts"), json={}, headers=headers)
    error(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def by_driver(api, name, driver, token="wrong"):
    headers = {"Authorization": f"Bearer {token}", "spike-driver": driver}
    error(api.post(f"/v1/spikes/{name}/heartbeat", json={}, headers=headers), 401, "unauthorized")


def test_a_driver_whose_token_is_refused_is_noted_with_the_way_out(api, world):
    by_driver(api, "payouts", "a")
    refusal = world.ledger.refusals()["payouts"]
    assert (refusal.code, refusal.driver) == ("unauthorized", "a")
    assert "`spike token rotate payouts`" in refusal.message
    open_epoch(api)
    assert not world.ledger.refusals()


def test_what_strangers_ask_is_noted_of_known_spikes_only_and_seldom(api, world, monkeypatch):
    monkeypatch.setattr(appender, "NOTE_SECONDS", 3600.0)  # however long all these requests take
    for number in range(20):
        by_driver(api, "payouts", f"driver-{number}")
        by_driver(api, "never", f"driver-{number}")
        by_driver(api, "payouts", "not a name")
    assert {name: r.driver for name, r in world.ledger.refusals().items()} == {"payouts": "driver-0"}


def test_a_refused_token_does_not_hide_what_a_person_has_to_decide(api, world, spike):
    world.registrar.note_refusal(spike, "lost", "records are gone", "a")
    by_driver(api, "payouts", "a")
    assert world.ledger.refusals()["payouts"].code == "lost"


def test_a_stranger_is_not_told_which_spikes_exist(api):
    known = api.get("/v1/spikes/payouts", headers={"Authorization": "Bearer wrong"}).json()
    unknown = api.get("/v1/spikes/never", headers={"Authorization": "Bearer wrong"}).json()
    assert str(known).replace("payouts", "") == str(unknown).replace("never", "")


def test_a_spike_without_application_file_is_unknown_to_its_own_driver(api):
    answer = api.get("/v1/spikes/nobody", headers={"Authorization": "Bearer token of nobody"})
    error(answer, 404, "unknown_spike")


@pytest.mark.parametrize("name", ["%00", "a%00b", "..", "%2e%2e", "a%0ab", "ä", "x" * 300])
def test_a_strange_name_in_a_path_is_no_servers_error(api, name):
    assert 400 <= api.get(f"/v1/spikes/{name}/batches").status_code < 500


@pytest.mark.parametrize("limit", [0, 1001, "x"])
def test_the_number_of_batches_told_is_bounded(api, limit):
    error(api.get(f"/v1/spikes/payouts/batches?limit={limit}"), 422, "invalid", "query.limit")


# bounds, trouble, and what can be seen


def test_a_body_that_says_it_is_too_large_is_refused_unread(api):
    large = b"x" * (wire.MAX_BODY_BYTES + 1)
    error(api.post("/v1/spikes/payouts/batches", content=large), 413, "too_large")


def test_a_body_that_does_not_say_its_length_is_bounded_too(api):
    pieces = (b" " * 65536 for _ in range(wire.MAX_BODY_BYTES // 65536 + 2))
    headers = {"Content-Type": "application/json"}
    error(api.post("/v1/spikes/payouts/batches", content=pieces, headers=headers), 413, "too_large")


def test_a_large_body_within_the_limit_is_read(api, world, spike):
    body = body_of(world, spike)
    file = body["files"][0]
    files = [{**file, "key": f"{'k' * 200}/{i}"} for i in range(9_000)]
    hours = [{**body["hours"][0], "final": 9_000 * file["rows"], "dead_letter": 0}]
    assert post(api, {**body, "files": files, "hours": hours}).status_code == 201


def test_trouble_outside_is_503_and_said_to_pass(api, world):
    world.broker.up = False
    answer = open_epoch(api)
    error(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_topic_that_does_not_exist_yet_is_told_and_noted(api, world, spike):
    world.broker.delete(spike.topic)
    error(open_epoch(api), 503, "topic_missing")
    noted = world.ledger.refusals()["payouts"]
    assert (noted.code, noted.driver) == ("topic_missing", "a")
    world.broker.create(spike.topic)
    assert open_epoch(api).status_code == 201
    assert world.ledger.refusals() == {}


def test_waiting_for_another_driver_is_not_noted_as_trouble(api, world):
    open_epoch(api)
    open_epoch(api, "b")
    assert world.ledger.refusals() == {}


def test_lost_records_are_told_and_noted(api, world, spike):
    open_epoch(api)
    world.broker.delete_records(spike.topic, 0, before=9)
    error(open_epoch(api, after=1), 409, "lost")
    assert world.ledger.refusals()["payouts"].code == "lost"


def test_without_its_database_the_appender_lives_and_is_not_ready(world):
    ledger = SqlLedger(NOWHERE)
    app = build(
        Registrar(ledger, world.broker, IDLE_LIMIT),
        ledger,
        lambda name: world.spike(),
        Tokens(NOWHERE).allows,
    )
    with TestClient(app, raise_server_exceptions=False) as api:
        assert api.get("/healthz").status_code == 200
        for path in ("/readyz", "/metrics", "/v1/spikes/payouts"):
            answer = api.get(path, headers={"Authorization": "Bearer x"})
            assert error(answer, 503, "unavailable").message.startswith("the ledger database does not answer")
            assert "Retry-After" in answer.headers
    ledger.close()


def test_with_its_database_the_appender_is_ready(api):
    assert api.get("/readyz").json() == {"ok": True}


def test_health_tells_for_how_long_the_appender_has_answered(api):
    first, second = (api.get("/healthz").json() for _ in range(2))
    assert first["ok"]
    assert 0 <= first["up_seconds"] <= second["up_seconds"]


def test_metrics_tell_backlog_and_sequence_numbers(api, world, spike):
    driver = world.driver(spike)
    driver.stage(), driver.stage()
    world.promoter().promote(spike, limit=1)
    world.execute("UPDATE batches SET staged_at = staged_at - interval '1 hour' WHERE state = 'staged'")
    page = api.get("/metrics")
    samples = {
        sample.name: (sample.labels["spike"], sample.value)
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if "spike" in sample.labels  # others are of the whole ledger
    }
    name, age = samples.pop("spike_oldest_batch_age_seconds")
    assert (name, 3_600 <= age < 3_700) == ("payouts", True)
    assert (
        samples.items()
        >= {
            "spike_unfinished_batches": ("payouts", 1),
            "spike_held": ("payouts", 0),
            "spike_dataset_sequence": ("payouts", 1),
            "spike_dataset_published_sequence": ("payouts", 0),
            "spike_commits_total": ("payouts", 1),
        }.items()
    )


def test_openapi_has_every_call_of_the_protocol(api):
    paths = api.get("/openapi.json").json()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served == {*ROUTES, ("GET", "/healthz"), ("GET", "/readyz")}


def test_an_unknown_path_and_method_answer_in_the_same_words(api):
    error(api.get("/v2"), 404, "invalid")
    error(api.delete("/v1/spikes/payouts"), 405, "invalid")


def test_an_application_file_added_later_is_found(tmp_path):
    source = next(Settings().applications_dir.glob("crt-payout*.yaml"))
    applications = ApplicationFolder(tmp_path)
    with pytest.raises(UnknownSpike):
        applications.get("crt-payout-v1-1.0")
    shutil.copy(source, tmp_path)
    assert applications.get("crt-payout-v1-1.0").topic
    (tmp_path / source.name).unlink()
    with pytest.raises(UnknownSpike):
        applications.get("crt-payout-v1-1.0")


def test_a_mistake_in_one_application_file_does_not_stop_the_other_spikes(tmp_path):
    for source in Settings().applications_dir.glob("crt-*.yaml"):
        shutil.copy(source, tmp_path)
    applications = ApplicationFolder(tmp_path)
    good = applications.get("crt-payout-v1-1.0")
    (tmp_path / "broken.yaml").write_text("name: [")
    assert applications.get("crt-payout-v1-1.0") == good
    with pytest.raises(Transient, match=r"broken\.yaml"):
        applications.get("broken")
    (tmp_path / "crt-payout-v1-1.0.yaml").write_text("name: [")
    assert applications.get("crt-payout-v1-1.0") == good, "what was read of it before goes on"
    (tmp_path / "broken.yaml").unlink()
    (tmp_path / "crt-payout-v1-1.0.yaml").unlink()
    with pytest.raises(UnknownSpike):
        applications.get("broken")


def test_an_appender_that_starts_beside_a_mistake_lets_drivers_wait(tmp_path):
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(Transient, match="application files cannot be read"):
        ApplicationFolder(tmp_path).get("crt-payout-v1-1.0")


def test_what_was_registered_over_http_is_promoted(api, world, spike):
    post(api, body_of(world, spike))
    world.settle(spike)
    assert world.keys("staging/") == []
    assert [info.size > 0 for info in world.store.list(BUCKET, "final/")] == [True] * 3
    assert api.get("/v1/spikes/payouts/batches").json()[0]["state"] == "committed"
    assert HOUR.isoformat()[:13] in world.keys("final/")[0]
