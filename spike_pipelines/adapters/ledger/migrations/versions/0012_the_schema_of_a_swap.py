"""With which schema a swap's files were written"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("swaps", sa.Column("schema", sa.Text()))
