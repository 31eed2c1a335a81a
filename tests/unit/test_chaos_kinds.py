"""The schedule of faults."""

from collections import Counter

from spike_pipelines.stack.chaos.kinds import LINKS, SECONDS, Kind, schedule


def test_same_seed_is_the_same_storm_and_another_seed_another():
    assert schedule(7, 100) == schedule(7, 100)
    assert schedule(7, 100) != schedule(8, 100)


def test_longer_storm_begins_like_the_shorter_one():
    assert schedule(7, 500)[:60] == schedule(7, 60)


def test_each_round_has_every_kind_once_in_an_order_of_its_own():
    kinds = [fault.kind for fault in schedule(1, 3 * len(Kind))]
    rounds = [kinds[i : i + len(Kind)] for i in range(0, len(kinds), len(Kind))]
    assert all(sorted(r) == sorted(Kind) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_thirty_of_each_kind_are_in_510_faults():
    assert set(Counter(f.kind for f in schedule(3, 510)).values()) == {30}


def test_tcp_faults_take_every_link_in_turn():
    faults = schedule(5, len(Kind) * len(LINKS))
    for kind in (Kind.DELAY_LINK, Kind.CUT_LINK):
        assert [f.link for f in faults if f.kind is kind] == list(LINKS)


def test_what_is_healed_by_us_lasts_a_while_within_its_bounds():
    for fault in schedule(2, 340):
        low, high = SECONDS.get(fault.kind, (0, 0))
        assert low <= fault.seconds <= high
        assert (fault.seconds > 0) == (fault.kind.startswith("freeze") or fault.kind.startswith("TCP"))
