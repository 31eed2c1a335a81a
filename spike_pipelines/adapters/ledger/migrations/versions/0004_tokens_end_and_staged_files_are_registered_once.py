"""Tokens have a number, an end and a last use; a staged object is registered once"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False))
    op.add_column("tokens", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tokens", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint("tokens_id_key", "tokens", ["id"])
    op.create_unique_constraint("files_staging_key_key", "files", ["staging_key"])
    op.drop_index("ix_files_dataset_removed", "files")
    op.create_index(
        "ix_files_dataset_removed",
        "files",
        ["dataset", "removed"],
        postgresql_where=sa.text("removed is not null"),
    )
