"""Names of devices; packs that were handed out; profiles; what a measurement saw besides."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("nas_latencies", sa.Column("busy", sa.Double()))
    op.add_column("nas_latencies", sa.Column("peak_bytes", sa.BigInteger()))
    op.create_table(
        "nas_devices",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_nas_devices"),
    )
    op.create_index("ix_nas_devices_name", "nas_devices", ["name"])
    op.create_table(
        "nas_packs",
        sa.Column("pack", sa.String(64), nullable=False),
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("networks", sa.JSON(), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("pack", name="pk_nas_packs"),
        sa.ForeignKeyConstraint(["study_id"], ["nas_studies.id"], name="fk_nas_packs_study_id"),
    )
    op.create_table(
        "nas_profiles",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("runtime", sa.String(32), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device", "runtime", "batch", name="pk_nas_profiles"),
    )
