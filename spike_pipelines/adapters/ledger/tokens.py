"""Bearer tokens of spikes: only their SHA-256 is stored, and a spike may have several (rotation)."""

import hashlib

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import create_engine, translated


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def register_token(url: str, spike: str, token: str) -> None:
    """Let `token` speak for `spike`. Doing so twice changes nothing."""
    engine = create_engine(url)
    try:
        with translated(), engine.begin() as db:
            values = {"spike": spike, "token_sha256": _digest(token)}
            db.execute(insert(s.tokens).values(**values).on_conflict_do_nothing())
    finally:
        engine.dispose()


class Tokens:
    """Answers whether a bearer token may speak for a spike."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def allows(self, spike: str, token: str) -> bool:
        t = s.tokens
        query = sa.select(sa.literal(1)).where(t.c.spike == spike, t.c.token_sha256 == _digest(token))
        with translated(), self._engine.connect() as db:
            return db.execute(query).one_or_none() is not None
