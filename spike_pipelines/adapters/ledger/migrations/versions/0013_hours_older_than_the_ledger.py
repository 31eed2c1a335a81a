"""Swaps that read an hour below where the spike began; how far a swap has read"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("swaps", sa.Column("records_so_far", sa.BigInteger()))
    op.drop_constraint("swaps_expected", "swaps")
    op.drop_constraint("swaps_kind", "swaps")
    op.create_check_constraint("swaps_expected", "swaps", "(kind = 'replay') = (records_expected is null)")
    op.create_check_constraint("swaps_kind", "swaps", "kind in ('replay', 'backfill', 'earlier')")
