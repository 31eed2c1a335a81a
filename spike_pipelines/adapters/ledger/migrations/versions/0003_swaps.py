"""Swaps, and what retention notes of a file"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.alter_column("batches", "epoch", existing_type=sa.BigInteger(), nullable=True)
    op.create_check_constraint("batches_epoch", "batches", "(lane = 'live') = (epoch is not null)")
    op.add_column("files", sa.Column("condemned_at", _Time))
    op.add_column("files", sa.Column("swept_at", _Time))
    op.create_check_constraint("files_condemned", "files", "condemned_at is null or state <> 'live'")
    op.create_check_constraint("files_superseded", "files", "(state = 'superseded') = (removed is not null)")
    op.create_index(
        op.f("ix_files_staging_key"),
        "files",
        ["staging_key"],
        postgresql_ops={"staging_key": "text_pattern_ops"},
    )
    op.create_index(
        "unswept_files",
        "files",
        ["state", "id"],
        postgresql_where=sa.text("state <> 'live' and final_key is not null and swept_at is null"),
    )
    op.create_table(
        "swaps",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("application_version", sa.Text(), nullable=False),
        sa.Column("since", _Time),
        sa.Column("until", _Time),
        sa.Column("reason", sa.Text()),
        sa.Column("planned_at", _Time, nullable=False),
        sa.Column("batch", sa.BigInteger()),
        sa.Column("ended_at", _Time),
        sa.Column("problem", sa.Text()),
        sa.CheckConstraint("kind in ('replay', 'backfill')", name="swaps_kind"),
        sa.CheckConstraint("state in ('planned', 'staged', 'swapped', 'aborted')", name="swaps_state"),
        sa.CheckConstraint(
            "case state when 'planned' then batch is null when 'aborted' then true "
            "else batch is not null end",
            name="swaps_batch",
        ),
        sa.CheckConstraint("(state in ('swapped', 'aborted')) = (ended_at is not null)", name="swaps_ended"),
        sa.ForeignKeyConstraint(["spike"], ["spikes.name"]),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.name"]),
        sa.ForeignKeyConstraint(["batch"], ["batches.number"]),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("batch"),
    )
    op.create_index(
        "open_swaps", "swaps", ["spike"], postgresql_where=sa.text("state in ('planned', 'staged')")
    )
    op.create_table(
        "swap_files",
        sa.Column("swap", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.ForeignKeyConstraint(["swap"], ["swaps.number"]),
        sa.ForeignKeyConstraint(["file"], ["files.id"]),
        sa.PrimaryKeyConstraint("swap", "file"),
    )
    op.create_index(
        "one_swap_of_a_file", "swap_files", ["file"], unique=True, postgresql_where=sa.text("held")
    )
