"""Closed hours, with what had to be committed for each"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "closings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("hour", Time, nullable=False),
        sa.Column("due_at", Time, nullable=False),
        sa.Column("observed_at", Time, nullable=False),
        sa.Column("ends", JSONB(), nullable=False),
        sa.Column("closed_at", Time),
        sa.Column("sequence", sa.BigInteger()),
        sa.Column("told", sa.BigInteger()),
        sa.Column("reopened_by", sa.BigInteger()),
        sa.CheckConstraint("due_at <= observed_at", name="closings_due"),
        sa.CheckConstraint("(closed_at is null) = (sequence is null)", name="closings_closed"),
        sa.CheckConstraint("told is null or told >= sequence", name="closings_told"),
        sa.CheckConstraint("reopened_by is null or closed_at is not null", name="closings_reopened"),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.name"]),
        sa.ForeignKeyConstraint(["reopened_by"], ["operations.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, columns, unique, where in (
        ("one_closing", ["dataset", "hour"], True, "reopened_by is null"),
        ("open_closings", ["dataset"], False, "closed_at is null"),
        (
            "untold_closings",
            ["dataset"],
            False,
            "closed_at is not null and told is null and reopened_by is null",
        ),
    ):
        op.create_index(name, "closings", columns, unique=unique, postgresql_where=sa.text(where))
    op.create_index("ix_closings_dataset_told", "closings", ["dataset", "told"])
