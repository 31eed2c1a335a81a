"""Backfills: which batches one reads again, and how many records it must find"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("swaps", sa.Column("records_expected", sa.BigInteger()))
    op.add_column("swaps", sa.Column("records_elsewhere", sa.BigInteger()))
    op.create_check_constraint(
        "swaps_expected", "swaps", "(kind = 'backfill') = (records_expected is not null)"
    )
    op.create_table(
        "swap_sources",
        sa.Column("swap", sa.BigInteger(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["swap"], ["swaps.number"]),
        sa.ForeignKeyConstraint(["batch"], ["batches.number"]),
        sa.PrimaryKeyConstraint("swap", "batch"),
    )
    op.create_index(op.f("ix_swap_sources_batch"), "swap_sources", ["batch"])
    op.create_index(op.f("ix_batch_hours_hour"), "batch_hours", ["hour"])
