"""Supervision on Kubernetes: sightings, deployed specs, overlays"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "sightings",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", Time, nullable=False),
        sa.Column("spec_hash", sa.Text()),
        sa.Column("spec_since", Time, nullable=False),
        sa.Column("lives", JSONB(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("spike"),
    )
    op.create_table(
        "specs",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("manifest", JSONB(), nullable=False),
        sa.Column("seen_at", Time, server_default=now, nullable=False),
        sa.Column("stable_at", Time),
        sa.PrimaryKeyConstraint("spike", "hash"),
    )
    op.create_table(
        "overlays",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("before", sa.Text()),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("spec_hash", sa.Text()),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.CheckConstraint("created_at < expires_at", name="overlays_expire"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("open_overlays", "overlays", ["spike"], postgresql_where=sa.text("ended_at is null"))
