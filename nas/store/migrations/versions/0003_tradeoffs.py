"""The view of the trade-offs has evaluations that came to their end, and no others."""

from alembic import op

revision = "0003"
down_revision = "0002"

# A trial that was stopped at a rung has the accuracy of fewer epochs: beside the others it would be
# taken for worse than it is.
TRADEOFFS = """
CREATE VIEW tradeoffs AS
SELECT s.name AS study, t.number AS trial, t.state AS state, t.pattern AS pattern,
       t.fingerprint AS fingerprint, t.accuracy AS accuracy, t.params AS params, t.macs AS macs,
       COALESCE(l.ms, t.latency_ms) AS latency_ms,
       COALESCE(t.latency_device, t.device) AS device, t.epochs AS epochs, t.seconds AS seconds
FROM nas_trials t JOIN nas_studies s ON s.id = t.study_id
LEFT JOIN nas_latencies l ON l.fingerprint = t.fingerprint AND l.device = t.latency_device
     AND l.runtime = 'eager' AND l.batch = 1
WHERE t.state IN ('finished', 'reused')
"""


def upgrade() -> None:
    op.execute("DROP VIEW tradeoffs")
    op.execute(TRADEOFFS)
