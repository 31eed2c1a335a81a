"""A driver's page for Prometheus, over real HTTP, and where it is found."""

import json
import socket
from datetime import timedelta
from types import SimpleNamespace

import httpx
import pytest
from builders import HOUR, spike
from prometheus_client.parser import text_string_to_metric_families

from spike_pipelines.domain.epochs import Phase
from spike_pipelines.driver.metrics import announce, served, targets_file
from spike_pipelines.driver.vitals import Progress, VitalsBoard

LAST = Progress(HOUR, 2.5, {"addBatch": 2.0, "walCommit": 0.1}, 50, None, 20.0)


def scraped(address):
    text = httpx.get(f"http://{address}/metrics", timeout=5).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def board():
    board = VitalsBoard()
    board.opened(SimpleNamespace(offsets=(), epoch=7))
    return board


def test_a_batch_is_told_beside_its_trigger_and_by_step(board):
    board.phase(Phase.STAGING)
    board.progressed(LAST)
    with served(board, spike(trigger=timedelta(seconds=10)), 0) as address:
        seen = scraped(address)
    assert seen["spike_driver_batch_seconds", "payouts"] == 2.5
    assert seen["spike_driver_trigger_seconds", "payouts"] == 10
    assert seen["spike_driver_batch_step_seconds", "payouts", "addBatch"] == 2.0
    assert seen["spike_driver_processed_records_per_second", "payouts"] == 20
    assert seen["spike_driver_epoch", "payouts"] == 7
    assert {k[1]: v for k, v in seen.items() if k[0] == "spike_driver_phase"} == {
        phase: float(phase is Phase.STAGING) for phase in Phase
    }


def test_what_is_not_known_is_absent_and_never_zero(board):
    with served(board, spike(), 0) as address:
        assert not any(name[0] == "spike_driver_batch_seconds" for name in scraped(address))
        board.progressed(LAST)
        assert not any(name[0] == "spike_driver_input_records_per_second" for name in scraped(address))


def test_a_port_that_is_taken_costs_the_page_and_not_the_driver(board, caplog):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with served(board, spike(), port) as address:
            assert address is None
    assert f"port {port} cannot be listened on" in caplog.text


def test_the_page_ends_with_its_driver(board):
    with served(board, spike(), 0) as address:
        pass
    with pytest.raises(httpx.ConnectError):
        scraped(address)


def test_the_newest_driver_with_an_epoch_is_the_one_that_is_scraped(tmp_path):
    announce(tmp_path, "payouts", "127.0.0.1:1")
    announce(tmp_path, "payouts", "127.0.0.1:2")
    announce(tmp_path, "payouts", None)
    path = targets_file(tmp_path, "payouts")
    assert json.loads(path.read_text()) == [{"targets": ["127.0.0.1:2"]}]
    assert list(path.parent.iterdir()) == [path]
