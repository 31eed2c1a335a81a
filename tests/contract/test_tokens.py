"""Bearer tokens in a real ledger: shown once, ended in time, never brought back."""

from datetime import timedelta

import pytest

from spike_pipelines.adapters.ledger import Tokens
from spike_pipelines.adapters.ledger.tokens import MAX_LIVE
from spike_pipelines.domain.errors import InvalidSpec

pytestmark = pytest.mark.real
HOUR = timedelta(hours=1)


@pytest.fixture
def tokens(ledger, ledger_url):
    tokens = Tokens(ledger_url)
    yield tokens
    tokens.close()


def later(world, seconds):
    """As if so much time had passed since every token was made, used and given an end."""
    world.execute(
        "UPDATE tokens SET expires_at = expires_at - make_interval(secs => %(s)s),"
        " last_used_at = last_used_at - make_interval(secs => %(s)s)",
        s=seconds,
    )


def test_an_issued_token_speaks_for_its_spike_and_for_no_other(tokens):
    mine, theirs = tokens.issue("payouts"), tokens.issue("session")
    assert mine.secret.startswith("spk_")
    assert tokens.allows("payouts", mine.secret)
    assert not tokens.allows("payouts", theirs.secret)
    assert not tokens.allows("session", mine.secret)
    assert not tokens.allows("never", mine.secret)
    for wrong in ("", mine.secret[:-1], mine.secret + "x", mine.secret.upper(), "ä€\x00"):
        assert not tokens.allows("payouts", wrong)


def test_nothing_that_is_stored_or_told_has_the_token_in_it(tokens, world):
    issued = tokens.issue("payouts")
    with world.ledger.begin() as tx:
        stored = tx._db.exec_driver_sql("SELECT tokens::text FROM tokens").scalar_one()
    assert issued.secret not in stored + repr(tokens.list())
    assert issued.secret.removeprefix("spk_") not in stored


def test_after_a_rotation_the_old_token_goes_on_for_the_grace_time_and_then_not(tokens, world):
    old = tokens.issue("payouts")
    stranger = tokens.issue("session")
    new = tokens.rotate("payouts", HOUR)
    assert tokens.allows("payouts", old.secret)
    later(world, 3590)
    assert tokens.allows("payouts", old.secret)
    later(world, 20)
    assert not tokens.allows("payouts", old.secret)
    assert tokens.allows("payouts", new.secret)
    assert tokens.allows("session", stranger.secret)


def test_a_second_rotation_never_gives_an_old_token_more_time(tokens, world):
    old = tokens.issue("payouts")
    tokens.rotate("payouts", HOUR)
    tokens.rotate("payouts", 10 * HOUR)
    later(world, 3700)
    assert not tokens.allows("payouts", old.secret)


def test_a_rotation_without_grace_ends_the_old_token_at_once(tokens):
    old = tokens.issue("payouts")
    tokens.rotate("payouts", timedelta(0))
    assert not tokens.allows("payouts", old.secret)


def test_a_revoked_token_is_refused_at_once_and_registering_it_again_does_not_help(tokens):
    issued = tokens.issue("payouts")
    tokens.revoke("payouts", issued.id)
    tokens.revoke("payouts", issued.id)
    assert not tokens.allows("payouts", issued.secret)
    tokens.register("payouts", issued.secret)
    assert not tokens.allows("payouts", issued.secret)


def test_one_spikes_token_is_not_revoked_in_anothers_name(tokens):
    issued = tokens.issue("payouts")
    with pytest.raises(InvalidSpec, match="session has no token"):
        tokens.revoke("session", issued.id)
    assert tokens.allows("payouts", issued.secret)


def test_the_last_use_is_noted_once_a_minute_and_refusals_are_no_use(tokens, world):
    issued = tokens.issue("payouts")
    tokens.allows("payouts", "wrong")
    assert tokens.list()[0].last_used_at is None
    tokens.allows("payouts", issued.secret)
    first = tokens.list()[0].last_used_at
    tokens.allows("payouts", issued.secret)
    assert tokens.list()[0].last_used_at == first
    later(world, 61)
    tokens.allows("payouts", issued.secret)
    assert tokens.list()[0].last_used_at > first


def test_live_tokens_of_a_spike_are_bounded_and_ended_ones_do_not_count(tokens):
    made = [tokens.issue("payouts") for _ in range(MAX_LIVE)]
    with pytest.raises(InvalidSpec, match="revoke one"):
        tokens.issue("payouts")
    tokens.revoke("payouts", made[0].id)
    tokens.issue("payouts")
    assert [t.live for t in tokens.list()].count(True) == MAX_LIVE
