"""The engine's own last sign of life: a heartbeat may outlive it"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("epochs", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))
