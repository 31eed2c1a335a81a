"""Bearer tokens of spikes: only their SHA-256 is stored, and a spike may have several (rotation).

A token has 256 random bits, so a plain hash of it tells as little as a slow one would.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import create_engine, translated
from spike_pipelines.domain.errors import InvalidSpec

PREFIX = "spk_"  # by which scanners of repositories and logs know one
MAX_LIVE = 10  # of one spike
USE_NOTED_EVERY = timedelta(minutes=1)  # a heartbeat every few seconds is no reason to write as often


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What may be told of a token. `live` is whether it speaks for its spike now, by the database's clock."""

    id: int
    spike: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    live: bool


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token. `secret` is nowhere else: whoever loses it issues another one."""

    id: int
    secret: str


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def register_token(url: str, spike: str, token: str) -> None:
    """Let `token` speak for `spike`. Twice changes nothing; a revoked one does not come back."""
    tokens = Tokens(url)
    try:
        tokens.register(spike, token)
    finally:
        tokens.close()


class Tokens:
    """Thread-safe. Errors: `Transient` when the database does not answer."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    def allows(self, spike: str, token: str) -> bool:
        """Whether a bearer token may speak for a spike now. Compared in constant time."""
        t = s.tokens
        query = sa.select(t.c.id, t.c.token_sha256, _use_is_stale()).where(t.c.spike == spike, _live())
        offered = _digest(token)
        with translated(), self._engine.connect() as db:
            known = [row for row in db.execute(query) if hmac.compare_digest(row.token_sha256, offered)]
        if known and known[0].stale:
            self._note_use(known[0].id)
        return bool(known)

    def register(self, spike: str, token: str) -> None:
        values = {"spike": spike, "token_sha256": _digest(token)}
        with self._begin() as db:
            db.execute(insert(s.tokens).values(**values).on_conflict_do_nothing())

    def issue(self, spike: str) -> Issued:
        """Another token beside those there are. Raises `InvalidSpec` at the bound of live ones."""
        with self._begin() as db:
            return _issue(db, spike)

    def rotate(self, spike: str, grace: timedelta) -> Issued:
        """A new token; all others of the spike end after `grace` at the latest. One transaction: dying
        before it changes nothing, dying after it leaves the old ones `grace` long, to rotate again."""
        t = s.tokens
        end = sa.func.least(t.c.expires_at, sa.func.clock_timestamp() + grace)  # NULL is no bound to LEAST
        with self._begin() as db:
            db.execute(sa.update(t).where(t.c.spike == spike, _live()).values(expires_at=end))
            return _issue(db, spike)

    def revoke(self, spike: str, token_id: int) -> None:
        """Refuse the token from now on. Raises `InvalidSpec` if the spike has none of that number."""
        t = s.tokens
        now = sa.func.clock_timestamp()
        query = (
            sa.update(t)
            .where(t.c.spike == spike, t.c.id == token_id)
            .values(expires_at=sa.func.least(t.c.expires_at, now))
        )
        with self._begin() as db:
            if db.execute(query).rowcount != 1:
                raise InvalidSpec(f"{spike} has no token {token_id}: `spike token list` shows them")

    def list(self) -> tuple[TokenInfo, ...]:
        t = s.tokens
        columns = (t.c.id, t.c.spike, t.c.created_at, t.c.expires_at, t.c.last_used_at)
        query = sa.select(*columns, _live().label("live")).order_by(t.c.spike, t.c.id)
        with translated(), self._engine.connect() as db:
            return tuple(TokenInfo(**row) for row in db.execute(query).mappings())

    def _note_use(self, token_id: int) -> None:
        t = s.tokens
        used = sa.update(t).where(t.c.id == token_id).values(last_used_at=sa.func.clock_timestamp())
        with self._begin() as db:
            db.execute(used)

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.begin() as db:
            yield db


def _issue(db: sa.Connection, spike: str) -> Issued:
    t = s.tokens
    live = db.execute(sa.select(sa.func.count()).where(t.c.spike == spike, _live())).scalar_one()
    if live >= MAX_LIVE:
        raise InvalidSpec(f"{spike} has {live} live tokens, {MAX_LIVE} may: revoke one (`spike token list`)")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = sa.insert(t).values(spike=spike, token_sha256=_digest(secret)).returning(t.c.id)
    return Issued(db.execute(row).scalar_one(), secret)


def _live() -> sa.ColumnElement[bool]:
    end = s.tokens.c.expires_at
    return end.is_(None) | (end > sa.func.clock_timestamp())


def _use_is_stale() -> sa.Label[bool]:
    used = s.tokens.c.last_used_at
    return (used.is_(None) | (used < sa.func.clock_timestamp() - USE_NOTED_EVERY)).label("stale")
