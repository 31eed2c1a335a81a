"""What a look for hours older than the ledger may not tell."""

import pytest
from test_backfill import backfiller
from test_backfill_earlier import ALL_GOOD, A, Seeing, ran  # noqa: F401 - a fixture

from spike_pipelines.domain.errors import TopicChanged

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
