"""What was lost, range by range, and log starts by partition"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("losses", sa.Column("ranges", JSONB(), nullable=False, server_default=sa.text("'[]'")))
    for name in ("log_starts", "staged_ends"):
        op.add_column(
            "lag_history",
            sa.Column(name, ARRAY(sa.BigInteger()), nullable=False, server_default=sa.text("'{}'")),
        )
