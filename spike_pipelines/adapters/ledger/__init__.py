"""The ledger in PostgreSQL: SQLAlchemy Core, migrated by Alembic."""

from spike_pipelines.adapters.ledger.ledger import SqlLedger
from spike_pipelines.adapters.ledger.migrate import migrate
from spike_pipelines.adapters.ledger.tokens import Issued, TokenInfo, Tokens, register_token

__all__ = ["Issued", "SqlLedger", "TokenInfo", "Tokens", "migrate", "register_token"]
