"""Each protection, switched off, is missed by somebody: a scenario goes red without it and only then."""

import logging
from contextlib import ExitStack

import pytest
from model_protections import PROTECTIONS as OF_THE_PROTOCOL
from model_protections import Play, Protection
from model_protections_people import PROTECTIONS as OF_PEOPLE
from model_world import Violation

from spike_pipelines.domain.errors import InvariantBroken

PROTECTIONS = (*OF_THE_PROTOCOL, *OF_PEOPLE)


def act(protection: Protection, *off) -> None:
    with ExitStack() as stack:
        for switch in (*protection.given, *off):
            stack.enter_context(switch())
        play = Play(gappy=protection.gappy)
        try:
            protection.scenario(play)
        finally:
            for process in play.world.processes:
                process.kill()


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda p: p.name)
def test_with_it_everything_holds(protection):
    act(protection)


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda p: p.name)
def test_without_it_somebody_notices(protection, caplog):
    caplog.set_level(logging.CRITICAL, "spike_pipelines")
    with pytest.raises((Violation, InvariantBroken)) as noticed:
        act(protection, protection.off)
    assert "TypeError" not in str(noticed.value), "what stands in for it does not take its arguments"
