"""ServiceAccount tokens at the appender: against a fake API server that can misbehave, and against a real one
where KUBECONFIG names a cluster."""

import base64
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_token_review import OWN_TOKEN, FakeTokenReview, jwt, serving
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from spike_pipelines.adapters import token_review
from spike_pipelines.adapters.token_review import ApiServer, ServiceAccounts
from spike_pipelines.appender import errors
from spike_pipelines.appender.gate import by_form, gated
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.service_accounts import TokenReview, Trusted

PAYOUT, SESSION = "crt-payout-v1-1.0", "crt-session-v1-1.0"
ACCOUNT = "crt-payout-v1-1-0"
AUDIENCE = "spike-appender"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fake():
    with serving() as fake:
        yield fake


@dataclass
class RealCluster:
    """A real API server, as `kubectl` reaches it: namespaces and accounts of this test's own."""

    namespaces: dict[str, str]

    def issue(self, namespace: str, account: str, audience: str) -> str:
        arguments = ("create", "token", account, "--audience", audience)
        return kubectl("-n", self.namespaces[namespace], *arguments).strip()


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory):
    """With the rights that the platform's chart gives the appender, and no others."""
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        pytest.skip("no cluster: KUBECONFIG is not set, or there is no kubectl")
    mark = f"token-review-{os.getpid()}"
    names = {"spike-streaming": f"{mark}-spikes", "elsewhere": f"{mark}-elsewhere"}
    role = f"{mark}-reviewer"
    try:
        for namespace in names.values():
            kubectl("create", "namespace", namespace)
            for account in (ACCOUNT, "crt-session-v1-1-0", "reviewer"):
                kubectl("-n", namespace, "create", "serviceaccount", account)
        kubectl(
            "create", "clusterrole", role, "--verb=create", "--resource=tokenreviews.authentication.k8s.io"
        )
        subject = f"--serviceaccount={names['elsewhere']}:reviewer"
        kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", subject)
        yield RealCluster(names), _server(names["elsewhere"], tmp_path_factory.mktemp("api"))
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", "namespace", *names.values())
        kubectl("delete", "--ignore-not-found", "clusterrole,clusterrolebinding", role)


def _server(namespace: str, folder: Path) -> ApiServer:
    seen = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    cluster = seen["clusters"][0]["cluster"]
    (folder / "token").write_text(kubectl("-n", namespace, "create", "token", "reviewer"))
    (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    return ApiServer(cluster["server"], folder / "ca.crt", folder / "token")


@pytest.fixture
def fake_server(fake, tmp_path):
    (tmp_path / "token").write_text(OWN_TOKEN + "\n")
    return ApiServer(fake.url, None, tmp_path / "token")


@pytest.fixture(params=["fake", "real"])
def cluster(request):
    """Who issues tokens, and the appender's side that judges them."""
    if request.param == "fake":
        issuer, server = request.getfixturevalue("fake"), request.getfixturevalue("fake_server")
        namespace = "spike-streaming"
    else:
        issuer, server = request.getfixturevalue("real_cluster")
        namespace = issuer.namespaces["spike-streaming"]
    accounts = ServiceAccounts(server, Trusted(namespace, AUDIENCE))
    yield issuer, accounts
    accounts.close()


@pytest.fixture
def unjudged():
    """Spikes whose driver could not be let in."""
    return []


@pytest.fixture
def accounts(fake_server, unjudged, clock):
    accounts = ServiceAccounts(fake_server, Trusted("spike-streaming", AUDIENCE), unjudged.append, clock)
    yield accounts
    accounts.close()


def good(fake: FakeTokenReview) -> str:
    return fake.issue("spike-streaming", ACCOUNT, AUDIENCE)


def test_a_spikes_own_account_speaks_for_it_and_for_no_other(cluster):
    issuer, accounts = cluster
    token = issuer.issue("spike-streaming", ACCOUNT, AUDIENCE)
    assert accounts.allows(PAYOUT, token)
    assert not accounts.allows(SESSION, token)
    assert not accounts.allows("No Name In Kubernetes", token)


def test_the_same_account_of_another_namespace_does_not(cluster):
    issuer, accounts = cluster
    assert not accounts.allows(PAYOUT, issuer.issue("elsewhere", ACCOUNT, AUDIENCE))


def test_a_token_for_another_audience_does_not(cluster):
    issuer, accounts = cluster
    assert not accounts.allows(PAYOUT, issuer.issue("spike-streaming", ACCOUNT, "somebody-else"))


def test_a_forged_token_that_claims_everything_right_does_not(cluster):
    """Its claims are right, its signature is nobody's: only the API server tells."""
    issuer, accounts = cluster
    head, payload, _ = issuer.issue("spike-streaming", ACCOUNT, AUDIENCE).split(".")
    assert not accounts.allows(PAYOUT, f"{head}.{payload}.AAAA")


def test_an_api_server_that_knows_no_audiences_is_not_believed(fake, accounts):
    fake.knows_audiences = False
    assert not accounts.allows(PAYOUT, good(fake))


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "..",
        "e30.e30.e30",
        "x.WzFd.x",
        "x.ew.x",
        f"x.{'W1tb' * 1000}.x",  # [[[…
        jwt("system:serviceaccount:spike-streaming:other", AUDIENCE),
        jwt(f"system:serviceaccount:spike-streaming:{ACCOUNT}", "another"),
        jwt(f"system:serviceaccount:spike-streaming:{ACCOUNT}", AUDIENCE, seconds=-1),
    ],
)
def test_what_is_not_even_claimed_asks_the_api_server_nothing(token, fake, accounts):
    assert not accounts.allows(PAYOUT, token)
    assert fake.asked == 0


def test_a_token_that_was_reviewed_with_an_error_is_not_believed(fake, accounts):
    user = {"username": f"system:serviceaccount:spike-streaming:{ACCOUNT}"}
    status = {"authenticated": True, "user": user, "audiences": [AUDIENCE]}
    token = good(fake)
    fake.answer = (201, json.dumps({"status": {**status, "error": "an authenticator failed"}}).encode())
    assert not accounts.allows(PAYOUT, token)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"broken"),
        (503, b""),
        (429, b"later"),
        (401, b"{}"),
        (403, b"no rights"),
        (200, b"{}"),
        (201, b"<html>a proxy</html>"),
        (201, b"{}"),
        (201, b'{"status": {"authenticated": "perhaps"}}'),
    ],
)
def test_no_answer_is_neither_yes_nor_no(answer, fake, accounts):
    token, fake.answer = good(fake), answer
    for _ in range(2):  # nor is it kept
        with pytest.raises(Transient, match="try again"):
            accounts.allows(PAYOUT, token)
    fake.answer = None
    assert accounts.allows(PAYOUT, token)


def test_whose_token_could_not_be_judged_is_told_now_and_then(fake, accounts, clock, unjudged):
    token, fake.answer = good(fake), (500, b"broken")
    for _ in range(7):
        with pytest.raises(Transient):
            accounts.allows(PAYOUT, token)
        clock.now += 2
    assert unjudged == [PAYOUT] * 3
    fake.answer = None
    assert accounts.allows(PAYOUT, token)
    assert unjudged == [PAYOUT] * 3


def test_of_how_many_spikes_it_is_remembered_is_bounded(accounts, clock, unjudged, monkeypatch):
    monkeypatch.setattr(token_review, "MAX_KEPT", 2)
    for name in ("a", "b", "c", "c", "a"):
        accounts._tell(name)
    assert unjudged == ["a", "b", "c", "a"]


def test_a_token_that_is_another_spikes_by_its_own_words_holds_nothing_back(fake, accounts, unjudged):
    token, fake.answer = good(fake), (500, b"broken")
    assert not accounts.allows(SESSION, token)
    assert unjudged == []


def test_what_the_api_server_said_of_itself_is_told_to_nobody(fake, accounts, caplog):
    token, fake.answer = good(fake), (403, b"serviceaccount appender cannot create tokenreviews")
    with pytest.raises(Transient) as caught:
        accounts.allows(PAYOUT, token)
    assert "tokenreviews" not in str(caught.value)
    assert "cannot create tokenreviews" in caplog.text
    assert token not in caplog.text


def test_an_api_server_that_is_not_there_is_neither_yes_nor_no(fake, tmp_path):
    (tmp_path / "token").write_text(OWN_TOKEN)
    gone = ServiceAccounts(
        ApiServer("http://127.0.0.1:9", None, tmp_path / "token"), Trusted("spike-streaming", AUDIENCE)
    )
    with pytest.raises(Transient):
        gone.allows(PAYOUT, good(fake))


def test_without_a_token_of_our_own_nobody_is_let_in(fake, accounts, fake_server):
    fake_server.token_file.unlink()
    with pytest.raises(Transient):
        accounts.allows(PAYOUT, good(fake))


def test_our_own_token_is_read_again_once_it_was_replaced(fake, accounts, fake_server):
    fake_server.token_file.write_text("the old one")
    token = good(fake)
    with pytest.raises(Transient):
        accounts.allows(PAYOUT, token)
    fake_server.token_file.write_text(OWN_TOKEN)
    assert accounts.allows(PAYOUT, token)


def test_a_good_answer_is_kept_for_a_while_and_no_longer(fake, accounts, clock):
    token = good(fake)
    assert accounts.allows(PAYOUT, token)
    fake.revoke(token)
    clock.now += token_review.KEPT_SECONDS - 0.1
    assert accounts.allows(PAYOUT, token)
    assert fake.asked == 1
    clock.now += 0.2
    assert not accounts.allows(PAYOUT, token)


def test_a_kept_answer_is_over_also_when_the_api_server_is_down(fake, accounts, clock):
    token = good(fake)
    assert accounts.allows(PAYOUT, token)
    fake.answer = (503, b"")
    assert accounts.allows(PAYOUT, token)
    clock.now += token_review.KEPT_SECONDS + 0.1
    with pytest.raises(Transient):
        accounts.allows(PAYOUT, token)


def test_a_refusal_is_kept_for_a_moment_only(fake, accounts, clock):
    token = good(fake)
    fake.revoke(token)
    assert not accounts.allows(PAYOUT, token)
    fake.issued[token] = (f"system:serviceaccount:spike-streaming:{ACCOUNT}", AUDIENCE)
    assert not accounts.allows(PAYOUT, token)
    clock.now += token_review.REFUSED_SECONDS + 0.1
    assert accounts.allows(PAYOUT, token)
    assert fake.asked == 2


def test_what_is_kept_is_bounded(fake, accounts, monkeypatch):
    monkeypatch.setattr(token_review, "MAX_KEPT", 3)
    for _ in range(5):
        accounts.allows(PAYOUT, good(fake))
    assert len(accounts._kept) == 3


def test_a_token_goes_to_whom_its_form_names_and_to_nobody_else():
    allows = by_form(lambda _, token: token == "spk_own", lambda _, token: token == "a.b.c")
    assert allows(PAYOUT, "spk_own")
    assert allows(PAYOUT, "a.b.c")
    asked = []
    by_form(lambda *args: asked.append("own"), lambda *args: asked.append("accounts"))(PAYOUT, "x.y.z")
    assert asked == ["accounts"]


def test_outside_a_pod_an_audience_is_a_mistake_that_says_so(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidSpec, match="spike token new"):
        ApiServer.of_this_pod()


def test_in_a_pod_the_api_server_is_where_kubernetes_says(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert ApiServer.of_this_pod().url == "https://[fd00::1]:443"


def test_what_the_api_server_says_counts_and_not_what_the_token_says_of_itself(fake, accounts):
    user = {"username": "system:serviceaccount:spike-streaming:crt-session-v1-1-0"}
    status = {"authenticated": True, "user": user, "audiences": [AUDIENCE]}
    token = good(fake)
    fake.answer = (201, json.dumps({"status": status}).encode())
    assert not accounts.allows(PAYOUT, token)


def test_an_answer_without_our_audience_allows_nothing():
    trusted = Trusted("spike-streaming", AUDIENCE)
    name = f"system:serviceaccount:spike-streaming:{ACCOUNT}"
    assert trusted.allows(PAYOUT, TokenReview(True, name, frozenset({AUDIENCE})))
    assert not trusted.allows(PAYOUT, TokenReview(True, name, frozenset({"x"})))
    assert not trusted.allows(PAYOUT, TokenReview(False, name, frozenset({AUDIENCE})))


@pytest.fixture
def api(accounts):
    """The appender's gate in front of a route that answers everybody it lets through."""
    app = FastAPI()
    errors.install(app)
    spikes = APIRouter(
        prefix="/v1/spikes/{name}", route_class=gated(by_form(lambda *_: False, accounts.allows))
    )
    spikes.get("")(lambda: "let in")
    app.include_router(spikes)
    with TestClient(app) as client:
        yield client


def test_the_gate_answers_401_to_a_stranger_and_503_while_nobody_can_tell(api, fake):
    token = good(fake)
    bearer = {"Authorization": f"Bearer {token}"}
    fake.answer = (500, b"")
    down = api.get(f"/v1/spikes/{PAYOUT}", headers=bearer)
    assert (down.status_code, down.json()["error"]["code"]) == (503, "unavailable")
    fake.answer = None
    assert api.get(f"/v1/spikes/{PAYOUT}", headers=bearer).json() == "let in"
    assert api.get(f"/v1/spikes/{SESSION}", headers=bearer).status_code == 401


def test_the_gate_takes_tokens_as_long_as_those_of_kubernetes_are(api, fake):
    username = f"system:serviceaccount:spike-streaming:{ACCOUNT}"
    token = jwt(username, AUDIENCE) + "s" * 1500
    fake.issued[token] = (username, AUDIENCE)
    assert api.get(f"/v1/spikes/{PAYOUT}", headers={"Authorization": f"Bearer {token}"}).status_code == 200
