"""What an API server does on a bad day, and that nobody is judged by it (I12)."""

import threading
import time
from dataclasses import replace

import pytest
from sites import Site, fake_connection

from spike_pipelines.adapters.kubernetes import api
from spike_pipelines.domain.errors import Conflict, SpikeError, Transient


@pytest.fixture
def site(fake):
    naps = []
    connection = fake_connection(fake, seconds=1.0, sleep=naps.append)
    made = Site(connection, "tests", fake)
    made.naps = naps
    yield made
    connection.close()


@pytest.fixture
def pages_of_one(fake, monkeypatch):
    fake.paged = True
    monkeypatch.setattr(api, "PAGE", 1)


def names(site):
    return [app.name for app in site.cluster.applications()]


def test_too_many_requests_are_repeated_once_after_the_time_that_was_asked_for(site, fake):
    site.deploy()
    fake.fail(429, times=1, Retry_After="2")
    assert (names(site), site.naps) == (["payouts"], [2.0])


def test_and_left_to_the_next_tick_if_that_does_not_help_or_takes_long(site, fake):
    fake.fail(429, times=2, Retry_After="1")
    with pytest.raises(Transient, match="429"):
        names(site)
    fake.fail(429, Retry_After="60")
    with pytest.raises(Transient, match="429"):
        names(site)
    assert site.naps == [1.0]


def test_a_list_that_expired_is_begun_again(site, fake, pages_of_one):
    site.deploy(), site.deploy("session")
    fake.fail(410, "continue token is too old", matches=lambda method, path: bool(continued(fake)))
    assert names(site) == ["payouts", "session"]
    assert [q.get("continue") for _, _, q in lists(fake)] == [None, "1", None, "1"]


def test_a_page_that_fails_fails_the_list(site, fake, pages_of_one):
    site.deploy(), site.deploy("session")
    fake.fail(500, matches=lambda method, path: bool(continued(fake)))
    with pytest.raises(Transient, match="500"):
        names(site)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ('sparkapplications is forbidden: User "dagster" cannot patch resource', True),
        ("admission webhook limits.example.com denied the request: at most 600m", False),
    ],
)
def test_what_a_policy_refuses_is_not_blamed_on_the_role(site, fake, said, hint):
    site.deploy()
    (app,) = site.cluster.applications()
    fake.fail(403, said)
    with pytest.raises(Transient) as told:
        site.cluster.kick(app)
    assert said in str(told.value)
    assert ("lacks this verb" in str(told.value)) is hint


@pytest.mark.parametrize("status", [403, 404, 500, 502, 503])
def test_a_refused_list_is_no_empty_list(site, fake, status):
    site.deploy()
    fake.fail(status, "no", times=2)
    with pytest.raises(SpikeError, match=str(status)):
        names(site)


def test_half_an_answer_is_none(site, fake):
    site.deploy()
    fake.break_off()
    with pytest.raises(Transient):
        names(site)


def test_an_answer_that_is_no_list_is_none(site, fake):
    fake.fail(200, "not what was asked for")
    with pytest.raises(Transient, match="no list"):
        names(site)


@pytest.mark.parametrize("slow", ["hang", "trickle"])
def test_a_slow_answer_has_a_hard_end(site, fake, slow):
    getattr(fake, slow)(5)
    began = time.monotonic()
    with pytest.raises(Transient):
        names(site)
    assert time.monotonic() - began < 3


def test_an_api_server_that_comes_back_is_found_again(site, fake):
    site.deploy()
    assert names(site) == ["payouts"]
    port = fake.server.server_port
    fake.stop()
    with pytest.raises(Transient, match="did not answer"):
        names(site)
    handler = fake.server.RequestHandlerClass
    fake.server = type(fake.server)(("127.0.0.1", port), handler)
    threading.Thread(target=fake.server.serve_forever, daemon=True).start()
    assert names(site) == ["payouts"]


def test_a_token_that_expired_is_read_anew(site, fake):
    site.deploy()
    settings = site.api.connection.configuration
    settings.api_key["authorization"] = "Bearer old"

    def renew(configuration):
        if len(fake.requests) > 1:  # the kubelet has written a new one meanwhile
            configuration.api_key["authorization"] = "Bearer good"

    settings.refresh_api_key_hook = renew
    assert names(site) == ["payouts"]


def test_a_token_that_stays_refused_says_so(site, fake):
    settings = site.api.connection.configuration
    settings.api_key["authorization"] = "Bearer old"
    settings.refresh_api_key_hook = lambda configuration: None
    with pytest.raises(Transient, match="is it expired"):
        names(site)


def test_a_lost_answer_to_a_creation_is_no_second_one(site, fake):
    site.deploy()
    manifest = site.cluster.manifest(site.cluster.applications()[0])
    site.delete()
    site.cluster.recreate(manifest)
    site.cluster.recreate(manifest)
    assert names(site) == ["payouts"]


def test_clues_that_cannot_be_had_fail_nothing_and_are_logged(site, fake, caplog):
    site.deploy()
    site.submit()
    (app,) = site.cluster.applications()
    fake.fail(500, times=9)
    clues = site.cluster.clues(app, 5)
    assert (clues.log, clues.events) == ((), ())
    assert "payouts: a clue could not be had" in caplog.text
    assert "500" in caplog.text
    site.cluster.tell(app, "SpikeStuck", "no one listens")


def test_a_conflict_is_not_repeated(site, fake):
    site.deploy()
    (app,) = site.cluster.applications()
    site.annotate(note="somebody was here")
    before = len(fake.requests)
    with pytest.raises(Conflict):
        site.cluster.kick(app)
    assert len(fake.requests) == before + 1


@pytest.fixture
def changed(site):
    """A resource that was changed since, and since when."""
    site.deploy()
    before = site.cluster.applications()[0].as_of
    site.submit()
    return site.cluster.applications()[0], before


def test_what_the_server_has_forgotten_is_no_history(site, fake, changed):
    fake.forget()
    with pytest.raises(api.Expired, match="too old"):
        site.cluster.history(*changed)


@pytest.mark.parametrize("status", [403, 410, 429, 500])
def test_a_refused_watch_is_not_repeated(site, fake, changed, status):
    before = len(fake.requests)
    fake.fail(status, "no", times=2, Retry_After="1")
    with pytest.raises(Transient, match=str(status)):
        site.cluster.history(*changed)
    assert len(fake.requests) == before + 1


@pytest.mark.parametrize("slow", ["hang", "trickle"])
def test_a_watch_has_a_hard_end(site, fake, changed, slow):
    getattr(fake, slow)(9)
    began = time.monotonic()
    with pytest.raises(Transient):
        site.cluster.history(*changed)
    assert time.monotonic() - began < 5


def test_a_version_that_does_not_come_by_is_not_waited_for(site, changed):
    """As where another API server is behind: what is told within the time is what there is."""
    app, before = changed
    began = time.monotonic()
    site.annotate(note="somebody")
    found = site.cluster.history(replace(app, resource_version="never"), before)
    assert found[0].resource_version == app.resource_version
    assert time.monotonic() - began < 5


def lists(fake):
    return [r for r in fake.requests if r[0] == "GET" and "limit" in r[2]]


def continued(fake):
    return lists(fake) and lists(fake)[-1][2].get("continue")
