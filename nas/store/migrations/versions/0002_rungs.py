"""What candidates scored at rungs; the view shows stopped ones with the epochs they reached."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TRADEOFFS = """
CREATE VIEW tradeoffs AS
SELECT s.name AS study, t.number AS trial, t.state AS state, t.pattern AS pattern,
       t.fingerprint AS fingerprint, t.accuracy AS accuracy, t.params AS params, t.macs AS macs,
       t.latency_ms AS latency_ms, COALESCE(t.latency_device, t.device) AS device,
       t.epochs AS epochs, t.seconds AS seconds
FROM nas_trials t JOIN nas_studies s ON s.id = t.study_id
WHERE t.state IN ('finished', 'reused', 'stopped')
"""


def upgrade() -> None:
    op.execute("DROP VIEW tradeoffs")
    op.add_column("nas_trials", sa.Column("rungs", sa.JSON()))
    op.execute(TRADEOFFS)
