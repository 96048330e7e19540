"""What the images of a study are; latencies as rows of their own; weights that are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TRADEOFFS = """
CREATE VIEW tradeoffs AS
SELECT s.name AS study, t.number AS trial, t.state AS state, t.pattern AS pattern,
       t.fingerprint AS fingerprint, t.accuracy AS accuracy, t.params AS params, t.macs AS macs,
       COALESCE(l.ms, t.latency_ms) AS latency_ms,
       COALESCE(t.latency_device, t.device) AS device, t.epochs AS epochs, t.seconds AS seconds
FROM nas_trials t JOIN nas_studies s ON s.id = t.study_id
LEFT JOIN nas_latencies l ON l.fingerprint = t.fingerprint AND l.device = t.latency_device
     AND l.runtime = 'eager' AND l.batch = 1
WHERE t.state IN ('finished', 'reused', 'stopped')
"""

# Of several measurements of one architecture on one device the first stands.
MEASURED = """
INSERT INTO nas_latencies (fingerprint, device, runtime, batch, ms, low, high, measured)
SELECT t.fingerprint, t.latency_device, 'eager', 1, t.latency_ms,
       COALESCE(t.latency_low, t.latency_ms), COALESCE(t.latency_high, t.latency_ms),
       COALESCE(t.finished, t.created)
FROM nas_trials t JOIN
     (SELECT MIN(id) AS id FROM nas_trials
      WHERE latency_device IS NOT NULL AND latency_ms IS NOT NULL
      GROUP BY fingerprint, latency_device) first ON first.id = t.id
"""


def upgrade() -> None:
    for name in ("images", "images_about", "directory"):
        column = sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''"))
        op.add_column("nas_studies", column)
    op.create_table(
        "nas_latencies",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("runtime", sa.String(32), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("ms", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("measured", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "fingerprint", "device", "runtime", "batch", name="pk_nas_latencies"
        ),
    )
    op.execute(MEASURED)
    op.execute("UPDATE nas_trials SET latency_ms = NULL WHERE latency_device IS NOT NULL")
    op.add_column("nas_trials", sa.Column("model", sa.Text()))
    op.execute("DROP VIEW tradeoffs")
    op.drop_column("nas_trials", "latency_low")
    op.drop_column("nas_trials", "latency_high")
    op.execute(TRADEOFFS)
