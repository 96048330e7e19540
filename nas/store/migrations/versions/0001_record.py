"""The record: studies, trials, attempts, curves, and the view of the trade-offs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# One row for each finished evaluation; one that was taken over from an earlier study is a row of
# the study that asked for it too, told apart by its state, and cost that study no seconds. One that
# was stopped at a rung has the epochs that it reached.
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
    op.create_table(
        "nas_studies",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("space_text", sa.Text(), nullable=False),
        sa.Column("objectives", sa.JSON(), nullable=False),
        sa.Column("constraints", sa.JSON(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("sampler", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("numbers", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nas_studies"),
        sa.UniqueConstraint("name", name="uq_nas_studies_name"),
    )
    op.create_table(
        "nas_trials",
        sa.Column("id", KEY, nullable=False),
        sa.Column("study_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ask", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sampled", sa.JSON(), nullable=False),
        sa.Column("distributions", sa.JSON(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("macs", sa.BigInteger(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("job_key", sa.String(64), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("rungs", sa.JSON()),
        sa.Column("accuracy", sa.Double()),
        sa.Column("latency_ms", sa.Double()),
        sa.Column("latency_low", sa.Double()),
        sa.Column("latency_high", sa.Double()),
        sa.Column("latency_device", sa.Text()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("failure", sa.String(32)),
        sa.Column("reason", sa.Text()),
        sa.Column("seconds", sa.Double()),
        sa.Column("device", sa.Text()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("finished", sa.Double()),
        sa.Column("reused_from", KEY),
        sa.PrimaryKeyConstraint("id", name="pk_nas_trials"),
        sa.UniqueConstraint("ask", name="uq_nas_trials_ask"),
        sa.UniqueConstraint("study_id", "number", name="uq_nas_trials_study_id_number"),
        sa.ForeignKeyConstraint(["study_id"], ["nas_studies.id"], name="fk_nas_trials_study_id"),
        sa.ForeignKeyConstraint(
            ["reused_from"], ["nas_trials.id"], name="fk_nas_trials_reused_from"
        ),
    )
    op.create_index("ix_nas_trials_reuse", "nas_trials", ["fingerprint", "job_key"])
    op.create_index("ix_nas_trials_state", "nas_trials", ["study_id", "state", "number"])
    op.create_table(
        "nas_attempts",
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double()),
        sa.Column("failure", sa.String(32)),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("token", name="pk_nas_attempts"),
        sa.UniqueConstraint("trial_id", "number", name="uq_nas_attempts_trial_id_number"),
        sa.ForeignKeyConstraint(["trial_id"], ["nas_trials.id"], name="fk_nas_attempts_trial_id"),
    )
    op.create_index(
        "ix_nas_attempts_running",
        "nas_attempts",
        ["trial_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "nas_curves",
        sa.Column("trial_id", KEY, nullable=False, autoincrement=False),
        sa.Column("epochs", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("trial_id", name="pk_nas_curves"),
        sa.ForeignKeyConstraint(["trial_id"], ["nas_trials.id"], name="fk_nas_curves_trial_id"),
    )
    op.execute(TRADEOFFS)
