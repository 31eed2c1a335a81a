"""Ports, secrets and logs of the state folder."""

import socket
import stat
from pathlib import Path

import pytest

from spike_pipelines.stack import ports
from spike_pipelines.stack.errors import StackError
from spike_pipelines.stack.ports import HIGHEST, LOWEST, find_free, is_free, remembered
from spike_pipelines.stack.state import StateDir, rotate


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.at(tmp_path / "state")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ports_are_remembered_between_runs_and_new_names_get_their_own(state):
    first = remembered(state.ports, ["a", "b"])
    later = remembered(state.ports, ["a", "b", "c"])
    assert later["a"] == first["a"]
    assert len(set(later.values())) == 3
    assert all(LOWEST <= port <= HIGHEST for port in later.values())


def test_port_with_a_listener_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_no_free_port_is_an_error_and_not_an_endless_search(monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with pytest.raises(StackError, match="is free"):
        find_free()


def test_secret_is_made_once_and_only_its_owner_can_read_it(state):
    secret = state.secret("s3-secret-key")
    assert StateDir.at(state.root).secret("s3-secret-key") == secret
    assert len(secret) >= 32
    assert mode(state.secrets) == 0o700
    assert mode(state.secrets / "s3-secret-key") == 0o600


def test_each_spike_has_its_own_token(state):
    assert state.token("a") != state.token("b")
    assert (state.secrets / "tokens" / "a").read_text().strip() == state.token("a")


def test_log_beyond_its_bound_is_set_aside_and_the_one_before_is_dropped(state):
    log = state.log("p")
    for text in ("first", "second"):
        log.write_text(text)
        rotate(log, keep_bytes=1)
    assert not log.exists()
    assert log.with_name("p.log.1").read_text() == "second"


def test_small_log_goes_on(state):
    state.log("p").write_text("line")
    rotate(state.log("p"))
    assert state.log("p").read_text() == "line"
