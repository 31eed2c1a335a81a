"""What a spike was opened with, so that its file cannot move it away from its own rows"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bindings",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("staging_bucket", sa.Text(), nullable=False),
        sa.Column("staging_prefix", sa.Text(), nullable=False),
        sa.Column("final_bucket", sa.Text(), nullable=False),
        sa.Column("final_prefix", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text(), nullable=False),
        sa.Column("used", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["spike", "epoch"], ["epochs.spike", "epochs.number"]),
        sa.PrimaryKeyConstraint("spike", "epoch"),
    )
