"""Lag: the newest look, its history, losses until acknowledged, duties"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "lag_latest",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("observed_at", Time, nullable=False),
        sa.Column("report", JSONB(), nullable=False),
        sa.Column("mirrored", sa.BigInteger()),
        sa.PrimaryKeyConstraint("spike"),
    )
    op.create_table(
        "lag_history",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("step_seconds", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text()),
        sa.Column("log_start", sa.BigInteger(), nullable=False),
        sa.Column("log_end", sa.BigInteger(), nullable=False),
        sa.Column("staged_end", sa.BigInteger(), nullable=False),
        sa.Column("committed_end", sa.BigInteger(), nullable=False),
        sa.Column("lag", sa.BigInteger()),
        sa.Column("staged_lag", sa.BigInteger()),
        sa.Column("read_lag", sa.BigInteger()),
        sa.Column("lag_seconds", sa.Float()),
        sa.Column("time_to_loss_seconds", sa.Float()),
        sa.PrimaryKeyConstraint("spike", "step_seconds", "slot"),
    )
    op.create_table(
        "losses",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("seen_at", Time, nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("acknowledged_at", Time),
        sa.Column("acknowledged_by", sa.Text()),
        sa.Column("why", sa.Text()),
        sa.CheckConstraint(
            "(acknowledged_at is null) = (acknowledged_by is null) and "
            "(acknowledged_at is null) = (why is null)",
            name="losses_acknowledged",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "one_open_loss",
        "losses",
        ["spike"],
        unique=True,
        postgresql_where=sa.text("acknowledged_at is null"),
    )
    op.create_table(
        "duties",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("succeeded_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    for table in ("duties", "losses", "lag_history", "lag_latest"):
        op.drop_table(table)
