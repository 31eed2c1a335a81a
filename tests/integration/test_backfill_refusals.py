"""What a backfill does not read, and does not believe, over a real ledger."""

import pytest
from builders import HOUR
from rereading import Reading, backfiller
from test_backfill_earlier import ALL_GOOD, A, Seeing, ran  # noqa: F401 - a fixture
from test_operate import ask

from spike_pipelines.domain import backfill
from spike_pipelines.domain.errors import Refused, TopicChanged
from spike_pipelines.services.backfill import Ask

pytestmark = pytest.mark.real


def test_what_was_found_of_a_topic_that_was_made_again_meanwhile_is_nothing(world, ran):  # noqa: F811
    class MadeAgain(Seeing):
        def survey(self, order, keep_alive):
            found = Seeing.survey(self, order, keep_alive)
            world.broker.delete(ran.spike.topic)
            world.broker.create(ran.spike.topic, 2)
            return found

    with pytest.raises(TopicChanged, match="made again meanwhile"):
        backfiller(world, MadeAgain(world, ALL_GOOD)).survey(ran.spike, [A])


def test_an_hour_that_lies_in_more_places_than_one_read_can_ask_for_is_not_begun(world, monkeypatch):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    monkeypatch.setattr(backfill, "MOST_PIECES", 0)
    reading = Reading(world)
    with pytest.raises(Refused, match="lie in 1 places of one partition, more than 0"):
        backfiller(world, reading).backfill(driver.spike, HOUR, Ask(ask()))
    assert (reading.orders, world.ledger.swaps("payouts", 9)) == ([], ())
