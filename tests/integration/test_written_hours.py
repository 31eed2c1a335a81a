"""Which hours a version made, filtered records included, over a real ledger: a mended filter's work."""

import pytest
from builders import HOUR, NEXT_HOUR
from rereading import ALL_GOOD, AS_BEFORE, FILTERED, backfilled
from test_closed_hours import written
from test_operate import ask, operator, to

pytestmark = pytest.mark.real

NOTHING_KEPT = (FILTERED,) * 7


@pytest.fixture
def driver(world):
    """A version that filtered all records of an hour."""
    driver = world.driver(world.spike())
    driver.stage(0, 0, 7)
    world.settle(driver.spike)
    return driver


def test_an_hour_of_which_a_version_filtered_all_is_one_that_it_made(world, driver):
    assert written(world) == {("1.0", HOUR): (0, 0, 7)}


def test_what_a_backfill_read_again_is_its_versions(world, driver):
    backfilled(world, driver.spike, ALL_GOOD, plain=0)
    assert written(world) == {("2.0", HOUR): (1, 7, 0)}


def test_what_a_backfill_filtered_is_until_the_next_one(world, driver):
    backfilled(world, driver.spike, NOTHING_KEPT, plain=0)
    assert written(world) == {("2.0", HOUR): (0, 0, 7)}
    backfilled(world, driver.spike, ALL_GOOD, plain=0)
    assert written(world) == {("2.0", HOUR): (1, 7, 0)}


def test_what_a_batch_filtered_that_no_backfill_has_read_stays_its_own(world, driver):
    backfilled(world, driver.spike, ALL_GOOD, plain=0)
    driver.stage(0, 0, 7)
    world.settle(driver.spike)
    assert written(world) == {("1.0", HOUR): (0, 0, 7), ("2.0", HOUR): (1, 7, 0)}


def test_a_backfill_of_another_hour_of_the_batch_has_not_read_it(world):
    driver = world.driver(world.spike())
    driver.stage(4, 2, 1)
    world.settle(driver.spike)
    backfilled(world, driver.spike, AS_BEFORE, NEXT_HOUR)
    assert written(world) == {("1.0", HOUR): (2, 4, 1), ("2.0", NEXT_HOUR): (1, 2, 0)}


def test_what_a_rewind_took_back_nobody_made(world, driver):
    backfilled(world, driver.spike, NOTHING_KEPT, plain=0)
    operator(world).rewind(driver.spike, to(driver.spike, 0), ask())
    assert written(world) == {}
