"""The ledger"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("resource"),
    )
    op.create_table(
        "recoveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_recoveries_spike_at"), "recoveries", ["spike", "at"], unique=False)
    op.create_table(
        "spikes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refused_code", sa.Text(), nullable=True),
        sa.Column("refused_message", sa.Text(), nullable=True),
        sa.Column("refused_driver", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tokens",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("spike", "token_sha256"),
    )
    op.create_table(
        "datasets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("published", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reported", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "0 <= reported and reported <= published and published <= sequence", name="datasets_order"
        ),
        sa.ForeignKeyConstraint(
            ["spike"],
            ["spikes.name"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "epochs",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("batch_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_offsets", JSONB(), server_default="[]", nullable=False),
        sa.Column("application_version", sa.Text(), nullable=False),
        sa.CheckConstraint("state in ('open', 'superseded', 'retired')", name="epochs_state"),
        sa.ForeignKeyConstraint(
            ["spike"],
            ["spikes.name"],
        ),
        sa.PrimaryKeyConstraint("spike", "number"),
    )
    op.create_index(op.f("ix_epochs_spike_driver"), "epochs", ["spike", "driver"], unique=False)
    op.create_index(
        "one_open_epoch", "epochs", ["spike"], unique=True, postgresql_where=sa.text("state = 'open'")
    )
    op.create_table(
        "positions",
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("baseline", sa.BigInteger(), nullable=False),
        sa.Column("committed_end", sa.BigInteger(), nullable=False),
        sa.Column("staged_end", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "0 <= baseline and baseline <= committed_end and committed_end <= staged_end",
            name="positions_order",
        ),
        sa.ForeignKeyConstraint(
            ["spike"],
            ["spikes.name"],
        ),
        sa.PrimaryKeyConstraint("spike", "lane", "topic_id", "partition"),
    )
    op.create_table(
        "batches",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("records_read", sa.BigInteger(), nullable=False),
        sa.Column("records_final", sa.BigInteger(), nullable=False),
        sa.Column("records_dead_letter", sa.BigInteger(), nullable=False),
        sa.Column("records_filtered", sa.BigInteger(), nullable=False),
        sa.Column("application_version", sa.Text(), nullable=False),
        sa.Column("staged_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("cleaned_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'committed') = (committed_at is not null)", name="batches_committed"),
        sa.CheckConstraint(
            "state in ('staged', 'intended', 'held', 'committed', 'aborted')", name="batches_state"
        ),
        sa.ForeignKeyConstraint(
            ["spike", "epoch"],
            ["epochs.spike", "epochs.number"],
        ),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("identity"),
    )
    op.create_index(op.f("ix_batches_spike_committed_at"), "batches", ["spike", "committed_at"], unique=False)
    op.create_index(
        "uncleaned_batches",
        "batches",
        ["number"],
        unique=False,
        postgresql_where=sa.text("state = 'committed' and cleaned_at is null"),
    )
    op.create_index(
        "unfinished_batches",
        "batches",
        ["spike", "lane", "number"],
        unique=False,
        postgresql_where=sa.text("state in ('staged', 'intended', 'held')"),
    )
    op.create_table(
        "batch_hours",
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("records_final", sa.BigInteger(), nullable=False),
        sa.Column("records_dead_letter", sa.BigInteger(), nullable=False),
        sa.Column("records_filtered", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch"],
            ["batches.number"],
        ),
        sa.PrimaryKeyConstraint("batch", "hour"),
    )
    op.create_table(
        "batch_ranges",
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("spike", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("start_offset", sa.BigInteger(), nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.CheckConstraint("0 <= start_offset and start_offset < end_offset", name="batch_ranges_order"),
        sa.ForeignKeyConstraint(
            ["batch"],
            ["batches.number"],
        ),
        sa.PrimaryKeyConstraint("batch", "topic_id", "partition"),
    )
    op.create_index(
        "one_live_range",
        "batch_ranges",
        ["spike", "lane", "topic_id", "partition", "start_offset"],
        unique=True,
        postgresql_where=sa.text("live"),
    )
    op.create_table(
        "commits",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch"],
            ["batches.number"],
        ),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["datasets.name"],
        ),
        sa.PrimaryKeyConstraint("dataset", "sequence"),
        sa.UniqueConstraint("batch"),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("staging_key", sa.Text(), nullable=False),
        sa.Column("staging_etag", sa.Text(), nullable=False),
        sa.Column("final_key", sa.Text(), nullable=True),
        sa.Column("final_etag", sa.Text(), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("added", sa.BigInteger(), nullable=True),
        sa.Column("removed", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind in ('final', 'dead_letter')", name="files_kind"),
        sa.CheckConstraint(
            "state <> 'live' or (final_key is not null and final_etag is not null and added is not null)",
            name="files_live",
        ),
        sa.CheckConstraint("state in ('staged', 'live', 'superseded', 'aborted')", name="files_state"),
        sa.ForeignKeyConstraint(
            ["batch"],
            ["batches.number"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("final_key"),
    )
    op.create_index(op.f("ix_files_batch"), "files", ["batch"], unique=False)
    op.create_index(op.f("ix_files_dataset_added"), "files", ["dataset", "added"], unique=False)
    op.create_index(op.f("ix_files_dataset_hour"), "files", ["dataset", "hour"], unique=False)
    op.create_index(op.f("ix_files_dataset_removed"), "files", ["dataset", "removed"], unique=False)
