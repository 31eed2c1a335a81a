"""Audited operations: held batches, rewinds, accepted losses; who promoted a batch"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("moves", JSONB(), server_default="[]", nullable=False),
        sa.CheckConstraint(
            "kind in ('release', 'discard', 'rewind', 'accept_loss', 'project')", name="operations_kind"
        ),
        sa.CheckConstraint("who <> '' and why <> ''", name="operations_who_why"),
        sa.ForeignKeyConstraint(["spike"], ["spikes.name"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request"),
    )
    op.create_index(op.f("ix_operations_spike_at"), "operations", ["spike", "at"])
    op.create_index(op.f("ix_operations_batch"), "operations", ["batch"])
    op.add_column("positions", sa.Column("closed_by", sa.BigInteger(), sa.ForeignKey("operations.id")))
    op.add_column(
        "batches",
        sa.Column("records_unaccounted", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column("batches", sa.Column("lost", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("batches", sa.Column("removed", sa.BigInteger()))
    op.add_column("batches", sa.Column("operation", sa.BigInteger(), sa.ForeignKey("operations.id")))
    op.create_check_constraint("batches_removed", "batches", "removed is null or state = 'committed'")
    op.create_check_constraint(
        "batches_audited",
        "batches",
        "operation is not null or lane <> 'live' or"
        " (state <> 'aborted' and removed is null and not lost and records_unaccounted = 0)",
    )
    op.add_column("commits", sa.Column("run_id", sa.Text()))
    op.create_index(
        "past_ranges",
        "batch_ranges",
        ["topic_id", "partition", "start_offset"],
        postgresql_where=sa.text("not live"),
    )
