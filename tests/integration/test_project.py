"""Tables redone from the ledger after whatever happened to them, and who may do it when."""

import pytest
from builders import HOUR

from spike_pipelines.domain.errors import Conflict, InvariantBroken, TableAltered, WrongNumber
from spike_pipelines.domain.operations import Author, OperationKind
from spike_pipelines.domain.rewind import Earliest
from spike_pipelines.ports import LiveFile
from spike_pipelines.services.operate import Operator, Request
from spike_pipelines.services.project import Projector

pytestmark = pytest.mark.real

REQUEST = Request("req", Author("ann", "the table was dropped"))


def project(world, spike, *, catalog=None, events=False, name="req"):
    catalog = catalog or world.catalog
    request = Request(name, REQUEST.author)
    return Projector(world.ledger, catalog, world.publisher).project(spike, request, events=events)


@pytest.fixture
def ran(world):
    driver = world.driver(world.spike())
    for _ in range(3):
        driver.stage()
    world.settle(driver.spike)
    return world


def clean(world):
    assert not {k: f.breaches for k, f in world.audit().items() if not f.ok}


def tables(world):
    return world.catalog._tables["payouts"]


def compact(world):
    """Somebody else puts all rows of the table into one file."""
    table = tables(world)
    (first, *_) = table.files.values()
    rows = sum(file.rows for file in table.files.values())
    table.files = {"s3://lake/compacted": LiveFile("s3://lake/compacted", rows, first.size, first.hour)}


def test_a_rewind_of_a_table_that_others_compacted_shows_nothing_twice_and_is_redone(ran):
    spike = ran.spikes["payouts"]
    compact(ran)
    request = Request("back", Author("ann", "wrong filter"))
    Operator(ran.ledger, ran.broker, ran.store).rewind(spike, Earliest(), request)
    driver = ran.driver(spike, "b")
    for _ in range(3):
        driver.stage()
    ran.promoter().promote(spike, limit=9)
    with pytest.raises(TableAltered, match=r"table payouts lacks 6 files .*spike ledger project"):
        ran.publisher.publish(spike, ran.dataset(spike))
    assert ran.dataset(spike).published == 3
    project(ran, spike)
    assert sum(ran.catalog.files("payouts").values()) == 12
    clean(ran)


def drop(world):
    del world.catalog._tables["payouts"], world.catalog._tables["payouts_dead_letters"]


def restore_an_older_one(world):
    tables(world).sequence = 1
    for uri in list(tables(world).files)[2:]:
        del tables(world).files[uri]


def lose_a_file(world):
    del tables(world).files[next(iter(tables(world).files))]


def gain_a_file(world):
    tables(world).files["s3://lake/stranger"] = LiveFile("s3://lake/stranger", 1, 1, None)


def lose_the_number(world):
    tables(world).sequence = 0


def restore_the_ledger_instead(world):
    tables(world).sequence = 40
    gain_a_file(world)


def nothing(world):
    pass


@pytest.mark.parametrize(
    ("harm", "audited"),
    [
        (nothing, 0),
        (drop, 0),
        (restore_an_older_one, 0),
        (lose_a_file, 1),
        (gain_a_file, 1),
        (lose_the_number, 0),
        (restore_the_ledger_instead, 1),
    ],
)
def test_a_table_is_brought_to_the_ledgers_live_files_whatever_happened_to_it(ran, harm, audited):
    harm(ran)
    for name in ("first", "second"):
        project(ran, ran.spikes["payouts"], name=name)
        clean(ran)
        done = ran.ledger.operations("payouts", 9)
        assert [o.kind for o in done] == [OperationKind.PROJECT] * audited
    driver = ran.driver(ran.spikes["payouts"], after=1)
    driver.stage()
    ran.settle(driver.spike)
    clean(ran)


def test_a_table_ahead_of_its_ledger_takes_no_commit_until_it_is_redone(ran):
    """The ledger was restored: numbers that the table has are given to other commits, which it would skip."""
    spike = ran.spikes["payouts"]
    tables(ran).sequence = 5
    ran.driver(spike, after=1).stage()
    with pytest.raises(WrongNumber, match=r"payouts is at #5, its ledger at #4 only.*spike ledger project"):
        ran.settle(spike)
    assert ran.dataset(spike).published == 3
    project(ran, spike)
    assert len(ran.catalog.files("payouts")) == 8
    clean(ran)


def test_a_commit_that_was_given_the_number_of_a_lost_one_is_not_taken_for_published(ran):
    """A failover lost the newest commit, which was published, and its batch: that was read again."""
    spike = ran.spikes["payouts"]
    lost = LiveFile("s3://lake/final/payouts/lost", 4, 1, HOUR)
    ran.driver(spike, after=1).stage()
    ran.promoter().promote(spike, limit=1)
    tables(ran).files[lost.uri] = lost
    tables(ran).sequence = 4
    with pytest.raises(WrongNumber, match=r"payouts is at #4 and lacks s3://lake/final/payouts/hour"):
        ran.publisher.publish(spike, ran.dataset(spike))
    assert ran.dataset(spike).published == 3
    project(ran, spike)
    assert lost.uri not in ran.catalog.files("payouts")
    clean(ran)


def test_a_publication_that_was_not_written_down_is_so_by_the_next(ran):
    spike = ran.spikes["payouts"]
    ran.driver(spike, after=1).stage()
    ran.settle(spike)
    ran.execute("UPDATE datasets SET published = 3")
    ran.publisher.publish(spike, ran.dataset(spike))
    assert ran.dataset(spike).published == 4
    clean(ran)


def test_a_table_that_lost_its_number_does_not_get_its_files_twice(ran):
    spike = ran.spikes["payouts"]
    lose_the_number(ran)
    ran.driver(spike, after=1).stage()
    with pytest.raises(WrongNumber, match=r"payouts is at #0 and has s3://lake/final/payouts/.*, which came"):
        ran.settle(spike)
    project(ran, spike)
    seen = []
    original = ran.catalog.publish
    ran.catalog.publish = lambda *a, **k: seen.append((a[0], len(k["add"]))) or original(*a, **k)
    ran.driver(spike, after=2).stage()
    ran.settle(spike)
    assert ("payouts", 2) in seen
    clean(ran)


def test_a_table_that_was_dropped_is_whole_again_with_the_next_commit(ran):
    spike = ran.spikes["payouts"]
    drop(ran)
    ran.driver(spike, after=1).stage()
    ran.settle(spike)
    assert len(ran.catalog.files("payouts")) == 8
    clean(ran)


def test_a_table_of_which_others_deleted_rows_is_not_told_to_be_right(ran):
    hidden = LiveFile("s3://lake/deletes", -1, 1, None)
    tables(ran).files[hidden.uri] = hidden
    with pytest.raises(InvariantBroken, match="somebody deleted rows of table payouts: s3://lake/deletes"):
        project(ran, ran.spikes["payouts"])
    drop(ran)
    project(ran, ran.spikes["payouts"])
    clean(ran)


def test_it_takes_one_snapshot_of_each_table(ran):
    drop(ran)
    seen = []
    original = ran.catalog.publish
    ran.catalog.publish = lambda *a, **k: seen.append((a[0], len(k["add"]))) or original(*a, **k)
    project(ran, ran.spikes["payouts"])
    assert seen == [("payouts", 6), ("payouts_dead_letters", 3)]


def test_a_commit_that_comes_between_is_kept(ran):
    driver = ran.driver(ran.spikes["payouts"], after=1)
    driver.stage()
    lose_a_file(ran)

    class Racing:
        def __getattr__(self, name):
            return getattr(ran.catalog, name)

        def publish(self, *arguments, **named):
            if ran.dataset(driver.spike).published < 5:
                ran.settle(driver.spike)
            return ran.catalog.publish(*arguments, **named)

    project(ran, driver.spike, catalog=Racing())
    clean(ran)
    state = ran.dataset(driver.spike)
    assert state.published == state.sequence


def test_a_commit_that_one_table_shows_and_the_other_does_not_is_not_published(ran):
    spike = ran.spikes["payouts"]
    driver = ran.driver(spike, after=1)

    class Racing:
        def __getattr__(self, name):
            return getattr(ran.catalog, name)

        def files(self, table):
            if table == "payouts_dead_letters" and ran.dataset(spike).sequence == 3:
                driver.stage()
                ran.promoter().promote(spike, limit=1)
            return ran.catalog.files(table)

    drop(ran)
    done = project(ran, spike, catalog=Racing())
    assert [table.sequence for table in done] == [3, 4]
    assert ran.dataset(spike).published == 3
    assert len(ran.keys("staging/")) == 3
    ran.publisher.publish(spike, ran.dataset(spike))
    clean(ran)


def test_superseded_files_do_not_come_back(ran):
    spike = ran.spikes["payouts"]
    Operator(ran.ledger, ran.broker, ran.store).rewind(spike, Earliest(), REQUEST)
    project(ran, spike, name="later")
    assert ran.catalog.files("payouts") == {}
    clean(ran)


def test_events_are_told_again_on_request(ran):
    spike = ran.spikes["payouts"]
    ran.ledger.mark_reported("payouts", 3, since=0)
    project(ran, spike)
    assert ran.dataset(spike).reported == 3
    project(ran, spike, events=True)
    assert ran.dataset(spike).reported == 0
    assert len(ran.ledger.unreported("payouts")) == 2


def test_staged_objects_of_published_batches_are_cleaned_up(world):
    driver = world.driver(world.spike())
    driver.stage()
    world.promoter().promote(driver.spike, limit=9)
    project(world, driver.spike)
    assert world.keys("staging/") == []
    clean(world)


def test_a_spike_that_never_committed_has_no_table_to_redo(world):
    with pytest.raises(Conflict, match="payouts never committed"):
        project_new(world)


def project_new(world):
    projector = Projector(world.ledger, world.catalog, world.publisher)
    projector._state(world.spike())
