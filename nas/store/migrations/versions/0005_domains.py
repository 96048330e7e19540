"""Where parameters are drawn from, once a study; the trials that have it keep it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    column = sa.Column("domains", sa.Text(), nullable=False, server_default=sa.text("'{}'"))
    op.add_column("nas_studies", column)
